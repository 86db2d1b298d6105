# `make help` lists the targets. `make test` and `make demo` work on a bare Debian machine with Go.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
export CGO_ENABLED ?= 0
BIN := bin/isonomia

# Programs that tests use on real machines: network namespaces, packet filter, system call faults, and the servers and
# tools whose state is kept. Each as program:package.
TOOLS := ip:iproute2 nft:nftables strace:strace nsenter:util-linux pgrep:procps \
  initdb:postgresql mariadbd:mariadb-server-core mariadb-dump:mariadb-client git:git svnadmin:subversion redis-server:redis-server

# What benchmarks compare with.
bench: TOOLS += rsync:rsync restic:restic borg:borgbackup

.PHONY: help build test check lint race bench fuzz demo soak deps clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/isonomia
	go build -trimpath -ldflags "-s -w -X github.com/isonomia-mesh/isonomia/node.Version=$(VERSION)" -o $(BIN) .

deps: ## install by apt what the tests need and this machine lacks
	@missing=(); dirs=$$(echo /usr/lib/postgresql/*/bin | tr ' ' :); for p in $(TOOLS); do \
	  PATH=$$PATH:/usr/sbin:/sbin:$$dirs command -v $${p%%:*} >/dev/null || missing+=($${p##*:}); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	    echo "missing: $${missing[*]} (install them, or run as root on Debian); tests that need them are skipped, but on CI"; \
	  else echo "installing by apt: $${missing[*]}"; apt-get -q update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qy install $${missing[*]} >/dev/null; fi; fi

test: deps check ## everything that CI runs: vet, unit, property and cluster tests of all modules
	go test -timeout 20m $$(go list ./... | grep -v '/testcluster$$')
	go test -timeout 20m -parallel 3 ./testcluster # clusters wait more than they compute
	for m in $$(find examples -name go.mod -exec dirname {} \; | sort); do (cd $$m && go vet ./... && go test -timeout 10m ./...); done

check: ## formatting, vet, the architecture
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt -w needed: $$out"; exit 1; fi
	go vet ./...
	go test -run 'TestImports|TestModelIsPure|TestMainIsThin' .

lint: ## what golangci-lint finds beyond vet (.golangci.yml says which linters and why)
	@command -v golangci-lint >/dev/null || { echo "golangci-lint is missing: go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0"; exit 1; }
	golangci-lint run ./...

race: deps ## all tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -timeout 40m ./...

bench: deps build ## benchmarks, compared as ratios in one run
	go test -run '^$$' -bench . -benchtime 1s -timeout 60m ./...

FUZZTIME ?= 20s
# go's fuzzer fails now and then with "context deadline exceeded" at the end of its time, with no failing input: golang/go#75804.
fuzz: ## every fuzz target for FUZZTIME (default 20s)
	@log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	for pkg in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	  echo "== $$pkg $$f"; if ! go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x $$pkg | tee $$log; then \
	    grep -q 'context deadline exceeded' $$log && ! grep -q 'Failing input\|panic:' $$log || exit 1; fi; done; done

soak: deps build ## the long suites: every crash point of deployments and of moves of each kind of state, 50 partitions, 200 kills, 200 services reconstructed, a large database, many simulated systems and histories, 200 followers, an hour of load (ISONOMIA_SOAK_FOR=1h)
	ISONOMIA_SOAK=1 go test -timeout 4h -v -run 'TestSimulation|TestManyFollowers|TestHistories' ./raftfsm
	ISONOMIA_SOAK=1 go test -timeout 1h -v -run TestLarge ./activate/postgresql
	ISONOMIA_SOAK=1 go test -timeout 12h -v -run 'TestCrashPoints|TestStateMovesThroughDeaths|TestBadDump|TestPartitions|TestKillRounds|TestReconstruct|TestSoak' ./testcluster

demo: build ## a three-node cluster here: StaffTracker, leader killed, upgraded through another node
	go run ./testcluster/demo -bin $(BIN)

clean: ## remove what was built
	rm -rf bin
