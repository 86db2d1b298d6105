// Package snapshotstore keeps content-addressed trees: the packages of
// services, and snapshots of their state.
//
// Everything is an object of at most MaxObject plain bytes, named by the
// BLAKE3 hash of its plain bytes; for snapshots keyed with the cluster's store
// key. There are four kinds:
//
//	chunk      a piece of a file, cut where the content says (chunker.go)
//	list       refs to the chunks, or smaller lists, of one large file
//	directory  entries, or refs to parts of one large directory
//	state      the root of a snapshot
//
// A package is the ID of its root directory object, a snapshot that of its
// state object. The same content gives the same root on every machine.
//
// # Tree objects of packages: version 1 (tree.go)
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
// # Tree objects of snapshots: version 2 (statetree.go)
//
// Lists and directories as above, with a 2 for the version, and
//
//	+-----+---+---+-------------+------+------+------------------------------+
//	| 'S' | 2 | 0 | content[32] | mode | meta | entries files bytes id[32]   |
//	+-----+---+---+-------------+------+------+------------------------------+
//	                the mode and meta of the root, and its directory
//
//	entry = kind[1] mode meta nameLen name, then
//	  'd', 'f', 'l'  as above
//	  'h' hard link  pathLen path                  of an 'f' that comes earlier in the walk
//	  'p' fifo       nothing
//	meta  = uid gid seconds nanoseconds n, n times (nameLen name valueLen value)
//
// mode is at most 07777; that of a hard link is 0 and its meta empty. seconds
// is a signed (zigzag) varint. Attributes are in ascending order: user.* and
// the two system.posix_acl_*, together at most 64 KiB. A ref in a file or list
// whose id is all zeros is a hole: every run of zeros that fills whole grains
// of 64 KiB, counted from the beginning of the file, is one, however the file
// system kept it; what is between holes is cut into chunks by itself.
//
// content is the keyed hash of the root's entry, with no name and no time, in
// which the directory's id is the content of the directory: the keyed hash of
// its entries one after the other, again without times and with contents in
// the place of ids. (A directory that is split into parts is not so for this.)
//
// # Scan caches (scancache.go)
//
//	DIR/scans/state-NAME   what PutState saw: see StateOptions.Name
//	DIR/scans/warm-NAME    what RestoreState left in a warm copy
//
//	cache  = "ISOSCAN1" created[8] block*
//	block  = length[4] tag[32] kind[1] payload      length of kind and payload, at most 1 MiB
//	tag    = keyed hash of created[8] offset[8] kind payload
//	  'E' records of one directory, in order of names
//	  'I' index: offsets[8] of a directory's blocks of records
//	  'T' end: offset[8] of the root's index, number of files[8]; the last block
//	record = 'f' ctime dev ino entry                 entry in version 2; ctime as in meta
//	       | 'd' nameLen name offset                 of that directory's index
//
// NAME is 32 hexadecimal digits of the keyed hash of "state" or "warm", NUL,
// and the name.
//
// # Stored objects (object.go)
//
//	+--------+------------+--------------+---------------------+
//	| format | key number | plain length | payload             |
//	|  1 B   |  4 B LE    |  4 B LE      | 0..MaxObject bytes  |
//	+--------+------------+--------------+---------------------+
//
//	format, low four bits:  1 as it is, 2 one zstd frame,
//	                        3 a delta: one zstd frame with dictionary 1 (in frames only, never in packs)
//	format, high four bits: 0 named by plain BLAKE3, 1 by keyed BLAKE3
//	key number:             0 not encrypted; no other is known yet
//
// # Packs (pack.go)
//
//	DIR/lock               held with flock: one writer, or many readers
//	DIR/store              "isonomia store 1\n"
//	DIR/scans/             caches: may be deleted
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
//
// # Requests with bases (delta.go)
//
//	request = "ISOW" 1 want*                  at most 4,096
//	want    = id[32] n[1], n times base[32]   n <= 16
//
// The answer is a stream of frames, in which an object with bases may be a
// delta. Its dictionary is raw: the plain bytes of all its bases in the order
// of the request, of which the first 1 MiB are used. Both sides verify each
// base, so they have the same dictionary or the result is not what its ID says.
package snapshotstore
