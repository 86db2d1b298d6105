package keeper

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// BenchmarkStartStop compares a trivial program started and stopped through the keeper with the same in a plain loop.
// The two alternate, so that a busy machine slows both; ratio is what the keeper costs.
func BenchmarkStartStop(b *testing.B) {
	for _, mode := range modes {
		b.Run(mode, func(b *testing.B) {
			k := newBench(b, mode)
			var plain, kept time.Duration
			n := 0
			for b.Loop() {
				began := time.Now()
				cmd := exec.Command("/bin/sleep", "1000")
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				plain += time.Since(began)

				began = time.Now()
				spec := k.sh(fmt.Sprint("s", n), "")
				spec.Argv, spec.LogName = []string{"/bin/sleep", "1000"}, "all"
				k.start(spec)
				if err := k.Stop(b.Context(), spec.ID, 0); err != nil {
					b.Fatal(err)
				}
				k.exited(spec.ID)
				if err := k.Forget(b.Context(), spec.ID); err != nil {
					b.Fatal(err)
				}
				kept += time.Since(began)
				n++
			}
			b.ReportMetric(float64(kept)/float64(plain), "ratio")
			b.ReportMetric(float64(kept.Microseconds())/float64(n), "kept-us/op")
			b.ReportMetric(float64(plain.Microseconds())/float64(n), "plain-us/op")
		})
	}
}

// BenchmarkIdle prints what the keeper costs with n idle services: resident memory, and CPU over a second.
func BenchmarkIdle(b *testing.B) {
	for _, n := range []int{0, 20, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := newBench(b, "keeper")
			for i := range n {
				spec := k.sh(fmt.Sprint("s", i), "echo up; exec sleep 1000")
				k.start(spec)
			}
			for b.Loop() {
				before := cpuTicks(b, k.PID())
				time.Sleep(time.Second) // a measure, not a synchronisation
				b.ReportMetric(float64(cpuTicks(b, k.PID())-before), "ticks/s")
			}
			b.ReportMetric(float64(residentKB(b, k.PID()))/1024, "MB-resident")
			b.ReportMetric(float64(privateKB(b, k.PID()))/1024, "MB-private")
		})
	}
}

// BenchmarkFlood prints how many lines a second the keeper reads from a service that says nothing but "y", of which it
// keeps what the rate limit lets through, and the most memory that it had.
func BenchmarkFlood(b *testing.B) {
	k := newBench(b, "keeper")
	k.start(k.sh("a", "exec yes"))
	var lines uint64
	for b.Loop() {
		list, err := k.List(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Second) // a measure, not a synchronisation
		after, err := k.List(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		lines += after[0].Dropped - list[0].Dropped
	}
	b.ReportMetric(float64(lines)/b.Elapsed().Seconds(), "dropped-lines/s")
	b.ReportMetric(float64(fieldKB(b, k.PID(), "status", "VmHWM:"))/1024, "MB-peak")
}

func cpuTicks(b *testing.B, pid int) int {
	s, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		b.Fatal(err)
	}
	var user, system int
	f := strings.Fields(string(s[strings.LastIndexByte(string(s), ')')+1:]))
	_, _ = fmt.Sscan(f[11], &user)
	_, _ = fmt.Sscan(f[12], &system)
	return user + system
}

func residentKB(b *testing.B, pid int) (kb int) { return fieldKB(b, pid, "status", "VmRSS:") }

// privateKB is what is there only for the keeper: not the pages of the binary that it shares with the agent.
func privateKB(b *testing.B, pid int) (kb int) {
	return fieldKB(b, pid, "smaps_rollup", "Private_Dirty:") + fieldKB(b, pid, "smaps_rollup", "Private_Clean:")
}

func fieldKB(b *testing.B, pid int, file, name string) (kb int) {
	s, err := os.ReadFile(procPath(pid, file))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(s)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			_, _ = fmt.Sscan(rest, &kb)
		}
	}
	return kb
}
