// Package raftfsm remembers: it keeps State the same on every raft server, through one log.
//
//	commands --Propose--> leader's log --raft--> every log --Apply--> State, behind an atomic pointer
//
// A node may propose and read from anywhere; only the leader writes. Readers never lock: a State does not change, the
// next one is another value.
//
// # Log entry
//
//	+---------+----------------------------------------------+
//	| version | CBOR, core deterministic:                    |
//	|  1 byte | [ [kind, body], [kind, body], ... ]  1..1024 |
//	+---------+----------------------------------------------+    at most 1 MiB
//
// A body is the command with integer keys. Times are RFC 3339 text in UTC with nanoseconds, the zero time is null.
// Kinds, for ever:
//
//	1 Init          7 MarkUp       13 Claims        19 TakeSnapshot
//	2 Admit         8 RemoveNode   14 Reports       20 HoldSnapshots
//	3 CreateToken   9 SealCA       15 Finish        21 DropSnapshots
//	4 RevokeToken  10 Begin        16 Retry         22 GiveUpState
//	5 UpdateNode   11 Part         17 Abort         23 DrainNode
//	6 MarkDown     12 Commit       18 RecordBuild   24 Fence
//	                                                25 TakeOver
//
// A newer version, an unknown kind and an unknown field are a *MustUpgradeError: the node stops applying, keeps its
// State and does not lead. A new field of a command must therefore be omitempty, and be used only behind a state
// version that every member supports.
//
// An entry of ProposeLocal carries, in raft's extensions field, 8 bytes: the term (big endian) that it counts in.
//
// # Checkpoint
//
//	"ISONOMIA" version(1 byte)
//	record [state version, index, cluster]
//	for each table that is not empty, by number:
//	    record [table number, rows]
//	    record [key, value]                 in key order, so many
//	0
//	SHA-256 of everything before it         = Digest
//
// A record is its length (uvarint) and CBOR as above. The indexes of State are made again on reading. Tables:
//
//	1 nodes      5 intents        9 reservations  13 pending
//	2 removed    6 generations   10 counters      14 proposals
//	3 tokens     7 rows          11 builds         15 snapshots
//	4 systems    8 specs         12 custody        16 policies
//
// # Forwarded proposal, and its reply
//
//	version(1 byte) request id(16 bytes) entry
//	version(1 byte) CBOR {1: status, 2: results, 3: leader, 4: message}
//
// Status: 1 done, 2 not the leader, 3 busy, 4 uncertain, 5 refused.
//
// # Files
//
//	DIR/log.db                                 bbolt: log, term, vote
//	DIR/checkpoints/snapshots/TERM-INDEX-TIME/ raft's layout: meta.json, state.bin
package raftfsm
