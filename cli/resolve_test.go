package cli

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func tarOf(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text = "content of " + h.Name
		}
		h.Size, h.Uid, h.Gid = int64(len(text)), os.Getuid(), os.Getgid()
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_700_000_000, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "out")
	archive := tarOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o750},
		tar.Header{Name: "sealed", Typeflag: tar.TypeDir, Mode: 0o500},
		tar.Header{Name: "sealed/a", Typeflag: tar.TypeReg, Mode: 0o440},
		tar.Header{Name: "deep/er/b", Typeflag: tar.TypeReg, Mode: 0o644},
		tar.Header{Name: "c", Typeflag: tar.TypeLink, Linkname: "deep/er/b"},
		tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})
	if err := appear(dir, func(work string) error { return unpack(archive, work) }); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{".": 0o750 | os.ModeDir, "sealed": 0o500 | os.ModeDir, "sealed/a": 0o440, "deep/er/b": 0o644, "c": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if info, _ := os.Stat(filepath.Join(dir, "sealed/a")); !info.ModTime().Equal(time.Unix(1_700_000_000, 0)) {
		t.Errorf("its time is %v", info.ModTime())
	}
	if b, err := os.ReadFile(filepath.Join(dir, "c")); err != nil || string(b) != "content of deep/er/b" {
		t.Errorf("c: %q, %v", b, err)
	}
	if err := appear(dir, func(string) error { return nil }); err == nil {
		t.Error("written over what there is")
	}
}

func TestUnpackStaysInside(t *testing.T) {
	t.Parallel()
	for _, archive := range []*bytes.Buffer{
		tarOf(t, tar.Header{Name: "../out", Typeflag: tar.TypeReg, Mode: 0o644}),
		tarOf(t, tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "up/out", Typeflag: tar.TypeReg, Mode: 0o644}),
		tarOf(t, tar.Header{Name: "up", Typeflag: tar.TypeLink, Linkname: "../secret"}),
		tarOf(t, tar.Header{Name: "pipe", Typeflag: tar.TypeFifo}),
	} {
		parent := t.TempDir()
		if err := os.WriteFile(filepath.Join(parent, "secret"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := appear(filepath.Join(parent, "dir"), func(work string) error { return unpack(archive, work) }); err == nil {
			t.Error("an archive that leads out was unpacked")
		}
		entries, err := os.ReadDir(parent)
		if err != nil || len(entries) != 1 || !strings.HasPrefix(entries[0].Name(), "secret") {
			t.Errorf("left: %v, %v", entries, err)
		}
	}
}
