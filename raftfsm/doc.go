// Package raftfsm remembers: it keeps State the same on every node, through one log.
//
//	commands --Propose--> leader's log --raft--> log of each raft server --Apply--> State, behind an atomic pointer
//	                                                     |
//	                                                     +--feed--> every other node --Apply--> State
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
//	                                                26 Leave
//	                                                27 Rejoin
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
// # Raft stream
//
//	0xe1 epoch(8, big endian)   each way, before anything else; then raft's own, if the epochs are the same
//
// # Feed
//
// A stream from a node to a raft server. It says once where it is, and may ask for a sign of life with a byte 1:
//
//	version(1 byte)  flags(1 byte: 1 = be fuller than you should)  cluster epoch(8)  index of its State(8)
//	length of id(1 byte)  id
//
// The server answers in frames, all numbers big endian:
//
//	+--------+-----------+--------+
//	|  kind  |  length   |  body  |
//	| 1 byte |  4 bytes  |        |
//	+--------+-----------+--------+
//
//	1 refusal  CBOR {1: reason, 2: leader, 3: servers}                     the last frame
//	2 status   CBOR {1: leader, 2: [[id, voter], ...]}        <= 64 KiB    first, at changes, after 10 s of silence, when asked
//	3 entry    index before(8) index(8) log entry             <= 1 MiB + 16
//	4 chunk    a piece of a checkpoint                        <= 64 KiB
//	5 end      of the checkpoint
//	6 check    index(8) digest(32) of State there
//
// Reasons: 1 no raft server, 2 full, 3 out of touch with the leader, 4 behind the follower, 5 the follower is a raft
// server, 6 unable. Frames of unknown kinds are passed over; an entry that does not follow on State ends the feed.
//
// # Files
//
//	DIR/log.db                                 bbolt: log, term, vote
//	DIR/checkpoints/snapshots/TERM-INDEX-TIME/ raft's layout: meta.json, state.bin
//	DIR/followed/checkpoint                    of a follower: State as it got or wrote it last
//	DIR/followed/entries                       since: length(4) CRC-32C(4) [index before(8) index(8) log entry], ...
//	DIR/followed.diverged/                     the last State of a follower that was not that of the raft servers
package raftfsm
