// Command stub stands in for isonomia in the tests of testcluster itself: it has
// an agent, a keeper that outlives it, and the commands that the library calls.
// It decides nothing. What it runs and says comes from two files in its data
// directory: services.json and world.json.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// run is one service of services.json.
type run struct {
	Program string
	Env     []string
}

func main() {
	var err error
	switch command := os.Args[1]; command {
	case "agent":
		err = agent(os.Args[2:])
	case "keeper":
		err = keeper(os.Args[2])
	case "token":
		fmt.Println("token-of-the-stub")
	default:
		err = query(command)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stub:", err)
		os.Exit(1)
	}
}

func agent(args []string) error {
	flags := flag.NewFlagSet("agent", flag.ExitOnError)
	dir := flags.String("data", "", "")
	name := flags.String("name", "", "")
	flags.String("bind", "", "")
	flags.Bool("bootstrap", false, "")
	flags.String("join", "", "")
	token := flags.String("token-file", "", "")
	exit := flags.Bool("exit", false, "")
	syncs := flags.Int("sync", 0, "")
	flags.Parse(args)
	fmt.Println("agent", *name, "starts")
	if *exit {
		return fmt.Errorf("told to exit")
	}
	if secret, err := os.ReadFile(*token); *token != "" && (err != nil || string(secret) != "token-of-the-stub") {
		return fmt.Errorf("bad token %q: %v", secret, err)
	}
	if err := startKeeper(*dir); err != nil {
		return err
	}
	if err := syncOften(*dir, *syncs); err != nil {
		return err
	}
	socket := filepath.Join(*dir, "api.sock")
	os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, answer(*dir, filepath.Base(r.URL.Path)))
	}))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	<-signals
	return os.Remove(socket)
}

// syncOften syncs n times, each time from another thread if it can.
func syncOften(dir string, n int) error {
	for i := range n {
		done := make(chan error)
		go func() {
			f, err := os.Create(filepath.Join(dir, "synced"))
			if err == nil {
				fmt.Fprint(f, i+1)
				err = f.Sync()
			}
			f.Close()
			done <- err
		}()
		if err := <-done; err != nil {
			fmt.Println("sync", i+1, "failed:", err)
		}
	}
	return nil
}

func startKeeper(dir string) error {
	socket := filepath.Join(dir, "keeper.sock")
	if conn, err := net.Dial("unix", socket); err == nil {
		return conn.Close()
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "keeper", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for range 500 {
		if conn, err := net.Dial("unix", socket); err == nil {
			return conn.Close()
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("keeper does not answer")
}

func keeper(dir string) error {
	var services []run
	if content, err := os.ReadFile(filepath.Join(dir, "services.json")); err == nil {
		if err := json.Unmarshal(content, &services); err != nil {
			return err
		}
	}
	var cmds []*exec.Cmd
	for _, s := range services {
		cmd := exec.Command(s.Program)
		cmd.Env = s.Env
		if err := cmd.Start(); err != nil {
			return err
		}
		cmds = append(cmds, cmd)
	}
	socket := filepath.Join(dir, "keeper.sock")
	os.Remove(socket)
	if _, err := net.Listen("unix", socket); err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	<-signals
	for _, cmd := range cmds {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}
	return os.Remove(socket)
}

// query prints what an agent that lives would say.
func query(command string) error {
	socket := os.Getenv("ISONOMIA_NODE")
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	conn.Close()
	fmt.Println(answer(filepath.Dir(socket), command))
	return nil
}

// answer is what world.json has under a name.
func answer(dir, name string) string {
	world := map[string]json.RawMessage{
		"members": json.RawMessage(`{"members":[{"name":"n1","status":"alive"}]}`),
		"status":  json.RawMessage(`{"leader":"n1","settled":true}`),
		"ports":   json.RawMessage(`[]`),
	}
	if content, err := os.ReadFile(filepath.Join(dir, "world.json")); err == nil {
		if err := json.Unmarshal(content, &world); err != nil {
			return err.Error()
		}
	}
	return string(world[name])
}
