package placement

import (
	"crypto/sha256"
	"encoding/binary"
)

// Strategy says how nodes are chosen among those that may be.
type Strategy string

// Strategies.
const (
	Spread        Strategy = "spread"          // the node with the fewest instances; the default
	RoundRobin    Strategy = "round-robin"     // the next node after the one chosen last
	Greedy        Strategy = "greedy"          // the first node with room, in name order
	HighestBidder Strategy = "highest-bidder"  // the node with the most room left
	LowestBidder  Strategy = "lowest-bidder"   // the node with the least room that is enough
	MinSetCover   Strategy = "min-set-cover"   // the cheapest set of nodes
	MultiwayCut   Strategy = "multiway-cut"    // the fewest links between nodes
	Colouring     Strategy = "graph-colouring" // linked items never on one node, with few nodes
	Optimal       Strategy = "optimal"         // the best by Minimize, or how far from it at most
)

// Strategies are all, in the order in which they are listed for people.
func Strategies() []string {
	var out []string
	for _, s := range []Strategy{Spread, RoundRobin, Greedy, HighestBidder, LowestBidder, MinSetCover, MultiwayCut, Colouring, Optimal} {
		out = append(out, string(s))
	}
	return out
}

// Objective is what Optimal makes small.
type Objective string

// Objectives.
const (
	MinLoad  Objective = "load"  // the sum of the squares of the nodes' numbers of instances: the evenest spread
	MinCost  Objective = "cost"  // the sum of the costs of nodes that are used
	MinLinks Objective = "links" // links between items on different nodes
)

// Objectives are all, in the order in which they are listed for people.
func Objectives() []string { return []string{string(MinLoad), string(MinCost), string(MinLinks)} }

// Problem is what is to be placed, and where it could be.
type Problem struct {
	Nodes      []Node
	Items      []Item   // strategies go through them in this order
	Dimensions []string // names of what is scarce: memory, cores ...
	Domains    []Domain // what Apart rules speak of; Domain 0 is always the node itself and need not be here
	Apart      []Apart
	Links      [][2]int // pairs of items that talk to each other

	Strategy  Strategy
	Dimension int       // that bidders look at
	Minimize  Objective // of Optimal
	// MoveCost is what Optimal lets the move of something that weighs 1 cost in units of its objective; 0: nothing moves that
	// could stay, whatever it would win.
	MoveCost int64
	// Tries bounds the search, in nodes looked at for an item; 0: DefaultTries.
	Tries int
	// Amount writes an amount of a dimension for people; nil: as a number.
	Amount func(dimension string, amount int64) string
}

// DefaultTries takes well below a second.
const DefaultTries = 200_000

// Node is where copies of items can be.
type Node struct {
	ID       string // for ties: the same ID ranks the same in every problem
	Name     string // for people
	Capacity []int64
	Used     []int64 // of the capacity, by what is no item; nil: nothing
	Load     int     // instances that are no items
	Cost     int64   // of using it at all
}

// Item is something to place: a service, or several that must be on one node.
type Item struct {
	Name   string
	Size   int     // instances that a copy stands for
	Demand []int64 // of a copy; nil: nothing
	Copies int     // wanted, each on a node of its own
	// Everywhere wants a copy on every allowed node that has room, instead of Copies.
	Everywhere bool
	Allowed    []int // nodes, ascending; may be shared between items
	// Previous are the nodes where it is, or where its state is, the best first. It stays there if it may.
	Previous []int
	Fixed    []int // nodes where it is and stays whatever else holds
	// Weight is the cost of moving a copy, at least 1.
	Weight int64
}

// Domain groups nodes that may fail together: those with one value. A negative value is a domain of its own.
type Domain struct {
	Name   string
	Values []int // by node
}

// Apart forbids copies of two items in one domain; of one item with itself, two copies.
type Apart struct {
	A, B   int
	Domain int // 0: the node itself; else Domains[Domain-1]
}

// ranking gives ties an order that is the same everywhere, spread evenly, and stable when nodes come and go.
func ranking(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint64(sum[:8])
}

// mixed joins two rankings into one (the finalizer of murmur3).
func mixed(a, b uint64) uint64 {
	x := a ^ (b<<31 | b>>33)
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
