// Package placement decides which nodes things go to.
//
// It knows nothing of services, models or State: there are items, which want so many copies on different nodes, and nodes.
// What may not be is said once, for all strategies: a node that is not allowed, one without room, one too near to
// something. Strategies only choose among what may be.
//
//	Problem --New--> Solver --Place--> where each item is, what moved, and why
//
// Every function is total and depends on its arguments only: the same problem gives the same placement on every machine.
// What could take exponential time (making room, the optimal strategy) counts its tries and stops at a limit, and says so.
package placement
