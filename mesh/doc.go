// Package mesh carries everything between nodes on one UDP port: gossip
// datagrams, and QUIC streams for raft, RPC, packages and proxied connections.
// It knows keys, addresses and liveness; it knows nothing of State. Who is a
// member is decided by a function that the caller passes in.
//
// # One socket
//
// The first byte of a datagram says whose it is:
//
//	0x2a            gossip: the byte, then one memberlist packet (encrypted)
//	0x40 .. 0xff    QUIC (the fixed bit or the long header bit is set)
//	anything else   dropped
//
// QUIC connections are told apart by ALPN:
//
//	isonomia/1        control: gossip streams, raft, RPC, probes
//	isonomia-bulk/1   packages and proxied connections, so that they never
//	                  delay a heartbeat
//	isonomia-join/1   the only one that accepts an unknown key
//
// # Hello
//
// After the handshake of the first two, each side sends one unidirectional
// stream. The dialling side counts the connection as made only when it has the
// other's hello: in TLS 1.3 a client finishes before the server has judged it.
//
//	0        1              9
//	+--------+--------------+-----
//	|  0x01  |  boot number |  ignored, at most 256 bytes in all
//	+--------+--------------+-----
//
// The boot number is random in each life of a process: a new one means that
// connections to the former life are dead.
//
// # Streams
//
// The first byte of a bidirectional stream is its [Proto], written by the
// opener at once. All that follows belongs to that protocol. The probe protocol
// is mesh's own: eight bytes there, the same eight bytes back.
//
// # Join
//
// One stream; the request, then the reply; at most 64 KiB and 15 s each way.
//
//	request:            +----------------+---------
//	                    | length, 4, BE  |  body
//	                    +----------------+---------
//	reply:     +--------+----------------+---------
//	           |  kind  | length, 4, BE  |  body         kind 0: the caller's reply
//	           +--------+----------------+---------      kind 1: refused, CBOR {1: code, 2: message, 3: retry}
//
// # Files in Dir
//
//	node.key    PEM: the Ed25519 identity and the X25519 sealing key (see identity.go)
//	reset.key   32 bytes: QUIC's stateless reset key
//	peers       text: where each node was last seen (see peersfile.go)
package mesh
