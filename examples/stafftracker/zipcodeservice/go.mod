module github.com/isonomia-mesh/isonomia/examples/stafftracker/zipcodeservice

go 1.26.0
