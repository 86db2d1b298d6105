//go:build linux

package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Observation is what the checkers look at: the world as the kernel, the file
// system and the observer show it, and next to it what State says.
type Observation struct {
	Nodes   []NodeWorld
	Events  []Event
	Holds   []Hold
	Dropped int // events that the observer had no room for

	// What the cluster says. Status is nil if nobody answers.
	Status *Status
	Ports  []Port
	// Settling is why what State says need not be true yet; empty if it must.
	Settling string
}

// NodeWorld is one node of an Observation.
type NodeWorld struct {
	Name      string
	On        bool   // switched on; if not, nothing below is filled
	Agent     bool   // its agent runs
	Died      string // how its agent ended though nobody ended it
	Polite    bool   // its last agent ended because it was asked to
	Processes []Process
	Listeners []Listener
	Files     []File
}

// File is one file of a node that could be litter: a socket, or temporary by name.
type File struct {
	Path   string // as the node sees it
	Socket bool
}

// Observe looks at everything. Nodes are looked at in parallel, each at one
// moment of its own.
func (c *Cluster) Observe() (Observation, error) {
	o := Observation{Nodes: make([]NodeWorld, len(c.nodes))}
	var mu sync.Mutex
	err := c.each(c.nodes, func(n *Node) error {
		w, err := n.World()
		mu.Lock()
		defer mu.Unlock()
		o.Nodes[n.index] = w
		return err
	})
	if err != nil {
		return o, fmt.Errorf("observe: %w", err)
	}
	o.Events, o.Holds, o.Dropped = c.observer.Events(), c.observer.Holds(), c.observer.Dropped()
	o.Settling = c.ask(&o)
	return o, nil
}

// ask fills in what the first node that answers says, having asked the leader,
// and returns why that need not hold yet.
func (c *Cluster) ask(o *Observation) string {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	var refused error
	for _, n := range c.Up() {
		s, err := n.api.Status(ctx, system, true)
		ports, portsErr := n.api.Ports(ctx)
		if err := errors.Join(err, portsErr); err != nil {
			refused = errors.Join(refused, fmt.Errorf("%s: %w", n.Name, err))
			continue
		}
		o.Status, o.Ports = &s, ports
		if !s.Settled {
			return fmt.Sprintf("generation %d is not settled: %s", s.Generation, phases(s))
		}
		return ""
	}
	return fmt.Sprintf("no agent answers: %v", refused)
}

// World looks at this node.
func (n *Node) World() (NodeWorld, error) {
	w := NodeWorld{Name: n.Name, Agent: n.agentAlive()}
	if a := n.lastAgent(); a != nil {
		w.Died = a.died()
		w.Polite = a.polite()
	}
	h, err := n.running()
	if err != nil {
		return w, nil
	}
	w.On = true
	if w.Processes, err = h.processes(); err != nil {
		return w, err
	}
	if w.Listeners, err = h.listeners(w.Processes); err != nil {
		return w, err
	}
	for _, dir := range append([]string{dataDir}, privateDirs...) {
		if err := litter(h, dir, &w.Files); err != nil {
			return w, err
		}
	}
	return w, nil
}

// litter collects sockets and temporary files below dir.
func litter(h *host, dir string, files *[]File) error {
	root := h.path(dir)
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if gone(err) {
				return nil
			}
			return err
		}
		inside := dir + strings.TrimPrefix(path, root)
		if d.IsDir() {
			if dir == "/run" && inside == nodeDir {
				return filepath.SkipDir // the disk is looked at by itself
			}
			return nil
		}
		socket := d.Type()&os.ModeSocket != 0
		if socket || isTemporary(d.Name()) {
			*files = append(*files, File{Path: inside, Socket: socket})
		}
		return nil
	})
}

// isTemporary says whether a name is one of a file that should not have stayed.
func isTemporary(name string) bool {
	return strings.Contains(name, ".tmp") || strings.HasSuffix(name, "~") || strings.HasSuffix(name, ".partial")
}

// Service lists the processes of a service, without those that they started. What
// the agent itself has started is asking after the service's health: services
// are the keeper's children.
func (w NodeWorld) Service(name string) (roots []Process) {
	byPID := map[int]Process{}
	for _, p := range w.Processes {
		byPID[p.PID] = p
	}
	for _, p := range w.Processes {
		if p.Service == name && !p.zombie() && byPID[p.PPID].Service != name && !byPID[p.PPID].isAgent() {
			roots = append(roots, p)
		}
	}
	return roots
}

// services are the names of all services that have a process here.
func (w NodeWorld) services() map[string]bool {
	names := map[string]bool{}
	for _, p := range w.Processes {
		if p.Service != "" && !p.zombie() {
			names[p.Service] = true
		}
	}
	return names
}
