module github.com/isonomia-mesh/isonomia/examples/stafftracker/roomservice

go 1.26.0
