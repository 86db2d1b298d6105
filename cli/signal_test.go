package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// startMain runs Main in a process of its own, following the events of n, and returns once it does.
func startMain(t *testing.T) *exec.Cmd {
	t.Helper()
	n := newFakeNode(t)
	following := make(chan struct{})
	n.mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(api.Event{Message: "hello"})
		w.(http.Flusher).Flush()
		close(following)
		<-r.Context().Done()
	})
	cmd := exec.Command(os.Args[0], "main", "events", "-f", "--node", n.socket)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-following
	return cmd
}

func TestSignalsEndItInOrder(t *testing.T) {
	t.Parallel()
	for _, signals := range [][]syscall.Signal{{syscall.SIGINT}, {syscall.SIGTERM}, {syscall.SIGTERM, syscall.SIGTERM, syscall.SIGTERM}} {
		cmd := startMain(t)
		for _, sig := range signals {
			_ = cmd.Process.Signal(sig) // it may have ended after the first
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", signals, err)
		}
	}
}
