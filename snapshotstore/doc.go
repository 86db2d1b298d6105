// Package snapshotstore keeps content-addressed trees: the packages of
// services now, generations of state snapshots on the same objects later.
//
// Everything is an object of at most MaxObject plain bytes, named by the
// BLAKE3 hash of its plain bytes. There are three kinds:
//
//	chunk      a piece of a file, cut where the content says (chunker.go)
//	list       refs to the chunks, or smaller lists, of one large file
//	directory  entries, or refs to parts of one large directory
//
// A tree is the ID of its root directory object. The same content gives the
// same root on every machine.
//
// # Tree objects (tree.go)
//
// Integers are minimal unsigned varints. A list or a directory:
//
//	+-----+---+-------+----------------------------------------------+
//	| 'L' | 1 | level | ref ref ref ...                 (level 1..8) |
//	| 'D' | 1 | 0     | entry entry ...      names strictly ascending |
//	| 'D' | 1 | level | ref ref ref ...                 (level 1..8) |
//	+-----+---+-------+----------------------------------------------+
//	  1 B  1 B   1 B
//
//	ref in 'L' = id[32] bytes              level 1: chunks, n: lists of level n-1
//	ref in 'D' = id[32] entries files bytes        directories of level n-1
//
//	entry = kind[1] mode nameLen name, then
//	  'd' directory  entries files bytes id[32]    totals of what is beneath
//	  'f' file       size level n, n times (id[32] bytes)        n <= 16
//	  'l' symlink    targetLen target
//
// Level 0 in a file entry means its refs are chunks. Each ref states the
// totals of what it leads to, and who follows it checks them, so that the
// totals in a root hold for the whole tree: one comparison at the root refuses
// a tree that is too large, however often it repeats its parts.
//
// # Stored objects (object.go)
//
//	+--------+------------+--------------+---------------------+
//	| format | key number | plain length | payload             |
//	|  1 B   |  4 B LE    |  4 B LE      | 0..MaxObject bytes  |
//	+--------+------------+--------------+---------------------+
//
//	format, low four bits:  1 as it is, 2 one zstd frame
//	format, high four bits: 0 named by plain BLAKE3, 1 by keyed BLAKE3
//	key number:             0 not encrypted; no other is known yet
//
// # Packs (pack.go)
//
//	DIR/lock               held with flock: one writer, or many readers
//	DIR/store              "isonomia store 1\n"
//	DIR/packs/N.pack       sealed, never changed
//	DIR/packs/N.open       being appended to
//	DIR/packs/N.tmp        output of an unfinished Collect, removed by Open
//	DIR/aside/N-ID         a damaged object, moved out of service
//
//	pack   = header record* [index trailer]          the last two when sealed
//	header = "ISOPACK1" created[8]                   seconds since 1970, LE
//	record = id[32] length[4] crc32c(id length stored)[4] stored[length]
//	index  = (id[32] offset[4] length[4])*           sorted by id; offset of stored
//	trailer= count[4] blake3(header index count)[32] "ISOPEND1"
//
// # Frames (frames.go): a batch of objects on a stream
//
//	stream = "ISOF" 1 frame* end
//	'O' id[32] length[4] stored[length]   an object, as stored
//	'M' id[32]                            the sender does not have it
//	'E' count[4]                          end, number of frames before it
//
// A stream without its end was cut; what came before it is still good,
// because each object proves itself.
package snapshotstore
