// Command isonomia runs a node of a cluster and talks to one.
package main

import (
	"os"

	"github.com/isonomia-mesh/isonomia/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
