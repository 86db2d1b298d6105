package snapshotstore

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// manyFiles makes n small files in directories of 100.
func manyFiles(tb testing.TB, n int) string {
	tb.Helper()
	dir := tb.TempDir()
	text := noise(1, 6000)
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("d%04d", i/100))
		if i%100 == 0 {
			check(tb, os.Mkdir(sub, 0o755))
		}
		data := fmt.Sprint(i) + text[:200+i*7919%5800]
		check(tb, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d", i)), []byte(data), 0o644))
	}
	return dir
}

// TestManyFiles runs with 100,000 files when SNAPSHOTSTORE_LARGE is set.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	n := 1500
	if os.Getenv("SNAPSHOTSTORE_LARGE") != "" {
		n = 100_000
	}
	dir := manyFiles(t, n)
	from, to := newStore(t, Options{}), newStore(t, Options{})
	timed := func(what string, f func() error) {
		t.Helper()
		start := time.Now()
		check(t, f())
		t.Logf("%d files: %s %.2f s", n, what, time.Since(start).Seconds())
	}
	var info TreeInfo
	put := func() (err error) { info, err = from.PutTree(ctxb, dir); return err }
	dest := filepath.Join(outDir(t), "out")
	timed("put", put)
	timed("put again", put)
	timed("fetch", func() error {
		return to.Fetch(ctxb, info.Root, []Source{&storeSource{name: "from", store: from}}, nil)
	})
	timed("has tree", func() error { _, err := to.HasTree(ctxb, info.Root); return err })
	timed("materialise", func() error { return to.Materialise(ctxb, info.Root, dest, MaterialiseOptions{}) })
	timed("verify", func() error { return to.Materialise(ctxb, info.Root, dest, MaterialiseOptions{Verify: true}) })
	timed("check", func() error { _, err := to.Check(ctxb); return err })
	timed("remove", func() error { return to.RemoveTree(dest) })
	if info.Files != uint64(n) {
		t.Fatalf("%+v", info)
	}
}

func BenchmarkCut(b *testing.B) {
	data := []byte(noise(1, 16<<20))
	gear := newGearTable()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			rest = rest[gear.cut(rest):]
		}
	}
}

func BenchmarkCutAndName(b *testing.B) {
	data := []byte(noise(1, 16<<20))
	gear := newGearTable()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			n := gear.cut(rest)
			PlainNamer(rest[:n])
			rest = rest[n:]
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	c, err := newCodec(1)
	check(b, err)
	for name, data := range map[string]string{"noise": noise(1, AvgChunk), "text": sampleText()} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			var buf []byte
			for b.Loop() {
				buf = c.encode(buf, []byte(data), PlainNaming)
			}
		})
	}
}

// sampleText compresses like program text does.
func sampleText() string {
	var out string
	for _, name := range []string{"scan.go", "store.go", "collect.go", "fetch.go", "materialise.go"} {
		data, _ := os.ReadFile(name)
		out += string(data)
	}
	return out[:min(len(out), AvgChunk)]
}

// plainCopy copies a tree in a plain loop: cp -r.
func plainCopy(b *testing.B, from, to string) {
	check(b, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o644)
	}))
	root, err := os.OpenRoot(to)
	check(b, err)
	defer root.Close()
	check(b, syncTree(root))
}

const benchFiles = 15_000

// Each turn does both, the plain copy and ours, so that the ratio means
// something on a busy machine: x-of-copy is our time over that of the copy.
func BenchmarkPutTree(b *testing.B) {
	dir := manyFiles(b, benchFiles)
	var ours, copies, again time.Duration
	for b.Loop() {
		out := outDir(b)
		start := time.Now()
		plainCopy(b, dir, filepath.Join(out, "copy"))
		copies += time.Since(start)
		s := openStore(b, filepath.Join(out, "store"), Options{})
		start = time.Now()
		putTree(b, s, dir)
		ours += time.Since(start)
		start = time.Now()
		putTree(b, s, dir)
		again += time.Since(start)
		check(b, s.Close())
		check(b, os.RemoveAll(out))
	}
	b.ReportMetric(float64(ours)/float64(copies), "x-of-copy")
	b.ReportMetric(float64(again)/float64(copies), "unchanged-x-of-copy")
	b.ReportMetric(float64(b.N)*benchFiles/ours.Seconds(), "files/s")
}

func BenchmarkMaterialise(b *testing.B) {
	dir := manyFiles(b, benchFiles)
	s := newStore(b, Options{})
	info := putTree(b, s, dir)
	var ours, copies time.Duration
	for b.Loop() {
		out := outDir(b)
		start := time.Now()
		plainCopy(b, dir, filepath.Join(out, "copy"))
		copies += time.Since(start)
		start = time.Now()
		check(b, s.Materialise(ctxb, info.Root, filepath.Join(out, "ours"), MaterialiseOptions{}))
		ours += time.Since(start)
		check(b, os.RemoveAll(out))
	}
	b.ReportMetric(float64(ours)/float64(copies), "x-of-copy")
	b.ReportMetric(float64(b.N)*benchFiles/ours.Seconds(), "files/s")
}

// BenchmarkSync compares the two ways to bring a materialised tree to disk.
func BenchmarkSync(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var all, each time.Duration
			for b.Loop() {
				for _, d := range []*time.Duration{&all, &each} {
					dir := manyFiles(b, n)
					root, err := os.OpenRoot(dir)
					check(b, err)
					start := time.Now()
					if d == &all {
						check(b, syncTree(root))
					} else {
						check(b, syncEach(root))
					}
					*d += time.Since(start)
					root.Close()
				}
			}
			b.ReportMetric(float64(all)/float64(each), "syncfs-x-of-fsync")
		})
	}
}
