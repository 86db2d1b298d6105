module github.com/isonomia-mesh/isonomia/examples/tcpproxy

go 1.26.0
