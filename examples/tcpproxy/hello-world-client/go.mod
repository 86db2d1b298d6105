module github.com/isonomia-mesh/isonomia/examples/tcpproxy/hello-world-client

go 1.26.0
