//go:build linux

package testcluster

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Packages are the Debian packages that clusters need beyond the base system.
var Packages = []string{"iproute2", "nftables"}

// Require skips the test, saying why, where no cluster can be made: not root,
// no namespaces, or one of Packages is missing. With CI=true it fails instead,
// so that a test run in which nothing was tested is not green.
func Require(t testing.TB) {
	t.Helper()
	reason := missing()
	switch {
	case reason == "":
	case os.Getenv("CI") == "true":
		t.Fatalf("no test cluster here: %s", reason)
	default:
		t.Skipf("no test cluster here: %s", reason)
	}
}

// missing is why this machine cannot hold a cluster; empty if it can.
func missing() string {
	if os.Geteuid() != 0 {
		return "making network namespaces needs root"
	}
	var programs []string
	for _, p := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(p); err != nil {
			programs = append(programs, p)
		}
	}
	if len(programs) > 0 {
		return "no " + strings.Join(programs, ", ") + ": apt-get install " + strings.Join(Packages, " ")
	}
	err := insideNew(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
	if err != nil {
		return "making namespaces: " + err.Error()
	}
	return ""
}
