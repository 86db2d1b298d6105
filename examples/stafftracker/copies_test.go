package stafftracker

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "copy shared files from the first directory that has them to the others")

// shared are the files that several services have in common. A package is
// one directory and nothing outside it, so that a change to one service
// leaves all others as they are; the price is that these are copies.
var shared = []struct {
	files, services []string
}{
	{[]string{"serve.go"}, []string{"rooms", "staff", "zipcodes", "roomservice", "staffservice", "zipcodeservice", "stafftracker", "proxy"}},
	{[]string{"reply.go"}, []string{"rooms", "staff", "zipcodes", "roomservice", "staffservice", "zipcodeservice"}},
	{[]string{"upstream.go"}, []string{"roomservice", "staffservice", "zipcodeservice", "stafftracker"}},
	{[]string{"answer.go"}, []string{"roomservice", "staffservice", "zipcodeservice"}},
	{[]string{"main.go", "open.go", "rows.go", "handler.go", "build.sh", "go.sum"}, []string{"rooms", "staff", "zipcodes"}},
}

// TestCopies keeps them equal: go test -run TestCopies -update . copies.
func TestCopies(t *testing.T) {
	for _, s := range shared {
		for _, file := range s.files {
			want := read(t, s.services[0], file)
			for _, service := range s.services[1:] {
				if bytes.Equal(want, read(t, service, file)) {
					continue
				}
				if !*update {
					t.Errorf("%s/%s differs from %s/%s", service, file, s.services[0], file)
				} else if err := os.WriteFile(filepath.Join(service, file), want, 0o644); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

func read(t *testing.T, service, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(service, file))
	if err != nil && !(*update && os.IsNotExist(err)) {
		t.Fatal(err)
	}
	return b
}
