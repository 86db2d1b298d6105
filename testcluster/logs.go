//go:build linux

package testcluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// KeepEnv, set to anything, leaves the directory of a cluster behind.
const KeepEnv = "ISONOMIA_TEST_KEEP"

// How much a failed test prints: lines per agent, events of the journal.
const (
	reportLines  = 60
	reportEvents = 200
)

// LogFile is where the output of all agents of this node goes.
func (n *Node) LogFile() string { return filepath.Join(n.dir, "agent.log") }

// LogTail is the end of the agent's output.
func (n *Node) LogTail(lines int) string {
	content, err := os.ReadFile(n.LogFile())
	if err != nil {
		return err.Error()
	}
	return tail(content, lines)
}

func tail(content []byte, lines int) string {
	all := bytes.Split(bytes.TrimRight(content, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// report prints what helps to understand a failure.
func (c *Cluster) report() {
	c.t.Helper()
	var b strings.Builder
	if c.observer != nil {
		events := c.observer.Events()
		fmt.Fprintf(&b, "=== the last of %d events\n", len(events))
		for _, e := range events[max(0, len(events)-reportEvents):] {
			fmt.Fprintln(&b, e)
		}
	}
	for _, n := range c.nodes {
		if n.everStarted() {
			fmt.Fprintf(&b, "=== agent of %s\n%s\n", n.Name, n.LogTail(reportLines))
		}
	}
	if s := c.hostLog.String(); s != "" {
		fmt.Fprintf(&b, "=== hosts\n%s\n", s)
	}
	if os.Getenv(KeepEnv) != "" {
		fmt.Fprintf(&b, "=== kept: %s\n", c.dir)
	}
	c.t.Log(b.String())
}
