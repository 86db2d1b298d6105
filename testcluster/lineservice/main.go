// Command lineservice is a service that keeps lines in a server that another service provides, through the server's own
// client program.
//
// Environment: HOST, PORT, where to listen; ADD, a shell command that keeps $LINE, and exits with 0 only when it will be there
// whatever dies; LIST, one that prints all lines; VERSION, ISONOMIA_SERVICE and ISONOMIA_NODE, who answers. Served: /state
// (GET lists the lines, POST adds one), /healthz, and for anything else one line that says who answers.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"
)

const (
	maxLine = 1 << 10          // bytes
	timeout = 20 * time.Second // of a command
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, r *http.Request) { answer(w, r, "LIST", "") })
	mux.HandleFunc("POST /state", func(w http.ResponseWriter, r *http.Request) {
		line, err := io.ReadAll(io.LimitReader(r.Body, maxLine))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, r, "ADD", string(line))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s\n", os.Getenv("ISONOMIA_SERVICE"), os.Getenv("VERSION"), os.Getenv("ISONOMIA_NODE"))
	})
	err := http.ListenAndServe(net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")), mux)
	fmt.Fprintln(os.Stderr, "lineservice:", err)
	os.Exit(1)
}

// answer runs the command that is in a variable, and answers with what it prints.
func answer(w http.ResponseWriter, r *http.Request, variable, line string) {
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-ec", os.Getenv(variable))
	cmd.Env = append(os.Environ(), "LINE="+line)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(out) // who has gone away does not hear it
}
