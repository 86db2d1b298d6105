// Package tcpproxy holds only a test of the three services together. Each
// directory is a Go module and a package of its own, with its own tests.
package tcpproxy
