package node

import (
	"os"
	"strings"
	"testing"
)

// The unit in the repository is what the agent prints for an ordinary installation.
func TestUnitFile(t *testing.T) {
	b, err := os.ReadFile("../docs/isonomia.service")
	if err != nil {
		t.Fatal(err)
	}
	want := PrintUnit("/usr/local/bin/isonomia", "/var/lib/isonomia")
	if string(b) != want {
		t.Errorf("docs/isonomia.service is not what --print-unit prints; write it anew:\n%s", want)
	}
	for _, line := range []string{"KillMode=process", "Delegate=yes", "Restart=always"} {
		if !strings.Contains(want, "\n"+line+"\n") {
			t.Errorf("the unit lacks %s", line)
		}
	}
}
