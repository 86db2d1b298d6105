module github.com/isonomia-mesh/isonomia/examples/tcpproxy/tcp-proxy

go 1.26.0
