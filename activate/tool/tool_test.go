package tool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	t.Parallel()
	out, err := Output(t.Context(), Command{Program: "/bin/sh", Args: []string{"-c", `cat; echo "$X:$HOME:$TZ:$0" "$PWD"`}, Env: []string{"X=y"}, Stdin: strings.NewReader("in ")})
	if err != nil || out != "in y:/nonexistent:UTC:/bin/sh /\n" {
		t.Errorf("%q, %v", out, err)
	}
	_, err = Output(t.Context(), Command{Program: "sh", Args: []string{"-c", "yes long errors | head -c 100000 >&2; echo the end >&2; exit 3"}})
	var failed *Error
	var exit *exec.ExitError
	if !errors.As(err, &failed) || !errors.As(err, &exit) || exit.ExitCode() != 3 || len(err.Error()) > 4*maxStderr || !strings.HasSuffix(err.Error(), "the end") {
		t.Errorf("%v", err)
	}
	if _, err := Output(t.Context(), Command{Program: "sh", Args: []string{"-c", "head -c 1048577 /dev/zero"}}); err == nil || !strings.Contains(err.Error(), "1048576") {
		t.Errorf("too much output: %v", err)
	}
	if _, err := Output(t.Context(), Command{Program: "no-such-program", Dirs: []string{"/nowhere"}}); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("%v", err)
	}
}

// TestTimeoutKillsTheGroup ends a program whose child would go on, and hold its output open.
func TestTimeoutKillsTheGroup(t *testing.T) {
	t.Parallel()
	mark := filepath.Join(t.TempDir(), "mark")
	began := time.Now()
	_, err := Output(t.Context(), Command{Program: "sh", Args: []string{"-c", "(sleep 3; touch " + mark + ") & echo waiting >&2; wait"}, Timeout: 300 * time.Millisecond})
	if !errors.Is(err, errTimeout) || !strings.Contains(err.Error(), "300ms") || !strings.Contains(err.Error(), "waiting") {
		t.Errorf("%v", err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("after %v", d)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("changed my mind"))
	if _, err := Output(ctx, Command{Program: "sleep", Args: []string{"10"}}); err == nil {
		t.Error("ran with an ended context")
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the child went on")
	}
}

// TestMain makes the test binary one that runs a program: `BINARY run PROGRAM ARG...`.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "run" {
		fmt.Println(Run(context.Background(), Command{Program: os.Args[2], Args: os.Args[3:]}))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestProgramDiesWithAgent: what an agent that is killed was running does not outlive it.
func TestProgramDiesWithAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	agent := exec.Command("/proc/self/exe", "run", "/bin/sh", "-c", "cd "+dir+"; echo $$ > pid.new; mv pid.new pid; exec sleep 1000")
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	pid := await(t, func() (int, error) {
		b, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(string(b)))
	})
	_ = agent.Process.Kill()
	_ = agent.Wait()
	await(t, func() (int, error) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !bytes.Contains(b, []byte(") Z ")) {
			return 0, fmt.Errorf("%s", b)
		}
		return 0, nil
	})
}

func await(t *testing.T, try func() (int, error)) int {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // between two looks
		v, err := try()
		if err == nil {
			return v
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
