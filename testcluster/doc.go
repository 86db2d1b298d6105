// Package testcluster runs real nodes as real processes, breaks them, and
// compares what they say with what is there.
//
//	c := testcluster.Start(t, 3)               // three machines, one cluster
//	dir := testcluster.Chain(5).Write(t)
//	r := c.Node(1).CLI(ctx, "deploy", "--yes", dir)
//	c.WaitLeader().PowerOff()
//	c.AwaitSettled(time.Minute, 1)
//
// A node is a network, mount, process, host-name, IPC and cgroup namespace of its
// own, in which no other node's files exist and every node's paths are the same.
// Nothing in the product knows that it is being tested: partitions are made in
// the network, deaths by signals, full disks by small ones.
//
// At the end of each test Invariants looks at processes, sockets, files and an
// outside observer, compares them with State, and ends everything. See DESIGN.md.
package testcluster
