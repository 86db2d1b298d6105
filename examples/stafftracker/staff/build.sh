#!/bin/sh
# Builds this data service: sh build.sh OUT
#
# SQLite is nearly all there is to compile. Its package is built without
# optimisation (gcflags), and the compiler's memory is collected less often
# (GOGC): a cold build then takes a third of the processor time, and a table
# of twenty rows does not notice. CGO_ENABLED=0 makes a static program that
# runs on every node.
set -eu
out=$1
mkdir -p "$out/bin" "$out/sql"
CGO_ENABLED=0 GOGC=300 go build -buildvcs=false -ldflags='-s -w' \
	-gcflags='github.com/ncruces/go-sqlite3-wasm/...=-N -l' -o "$out/bin/dataservice" .
cp sql/*.sql "$out/sql/"
