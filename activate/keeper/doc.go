// Package keeper is the small process that is the parent of every service process of a node, and its client.
//
// The keeper holds what must outlive the agent: children and their exit statuses, the read ends of their output, and
// the log files that output goes to. It knows nothing of State and parses nothing from the network.
//
// # Files in DIR
//
//	keeper.lock    flock: one keeper per DIR, for as long as the process lives
//	keeper.id      16 hex digits, made once; part of the mark that every service process carries
//	keeper.cgroup  the cgroup v2 directory that the last keeper made its children in
//	keeper.sock    the protocol below, mode 0600, same uid or root only (SO_PEERCRED)
//	notify/        the sockets that services may send sd_notify messages to
//	keeper.log     what the keeper itself has to say
//
// # Protocol
//
// A stream of frames in both directions, at most 1 MiB each:
//
//	+----------------+------------------------+
//	| length, 4 B BE | JSON object, length B  |
//	+----------------+------------------------+
//
// The client speaks first and every request has one reply, in order, except that list and tail may take several
// frames ("more": true on all but the last) and that watch turns the connection into a stream of replies that ends
// with the connection. Unknown fields are ignored, an unknown op gets the code "unknown_op", so that either side may
// be newer.
//
//	{"op":"hello","min":1,"max":1}        -> {"version":1,"pid":P,"boot":B}   must be the first
//	{"op":"start","spec":{...}}           -> {"status":{...}}   the existing one if the id is known
//	{"op":"stop","id":I,"grace_ns":N}     -> {}                 TERM to the process group, after N KILL to all
//	{"op":"list"}                         -> {"list":[...]}
//	{"op":"watch","id":I}                 -> {"list":[...]} ... what is known, then every change (I empty: of all)
//	{"op":"tail","id":I,"lines":N}        -> {"lines":[...]}    last output of this start
//	{"op":"owner","pid":P}                -> {"id":I}           the start that P belongs to
//	{"op":"forget","id":I}                -> {}                 drops the exit status
//	{"op":"shutdown","grace_ns":N}        -> {}                 stops everything, then ends the keeper
//	{"op":"lease","lease":{...}}          -> {}                 leased starts are dead by until_ns of CLOCK_BOOTTIME
//
// Reserved, answered with "unknown_op" until it exists: "listen" (a socket passed by SCM_RIGHTS with the first byte of
// its frame). Errors are
// {"error":{"code":C,"message":M,"errno":E}}; the codes are the constants in wire.go and are never reused.
//
// # Log files
//
// NAME.log, NAME.log.1, NAME.log.2, the newest first; one record a line, text is bytes without newline:
//
//	2006-01-02T15:04:05.000Z o text    a line of stdout ('e' of stderr)
//	2006-01-02T15:04:05.000Z o+ text   a piece of a longer line; the next record of this stream goes on with it
//	2006-01-02T15:04:05.000Z k text    the keeper's own: started, exited, dropped N lines
package keeper
