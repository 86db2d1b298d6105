// Package stafftracker holds only tests: of the eight services together, and
// of what the eight directories promise each other. Each directory is a Go
// module and a package of its own, with its own tests.
package stafftracker
