//go:build linux

package testcluster

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
)

// faults is what is wrong with the network between the nodes. The whole rule
// set is derived from it and replaced at once.
type faults struct {
	cut  map[[2]int]bool // from, to: packets that the switch drops
	lost int             // percent of all packets between nodes that it drops
}

// rules is the input of nft. Only what is forwarded counts: the observer is on
// the switch itself and stays reachable.
func (f faults) rules() string {
	var b strings.Builder
	b.WriteString("table bridge faults\ndelete table bridge faults\n")
	if len(f.cut) == 0 && f.lost == 0 {
		return b.String()
	}
	b.WriteString("table bridge faults {\n set cut { type ifname . ifname; }\n chain between {\n")
	b.WriteString("  type filter hook forward priority 0; policy accept;\n")
	b.WriteString("  iifname . oifname @cut drop\n")
	if f.lost >= 100 {
		b.WriteString("  drop\n")
	} else if f.lost > 0 {
		fmt.Fprintf(&b, "  numgen random mod 100 < %d drop\n", f.lost)
	}
	b.WriteString(" }\n}\n")
	for _, pair := range f.pairs() {
		fmt.Fprintf(&b, "add element bridge faults cut { p%d . p%d }\n", pair[0], pair[1])
	}
	return b.String()
}

func (f faults) pairs() [][2]int {
	return slices.SortedFunc(maps.Keys(f.cut), func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
}

// between is every pair, both ways, of numbers in different groups.
func between(groups [][]int) map[[2]int]bool {
	cut := map[[2]int]bool{}
	for i, left := range groups {
		for j, right := range groups {
			for _, a := range left {
				for _, b := range right {
					if i != j {
						cut[[2]int{a, b}] = true
					}
				}
			}
		}
	}
	return cut
}

// apply makes f the state of the network.
func (n *network) apply(f faults) error {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return err
	}
	if err := n.sw.pipe(f.rules(), nft, "-f", "-"); err != nil {
		return fmt.Errorf("change network: %w", err)
	}
	n.faults = f
	return nil
}
