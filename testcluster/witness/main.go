// Witness does nothing but sleep, and says how late it was woken: how far a machine can be trusted that measures others.
// For every line on its standard input it prints the worst lateness since the line before, in microseconds.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

const tick = 5 * time.Millisecond

func main() {
	var worst atomic.Int64
	go func() {
		runtime.LockOSThread()
		for {
			start := time.Now()
			time.Sleep(tick)
			late := int64(time.Since(start) - tick)
			if late > worst.Load() {
				worst.Store(late)
			}
		}
	}()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(worst.Swap(0) / int64(time.Microsecond))
	}
}
