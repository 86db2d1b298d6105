package raftfsm

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

func benchState(b *testing.B, builds int) *model.State {
	b.Helper()
	s, _ := Apply(&model.State{}, 1, []model.Command{model.Init{Cluster: model.Cluster{ID: "c"}, Node: model.Node{ID: "n1"}}})
	for i := range builds {
		s, _ = Apply(s, uint64(i+2), []model.Command{set(fmt.Sprintf("%064d", i), "out")})
	}
	return s
}

// BenchmarkEntry is what one entry costs beside raft: encode, decode, apply.
func BenchmarkEntry(b *testing.B) {
	s := benchState(b, 1000)
	for i := range uint64(b.N) {
		entry, err := EncodeCommands([]model.Command{set(fmt.Sprintf("%064d", i%1000), "out")})
		if err != nil {
			b.Fatal(err)
		}
		cmds, err := DecodeCommands(entry)
		if err != nil {
			b.Fatal(err)
		}
		s, _ = Apply(s, i, cmds)
	}
}

func BenchmarkApply(b *testing.B) {
	s := benchState(b, 1000)
	cmds := []model.Command{set(fmt.Sprintf("%064d", 500), "out")}
	for i := range uint64(b.N) {
		s, _ = Apply(s, i, cmds)
	}
}

func BenchmarkCheckpoint(b *testing.B) {
	s := benchState(b, 10_000)
	for b.Loop() {
		if err := WriteState(io.Discard, s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPropose(b *testing.B) {
	c := grown(b, 3, nil)
	l := c.leader()
	for _, from := range []struct {
		name string
		m    *member
	}{{"leader", l}, {"follower", c.others(l)[0]}} {
		b.Run(from.name, func(b *testing.B) {
			for b.Loop() {
				c.propose(from.m, set("k", "v"))
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				c.propose(l, set("k", "v"))
			}
		})
	})
}

func BenchmarkRead(b *testing.B) {
	c := grown(b, 3, nil)
	l := c.leader()
	for _, from := range []struct {
		name string
		m    *member
	}{{"leader", l}, {"follower", c.others(l)[0]}} {
		b.Run(from.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := from.m.Read(c.ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFailover is from the crash of the leader to the next command that is answered.
func BenchmarkFailover(b *testing.B) {
	c := grown(b, 3, nil)
	var total time.Duration
	for range b.N {
		old := c.leader()
		began := time.Now()
		for other := range c.nodes {
			c.wires.cutLink(old.id, other)
		}
		rest := c.others(old)
		ctx, cancel := context.WithTimeout(c.ctx, patience)
		if _, err := rest[0].Propose(ctx, set("k", "v")); err != nil {
			b.Fatal(err)
		}
		cancel()
		total += time.Since(began)
		c.rejoin(old.id)
		c.leader()
		c.same()
	}
	b.ReportMetric(float64(total.Milliseconds())/float64(b.N), "ms/failover")
}
