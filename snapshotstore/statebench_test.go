package snapshotstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// benchTree makes about 782 MB in 15,000 files: a third does not compress, a
// third is text, a third is records.
func benchTree(tb testing.TB) string {
	tb.Helper()
	dir := outDir(tb)
	rnd := rand.New(rand.NewPCG(1, 2))
	text := []byte(sampleText())
	words := bytes.Fields(text)
	for i := range benchFiles {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", i/100))
		if i%100 == 0 {
			check(tb, os.Mkdir(sub, 0o755))
		}
		check(tb, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d", i)), benchFile(rnd, i, words), 0o644))
	}
	return dir
}

func benchFile(rnd *rand.Rand, i int, words [][]byte) []byte {
	size := 1000 + int(rnd.ExpFloat64()*51_000)
	var b bytes.Buffer
	for b.Len() < size {
		switch i % 3 {
		case 0:
			var raw [64]byte
			for j := range raw {
				raw[j] = byte(rnd.Uint32())
			}
			b.Write(raw[:])
		case 1:
			b.Write(words[rnd.IntN(len(words))])
			b.WriteByte(' ')
		default:
			fmt.Fprintf(&b, "%d,%08x,%s,%d\n", i, rnd.Uint32(), words[rnd.IntN(len(words))], rnd.IntN(100))
		}
	}
	return b.Bytes()[:size]
}

// changeSome overwrites a few bytes in one file of a hundred.
func changeSome(tb testing.TB, dir string) {
	tb.Helper()
	for i := 0; i < benchFiles; i += 100 {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("d%03d/file%d", i/100, i)), os.O_WRONLY, 0)
		check(tb, err)
		_, err = f.WriteAt([]byte(fmt.Sprint("changed", time.Now().UnixNano())), 500)
		check(tb, err)
		check(tb, f.Close())
	}
}

// cost is wall and processor seconds of one step.
type cost struct{ wall, cpu float64 }

func processor(who int) float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(who, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

func measured(tb testing.TB, f func()) cost {
	tb.Helper()
	syscall.Sync() // what others have written is not counted
	start, cpu := time.Now(), processor(syscall.RUSAGE_SELF)+processor(syscall.RUSAGE_CHILDREN)
	f()
	return cost{time.Since(start).Seconds(), processor(syscall.RUSAGE_SELF) + processor(syscall.RUSAGE_CHILDREN) - cpu}
}

// contender takes snapshots in some way.
type contender struct {
	name     string
	snapshot func()
	restore  func(dest string)
	stored   func() int64
}

func diskUse(tb testing.TB, dir string) (n int64) {
	for _, path := range regularFiles(tb, dir) {
		info, err := os.Stat(path)
		check(tb, err)
		n += info.Size()
	}
	return n
}

func regularFiles(tb testing.TB, dir string) (out []string) {
	check(tb, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, path)
		}
		return err
	}))
	return out
}

func ours(tb testing.TB, dir, repo string) *contender {
	s := openStore(tb, repo, Options{Keys: [][32]byte{testKey}})
	var last ID
	return &contender{"isonomia", func() {
		info, err := s.PutState(ctxb, dir, StateOptions{})
		check(tb, err)
		last = info.Root
	}, func(dest string) {
		_, err := s.RestoreState(ctxb, last, dest, RestoreOptions{})
		check(tb, err)
	}, func() int64 { return s.Stats().Disk }}
}

// run runs a program with a clean home.
func runProgram(tb testing.TB, at, home, name string, args ...string) {
	tb.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = at
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home, "RESTIC_PASSWORD=x", "RESTIC_PROGRESS_FPS=0",
		"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func restic(tb testing.TB, dir, repo string) *contender {
	if _, err := exec.LookPath("restic"); err != nil {
		return nil
	}
	home := outDir(tb)
	runProgram(tb, "/", home, "restic", "init", "-q", "-r", repo)
	return &contender{"restic", func() {
		runProgram(tb, dir, home, "restic", "-q", "-r", repo, "backup", ".")
	}, func(dest string) {
		runProgram(tb, dir, home, "restic", "-q", "-r", repo, "restore", "latest", "--target", dest)
	}, func() int64 { return diskUse(tb, repo) }}
}

func borg(tb testing.TB, dir, repo string) *contender {
	if _, err := exec.LookPath("borg"); err != nil {
		return nil
	}
	home := outDir(tb)
	runProgram(tb, "/", home, "borg", "init", "-e", "none", repo)
	n := 0
	return &contender{"borg", func() {
		n++
		runProgram(tb, dir, home, "borg", "create", "-C", "zstd,3", fmt.Sprint(repo, "::", n), ".")
	}, func(dest string) {
		check(tb, os.Mkdir(dest, 0o755))
		runProgram(tb, dest, home, "borg", "extract", fmt.Sprint(repo, "::", n))
	}, func() int64 { return diskUse(tb, repo) }}
}

// BenchmarkState compares with restic and borg where they are installed, each
// on the same tree in the same run: first snapshot, unchanged, one file of a
// hundred changed, restored. restic encrypts, borg and we do not; restic and
// borg do not bring a restored tree to disk, we do. Files are older than the
// racy window of each. Wall and processor seconds are medians of the runs.
func BenchmarkState(b *testing.B) {
	dir := benchTree(b)
	total := diskUse(b, dir)
	steps := []string{"first", "unchanged", "changed", "restore"}
	costs := map[string][]cost{}
	stored := map[string]float64{}
	for b.Loop() {
		out := outDir(b)
		for _, c := range []*contender{ours(b, dir, filepath.Join(out, "ours")), restic(b, dir, filepath.Join(out, "restic")), borg(b, dir, filepath.Join(out, "borg"))} {
			if c == nil {
				b.Log("restic or borg is not installed: not compared")
				continue
			}
			age(b, dir)
			for _, step := range steps {
				do := c.snapshot
				switch step {
				case "changed":
					changeSome(b, dir)
					age(b, dir)
				case "restore":
					do = func() { c.restore(filepath.Join(out, c.name+"-restored")) }
				}
				costs[c.name+"-"+step] = append(costs[c.name+"-"+step], measured(b, do))
				if step == "first" {
					stored[c.name] = float64(c.stored())
				}
			}
			check(b, os.RemoveAll(filepath.Join(out, c.name+"-restored")))
		}
		check(b, os.RemoveAll(out))
	}
	b.ReportMetric(float64(total)/1e6, "MB")
	for name, cs := range costs {
		slices.SortFunc(cs, func(x, y cost) int { return int((x.wall - y.wall) * 1e6) })
		m := cs[len(cs)/2]
		b.ReportMetric(m.wall, name+"-s")
		b.ReportMetric(m.cpu, name+"-cpu-s")
	}
	for name, n := range stored {
		b.ReportMetric(n/1e6, name+"-stored-MB")
	}
}

// age waits until all that was written is older than the racy window.
func age(tb testing.TB, dir string) {
	tb.Helper()
	var newest time.Time
	for _, path := range regularFiles(tb, dir) {
		info, err := os.Stat(path)
		check(tb, err)
		if info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	timer := time.NewTimer(time.Until(newest.Add((racyWindow + 1) * time.Second)))
	<-timer.C
}
