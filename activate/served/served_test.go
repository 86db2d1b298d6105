package served

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAwait(t *testing.T) {
	t.Parallel()
	asked := 0
	down := errors.New("connection refused")
	err := Await(t.Context(), time.Minute, func() error {
		if asked++; asked < 3 {
			return down
		}
		return nil
	})
	if err != nil || asked != 3 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	if err := Await(t.Context(), 0, func() error { return down }); !errors.Is(err, down) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = Await(ctx, time.Hour, func() error { cancel(); return down })
	if !errors.Is(err, context.Canceled) || !errors.Is(err, down) {
		t.Error(err)
	}
}

func TestRows(t *testing.T) {
	t.Parallel()
	rows, err := Rows("[\"a\\nb\", 12345678, true, null]\n\n[]\n")
	if err != nil || len(rows) != 2 {
		t.Fatalf("%v, %v", rows, err)
	}
	var got []string
	for i := range 5 {
		got = append(got, rows[0].Text(i))
	}
	if !slices.Equal(got, []string{"a\nb", "12345678", "true", "<nil>", ""}) {
		t.Errorf("%q", got)
	}
	if n, err := rows[0].Count(1); n != 12345678 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := rows[0].Count(0); err == nil {
		t.Error("a text was counted")
	}
	for _, bad := range []string{"[1", "ERROR", "{}\n"} {
		if rows, err := Rows(bad); err == nil {
			t.Errorf("%q: %v", bad, rows)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add("[\"snapshot\", 1]\n[]\n")
	f.Fuzz(func(t *testing.T, answer string) {
		rows, _ := Rows(answer)
		for _, r := range rows {
			_ = r.Text(0)
			_, _ = r.Count(1)
		}
	})
}

func TestTally(t *testing.T) {
	t.Parallel()
	many := Tally{}
	for i := range 1500 {
		many[fmt.Sprintf("t%04d", i)] = 2
	}
	facts := many.Facts()
	if len(facts) != maxTables+2 || facts["rows"] != "3000" || facts["tables"] != "1500" || facts["rows.t0999"] != "2" || facts["rows.t1000"] != "" {
		t.Errorf("%d facts, %s rows", len(facts), facts["rows"])
	}
}

func TestLoadFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var paths []string
	for _, name := range []string{"a", "b", "c"} {
		paths = append(paths, filepath.Join(dir, name))
		if err := os.WriteFile(paths[len(paths)-1], []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var read string
	err := LoadFiles(paths, func(r io.Reader) error {
		b, err := io.ReadAll(r)
		if read += string(b); string(b) == "b" {
			err = errors.New("syntax")
		}
		return err
	})
	if read != "ab" || err == nil || !strings.Contains(err.Error(), paths[1]) {
		t.Errorf("%q, %v", read, err)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	type role struct {
		Name string `json:"name"`
	}
	path := filepath.Join(t.TempDir(), "roles.json")
	if err := WriteList(path, []role{{"a"}, {"b"}}); err != nil {
		t.Fatal(err)
	}
	if list, err := ReadList[role](path); err != nil || !slices.Equal(list, []role{{"a"}, {"b"}}) {
		t.Errorf("%v, %v", list, err)
	}
	for _, bad := range []string{"", "{", "[1]", "[" + strings.Repeat(`{"name":"x"},`, maxList) + `{"name":"x"}]`} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if list, err := ReadList[role](path); err == nil {
			t.Errorf("%.20q: %d entries", bad, len(list))
		}
	}
}
