module github.com/isonomia-mesh/isonomia/examples/stafftracker/staffservice

go 1.26.0
