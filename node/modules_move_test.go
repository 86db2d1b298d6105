package node

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// movingModel has a service of each type that needs no server of others, and a program that uses their paths. Only the first is
// pinned.
const movingModel = `
service "papers" {
  type     = "fileset"
  settings = { stateDirs = "in" }
}

service "repo" {
  type     = "git-repository"
  settings = { gitDefaultBranch = "trunk" }
}

service "svn" {
  type = "subversion-repository"
}

service "cache" {
  type = "redis"
  port "main" {}
}

service "user" {
  type       = "process"
  depends_on = ["papers", "repo", "svn", "cache"]
  run {
    command = ["sh", "-ec", <<-EOT
      test -w $PAPERS/in
      git --git-dir=$REPO symbolic-ref HEAD
      test -r $SVN/format
      exec sleep 1000
    EOT
    ]
    env = {
      PAPERS = dep.papers.path
      REPO   = dep.repo.path
      SVN    = dep.svn.path
      CACHE  = "${dep.cache.host}:${dep.cache.port.main}"
      GIT_CONFIG_COUNT = 1, GIT_CONFIG_KEY_0 = "safe.directory", GIT_CONFIG_VALUE_0 = "*"
    }
  }
}

distribution {
  pin = { papers = [%[1]q], cache = [%[1]q] }
}
`

// TestModulesMove writes into states of each type, and finds it on the next node.
func TestModulesMove(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"git", "svn", "svnadmin", "redis-server"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	n1 := startNode(t, "n1", nil)
	n2 := startNode(t, "n2", n1)
	n1.deploy(fmt.Sprintf(movingModel, "n1"), nil)
	env := userEnv(t, n1, n1)
	writeAll(t, env, "one")
	n2.deploy(fmt.Sprintf(movingModel, "n2"), nil)
	env = userEnv(t, n1, n2)
	if got, want := readAll(t, env), "one one one one"; got != want {
		t.Errorf("on n2: %q", got)
	}
	writeAll(t, env, "two")
	n1.deploy(fmt.Sprintf(movingModel, "n1"), nil) // to where an old copy is
	if got, want := readAll(t, userEnv(t, n1, n1)), "two two two two"; got != want {
		t.Errorf("on n1 again: %q", got)
	}
}

// userEnv is what the program was given: all of it on one node.
func userEnv(t *testing.T, from, at *testNode) map[string]string {
	t.Helper()
	var env map[string]string
	for _, r := range from.fsm.State().SystemRows("default") {
		if r.Obsolete {
			continue
		}
		if r.Node != at.id.ID || r.Phase != model.Active {
			t.Fatalf("%s is %s on %s", r.Service, r.Phase, r.Node)
		}
		if r.Service == "user" {
			env = r.Spec.Env
		}
	}
	if !strings.HasPrefix(env["PAPERS"], string(at.dir)) {
		t.Fatalf("the environment is %q", env)
	}
	return env
}

func command(t *testing.T, stdin, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", program, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// writeAll puts a text into all four.
func writeAll(t *testing.T, env map[string]string, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(env["PAPERS"], "in", "paper"), []byte(text), 0o660); err != nil {
		t.Fatal(err)
	}
	git := "--git-dir=" + env["REPO"]
	commit := command(t, text, "git", git, "commit-tree", command(t, "", "git", git, "mktree"))
	command(t, "", "git", git, "update-ref", "refs/heads/trunk", commit)
	command(t, "", "svn", "mkdir", "--quiet", "--message", text, "file://"+env["SVN"]+"/"+text)
	if got := cache(t, env, "SET", "key", text); got != "+OK" {
		t.Fatal(got)
	}
}

// readAll gives what is in each.
func readAll(t *testing.T, env map[string]string) string {
	t.Helper()
	paper, err := os.ReadFile(filepath.Join(env["PAPERS"], "in", "paper"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join([]string{string(paper), command(t, "", "git", "--git-dir="+env["REPO"], "log", "-1", "--format=%s", "trunk"),
		command(t, "", "svnlook", "log", env["SVN"]), cache(t, env, "GET", "key")}, " ")
}

// cache asks the Redis server and gives the first line of its answer, or the text that it announces.
func cache(t *testing.T, env map[string]string, words ...string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", env["CACHE"], 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "%s\r\n", strings.Join(words, " "))
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if n, sized := strings.CutPrefix(strings.TrimSpace(line), "$"); sized && err == nil {
		if _, err := strconv.Atoi(n); err == nil {
			line, _ = in.ReadString('\n')
		}
	}
	return strings.TrimSpace(line)
}
