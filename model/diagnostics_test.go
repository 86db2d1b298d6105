package model

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestDiagnosticText(t *testing.T) {
	t.Parallel()
	src := Source{Files: map[string][]byte{"a.hcl": []byte("first\r\n\tname = \"v\u0301alue\"\r\nlast " + strings.Repeat("x", 200))}}
	for name, tc := range map[string]struct {
		d     Diagnostic
		width int
		want  string
	}{
		"a tab and a mark": {Diagnostic{Summary: "s", Hint: "h", Subject: Range{File: "a.hcl", Line: 2, Column: 9, EndColumn: 16}}, 0,
			"a.hcl:2:9: error: s\n    2 |  name = \"v\u0301alue\"\n      |         ^^^^^^^\n  hint: h\n"},
		"to the end of the line": {Diagnostic{Summary: "s", Subject: Range{File: "a.hcl", Line: 1, Column: 2}}, 0,
			"a.hcl:1:2: error: s\n    1 | first\n      |  ^^^^\n"},
		"a line that is not there": {Diagnostic{Summary: "s", Subject: Range{File: "a.hcl", Line: 9, Column: 2}}, 0, "a.hcl:9:2: error: s\n"},
		"a column that is not there": {Diagnostic{Summary: "s", Subject: Range{File: "a.hcl", Line: 1, Column: 99, EndColumn: 100}}, 0,
			"a.hcl:1:99: error: s\n    1 | first\n      |      ^\n"},
		"nowhere": {Diagnostic{Severity: SeverityWarning, Summary: "s\x1b[2J\n", Detail: "two words"}, 0, "warning: s\u25a1[2J \n  two words\n"},
		"narrow": {Diagnostic{Summary: "s", Hint: "one two three four five", Subject: Range{File: "a.hcl", Line: 3, Column: 100, EndColumn: 103}}, 30,
			"a.hcl:3:100: error: s\n    3 | ...xxxxxxxxxxxxxxxx...\n      |           ^^^\n  hint: one two three four\n  five\n"},
	} {
		if got := (Diagnostics{tc.d}).Text(src, tc.width, false); got != tc.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, tc.want)
		}
	}
	colored := Diagnostics{{Severity: SeverityError, Summary: "s", Subject: Range{File: "a.hcl", Line: 1, Column: 1}}}.Text(src, 80, true)
	if !strings.Contains(colored, "\x1b[1;31merror\x1b[0m") {
		t.Errorf("no colour in %q", colored)
	}
}

func TestDiagnosticsAsJSON(t *testing.T) {
	t.Parallel()
	want := Diagnostics{{Severity: SeverityError, Summary: "s", Detail: "d", Hint: "h", Subject: Range{File: "a", Line: 1, Column: 2, EndColumn: 3},
		Related: []Range{{File: "b", Line: 4, Column: 5, Note: "n"}}}}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Diagnostics
	if err := json.Unmarshal(raw, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v %v", raw, got, err)
	}
}

func TestReporterSortsAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	r := &reporter{}
	for _, x := range []Diagnostic{
		{Summary: "b", Subject: Range{File: "b.hcl", Line: 1}}, {Summary: "z", Subject: Range{File: "a.hcl", Line: 2}},
		{Summary: "a", Subject: Range{File: "a.hcl", Line: 2}}, {Summary: "z", Subject: Range{File: "a.hcl", Line: 2}}, {Summary: "first", Subject: Range{File: "a.hcl", Line: 1}},
	} {
		r.add(x)
	}
	if got := r.result().Error(); got != "a.hcl:1:0: first\na.hcl:2:0: a\na.hcl:2:0: z\nb.hcl:1:0: b" {
		t.Errorf("got\n%s", got)
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	known := []string{"staff", "room", "zipcode", "db", "my-port"}
	for name, want := range map[string]string{
		"staf": "staff", "satff": "staff", "Staff": "staff", "rooms": "room", "zip": "", "my_port": "my-port", "d": "", "x": "", "web": "", "": "",
		"something-else": "", strings.Repeat("staff", 100): "",
	} {
		if got := suggest(name, known); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	if suggest("ab1", []string{"ab3", "ab2"}) != "ab2" || suggest("ab1", []string{"ab2", "ab3"}) != "ab2" {
		t.Error("depends on the order")
	}
}
