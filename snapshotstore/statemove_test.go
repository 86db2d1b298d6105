package snapshotstore

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkMove moves a state of one 1 GiB file (256 MiB with -short) of which
// one per cent changed since the warm copy, in three shapes: what the pause of
// a move consists of here (the snapshot, its transfer, its restore), and what
// is sent for a byte that changed. Beside it rsync, where it is installed,
// brings the same change to a copy of the file.
func BenchmarkMove(b *testing.B) {
	size := int64(1 << 30)
	if testing.Short() {
		size >>= 2
	}
	for _, shape := range []string{"range", "inserts", "pages"} {
		b.Run(shape, func(b *testing.B) {
			sum := map[string]time.Duration{}
			var sent, rsynced, changed uint64
			for b.Loop() {
				m := newMove(b, size)
				m.hop(b, RestoreOptions{Warm: true})
				m.rsync(b)
				changed += m.change(b, shape)
				age(b, m.dir)
				steps, n := m.hop(b, RestoreOptions{})
				steps["pause"] = steps["snapshot"] + steps["fetch"] + steps["restore"]
				sent += n
				n, steps["rsync"] = m.rsync(b)
				rsynced += n
				for step, d := range steps {
					sum[step] += d
				}
				check(b, os.RemoveAll(m.base))
			}
			b.ReportMetric(float64(sent)/float64(changed), "sent/changed")
			b.ReportMetric(float64(rsynced)/float64(changed), "rsync-sent/changed")
			for step, d := range sum {
				b.ReportMetric(d.Seconds()/float64(b.N), step+"-s")
			}
		})
	}
}

// move is a service with one file on its way between two stores.
type move struct {
	base, dir, dest string
	from, to        *Store
	older           []ID // of the last hop
	rnd             *rand.Rand
}

func newMove(b *testing.B, size int64) *move {
	base := outDir(b)
	m := &move{base: base, dir: filepath.Join(base, "service"), dest: filepath.Join(base, "moved"), rnd: rand.New(rand.NewPCG(1, 1))}
	m.from = openStore(b, filepath.Join(base, "from"), Options{Keys: [][32]byte{testKey}})
	m.to = openStore(b, filepath.Join(base, "to"), Options{Keys: [][32]byte{testKey}})
	check(b, os.Mkdir(m.dir, 0o755))
	f, err := os.Create(filepath.Join(m.dir, "db"))
	check(b, err)
	for at := int64(0); at < size; at += 1 << 20 {
		_, err := f.WriteString(noise(uint64(at>>20), 1<<20))
		check(b, err)
	}
	check(b, f.Close())
	age(b, m.dir)
	return m
}

// hop is one round: snapshot, transfer, restore, verify.
func (m *move) hop(b *testing.B, opts RestoreOptions) (map[string]time.Duration, uint64) {
	steps := map[string]time.Duration{}
	timed := func(step string, f func()) {
		start := time.Now()
		f()
		steps[step] = time.Since(start)
	}
	var info StateInfo
	src := &wire{from: m.from}
	timed("snapshot", func() { info = putState(b, m.from, m.dir, StateOptions{Quiet: !opts.Warm}) })
	timed("fetch", func() {
		check(b, m.to.FetchWith(ctxb, info.Root, []Source{src}, FetchOptions{Older: m.older}))
	})
	m.older = []ID{info.Root}
	sent := src.bytes.Load()
	timed("restore", func() { restore(b, m.to, info.Root, m.dest, opts) })
	if !opts.Warm {
		timed("verify", func() { verified(b, m.to, info.Root, m.dest) })
	}
	return steps, sent
}

// rsync brings a copy of the file up to date and returns the bytes that this
// sent to and fro, 0 without rsync.
func (m *move) rsync(b *testing.B) (sent uint64, took time.Duration) {
	if _, err := exec.LookPath("rsync"); err != nil {
		b.Log("rsync is not installed: not compared")
		return 0, 0
	}
	start := time.Now()
	out, err := exec.Command("rsync", "-a", "--no-whole-file", "--stats", "--no-human-readable", m.dir+"/", filepath.Join(m.base, "rsynced")).CombinedOutput()
	took = time.Since(start)
	if err != nil {
		b.Fatalf("rsync: %v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if name, n, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && (name == "Total bytes sent" || name == "Total bytes received") {
			bytes, err := strconv.ParseUint(n, 10, 64)
			check(b, err)
			sent += bytes
		}
	}
	return sent, took
}

// change changes one per cent of the file and returns how many bytes that is.
func (m *move) change(b *testing.B, shape string) uint64 {
	path := filepath.Join(m.dir, "db")
	info, err := os.Stat(path)
	check(b, err)
	size, amount := info.Size(), info.Size()/100
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(b, err)
	defer f.Close()
	switch shape {
	case "range":
		_, err := f.WriteAt([]byte(noise(1<<20, int(amount))), size/3)
		check(b, err)
	case "pages":
		for i := range amount / page {
			_, err := f.WriteAt([]byte(noise(1<<20+uint64(i), page)), m.rnd.Int64N(size/page)*page)
			check(b, err)
		}
	case "inserts":
		data, err := os.ReadFile(path)
		check(b, err)
		var out []byte
		n := amount / 10_240
		for i := range n {
			part := data[int64(len(data))*i/n : int64(len(data))*(i+1)/n]
			k := m.rnd.IntN(len(part))
			out = append(append(append(out, part[:k]...), noise(1<<20+uint64(i), 10_240)...), part[k:]...)
		}
		check(b, os.WriteFile(path, out, 0o644))
	}
	return uint64(amount)
}
