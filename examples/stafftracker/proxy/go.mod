module github.com/isonomia-mesh/isonomia/examples/stafftracker/proxy

go 1.26.0
