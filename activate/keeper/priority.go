package keeper

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Renice gives all threads of this process a niceness: -20 (first) to 19; a lower one than it has needs privilege. Threads
// and processes that are made later inherit it. Where the kernel groups processes by session for scheduling
// (sched_autogroup) the group gets it too, without which niceness says nothing between sessions.
func Renice(nice int) error {
	for range 2 { // a thread may be made by one that had not been seen yet
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		for _, t := range tasks {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, id, nice); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("set niceness %d: %w", nice, err)
			}
		}
	}
	_ = os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(nice)), 0) // not every kernel has it
	return nil
}
