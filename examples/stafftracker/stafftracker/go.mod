module github.com/isonomia-mesh/isonomia/examples/stafftracker/stafftracker

go 1.26.0
