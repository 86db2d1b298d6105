module github.com/isonomia-mesh/isonomia/examples/stafftracker

go 1.26.0
