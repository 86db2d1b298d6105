module github.com/isonomia-mesh/isonomia/examples/tcpproxy/hello-world-server

go 1.26.0
