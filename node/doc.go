// Package node is the imperative shell: it joins model, raftfsm, mesh, activate and snapshotstore into the one process
// that runs on every machine.
//
// Two loops do the work. The agent loop runs everywhere and does its own part of what State asks for (agent.go,
// steps.go); the lead loop runs only where raft leads and proposes what should become State (lead.go). Everything else
// serves them: boot.go makes or joins a cluster, peers.go speaks with other nodes, api.go with people and programs on
// this machine.
//
// # Files in the data directory
//
//	lock           held while an agent runs
//	cluster.json   which cluster this is, the CA's certificate, this node's leaf, gossip keys (0600; see clusterfile.go)
//	node.key ...   mesh's: identity, peers
//	raft/          raftfsm's: log and checkpoints
//	store/         snapshotstore's: objects of packages
//	packages/ID/   packages materialised, read-only
//	keeper.*       keeper's
//	state/SERVICE  what services keep ($STATE_DIRECTORY)
//	run/, logs/    of services
//	build/         the build sandbox and its cache
//	events         ring of what this node noticed
//	api.sock       the local API
package node
