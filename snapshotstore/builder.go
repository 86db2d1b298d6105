package snapshotstore

// Where lists and directories are split: after a ref or entry whose hash has
// the low bits zero, so that a change in the middle alters the parts around
// it and no others. About 256 to a part. All of it is part of the format.
const (
	splitMask = 255
	maxRefs   = 1024     // refs to a part at most
	maxPart   = 64 << 10 // bytes of entries to a part before it is closed anyway
)

// emit stores one tree object and returns its ID.
type emit func(plain []byte) (ID, error)

// builder collects refs into objects of rising level. Memory is one part per
// level, whatever the number of refs.
type builder struct {
	kind   byte
	form   byte // version of the objects
	base   int  // level of an object that holds refs added by the user
	emit   emit
	levels [][]ref // levels[i]: refs waiting to be put into an object of level base+i
}

func (b *builder) add(r ref) error { return b.addAt(0, r) }

func (b *builder) addAt(i int, r ref) error {
	if i == len(b.levels) {
		b.levels = append(b.levels, nil)
	}
	b.levels[i] = append(b.levels[i], r)
	if int(r.ID[0])&splitMask == 0 && !r.ID.IsZero() || len(b.levels[i]) == maxRefs {
		return b.close(i)
	}
	return nil
}

// close writes what waits at i and hands the ref to the level above.
func (b *builder) close(i int) error {
	up, err := b.write(i)
	if err != nil {
		return err
	}
	return b.addAt(i+1, up)
}

// write stores the refs waiting at i as one object.
func (b *builder) write(i int) (ref, error) {
	plain := appendNodeHeader(nil, b.kind, b.form, b.base+i)
	var up ref
	for _, r := range b.levels[i] {
		plain = appendRef(plain, b.kind, r)
		up.Totals, _ = up.Totals.add(r.Totals) // bounded by Limits long before
	}
	id, err := b.emit(plain)
	up.ID = id
	b.levels[i] = b.levels[i][:0]
	return up, err
}

// finish writes all that waits until at most keep refs remain, all at the
// top. It returns them and the number of levels above what was added.
func (b *builder) finish(keep int) ([]ref, int, error) {
	for i := 0; i < len(b.levels); i++ {
		if i == len(b.levels)-1 && len(b.levels[i]) <= keep {
			return b.levels[i], i, nil
		}
		if len(b.levels[i]) > 0 {
			if err := b.close(i); err != nil {
				return nil, 0, err
			}
		}
	}
	return nil, 0, nil
}

// dirBuilder collects sorted entries into directory objects.
type dirBuilder struct {
	up     builder
	part   []byte
	totals Totals // of the part
	all    Totals
}

func newDirBuilder(version byte, e emit) *dirBuilder {
	return &dirBuilder{up: builder{kind: kindDir, form: version, base: 1, emit: e}}
}

// add appends an entry; names must come in ascending order.
func (d *dirBuilder) add(e *entry) error {
	if d.part == nil {
		d.part = appendNodeHeader(nil, kindDir, d.up.form, 0)
	}
	d.part = appendEntry(d.part, d.up.form, e)
	d.totals, _ = d.totals.add(e.totals())
	d.all, _ = d.all.add(e.totals())
	if nameHash(e.Name)&splitMask == 0 || len(d.part) >= maxPart {
		return d.close()
	}
	return nil
}

func (d *dirBuilder) close() error {
	id, err := d.up.emit(d.part)
	if err != nil {
		return err
	}
	part := ref{id, d.totals}
	d.part, d.totals = nil, Totals{}
	return d.up.add(part)
}

// finish returns the ref of the whole directory.
func (d *dirBuilder) finish() (ref, error) {
	if d.part == nil && len(d.up.levels) == 0 {
		d.part = appendNodeHeader(nil, kindDir, d.up.form, 0) // an empty directory
	}
	if d.part != nil {
		if err := d.close(); err != nil {
			return ref{}, err
		}
	}
	top, _, err := d.up.finish(1)
	if err != nil {
		return ref{}, err
	}
	return top[0], nil
}

// nameHash is FNV-1a with a final mix: cheap, and its low bits are even.
func nameHash(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(name); i++ {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h ^= h >> 32
	return h * 0x9e3779b97f4a7c15 >> 32
}
