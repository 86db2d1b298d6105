package place

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func fill(text string) func(string) error {
	return func(dir string) error {
		return errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o644))
	}
}

// TestMakeIsAllOrNothing lets a making fail, and crash, at each of its points.
func TestMakeIsAllOrNothing(t *testing.T) {
	t.Parallel()
	p := Place(filepath.Join(t.TempDir(), "state"))
	is := func(want string) {
		t.Helper()
		dir, _, err := p.Find()
		got, _ := os.ReadFile(filepath.Join(dir, "f"))
		if err != nil || string(got) != want {
			t.Fatalf("%q in %q, not %q: %v", got, dir, want, err)
		}
	}
	broken := errors.New("broken")
	half := func(dir string) error { return errors.Join(fill("half")(dir), broken) }
	if err := p.Make(half); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	is("")
	if _, err := os.Lstat(p.fresh()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if err := fill("of an agent that died")(p.fresh()); err != nil {
		t.Fatal(err)
	}
	is("")
	if err := p.Make(fill("one")); err != nil {
		t.Fatal(err)
	}
	is("one")
	if err := p.Make(half); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	is("one")
	if err := p.Make(fill("two")); err != nil {
		t.Fatal(err)
	}
	is("two")
	if fi, err := os.Stat(p.keep()); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("others can look into what is kept: %v %v", fi.Mode(), err)
	}
	if err := errors.Join(p.Open(), p.Open()); err != nil {
		t.Fatal(err)
	}
	if err := p.Make(fill("three")); err == nil {
		t.Error("replaced what is live")
	}
	if err := p.Delete(); err == nil {
		t.Error("deleted what is live")
	}
	is("two")
	if err := errors.Join(p.Close(t.Context(), 0), p.Close(t.Context(), 0)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Delete(), p.Delete()); err != nil {
		t.Fatal(err)
	}
	is("")
	if err := p.Open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened nothing: %v", err)
	}
}

func TestGiveFollowsNoLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	in := filepath.Join(dir, "in")
	err := errors.Join(os.WriteFile(outside, nil, 0o600), os.Mkdir(in, 0o700), os.Symlink(outside, filepath.Join(in, "link")), os.WriteFile(filepath.Join(in, "x"), nil, 0o500))
	if err != nil {
		t.Fatal(err)
	}
	var owner *Owner
	if os.Geteuid() == 0 {
		owner = &Owner{1234, 1235}
	}
	if err := Give(in, owner); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{outside: 0o600, in: fs.ModeDir | fs.ModeSetgid | 0o770, filepath.Join(in, "x"): 0o550} {
		if fi, err := os.Stat(path); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
}

// What an earlier instance wrote under another number is the new one's; what is others' stays theirs, and links lead
// nowhere.
func TestAdopt(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	outside := filepath.Join(t.TempDir(), "outside")
	dir := filepath.Join(t.TempDir(), "state")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(outside, nil, 0o600))
	must(os.Lchown(outside, 50001, 50001))
	must(os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	for name, uid := range map[string]int{"file": 50001, "sub/file": 50001, "other": 50007, "root": 0} {
		must(os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		must(os.Lchown(filepath.Join(dir, name), uid, uid))
	}
	must(os.Symlink(outside, filepath.Join(dir, "link")))
	for _, name := range []string{"", "sub", "link"} {
		must(os.Lchown(filepath.Join(dir, name), 50001, 50001))
	}
	for range 2 {
		must(Adopt(dir, &Owner{50002, 50003}))
		for name, want := range map[string]Owner{"": {50002, 50003}, "file": {50002, 50003}, "sub": {50002, 50003}, "sub/file": {50002, 50003},
			"link": {50002, 50003}, "other": {50007, 50007}, "root": {0, 0}, "../../outside": {}} {
			path := filepath.Join(dir, name)
			if name == "../../outside" {
				path, want = outside, Owner{50001, 50001}
			}
			fi, err := os.Lstat(path)
			must(err)
			if got := ownerOf(fi); got != want {
				t.Errorf("%q belongs to %v, not %v", name, got, want)
			}
		}
	}
	must(Adopt(filepath.Join(dir, "absent"), &Owner{1, 1}))
	must(Adopt(filepath.Join(dir, "link"), &Owner{1, 1}))
}
