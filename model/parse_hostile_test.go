package model

import (
	"fmt"
	"strings"
	"testing"
)

// nest puts n of each half around a middle.
func nest(open string, n int, middle, shut string) string {
	return strings.Repeat(open, n) + middle + strings.Repeat(shut, n)
}

// TestHostileSources: what is nested or repeated as far as the size allows is answered, by a model or by diagnostics.
// A stack that overflows would end the process; a product of loops would end the test by its deadline.
func TestHostileSources(t *testing.T) {
	t.Parallel()
	const most = MaxSourceBytes / 128
	values := map[string]string{
		"brackets": strings.Repeat("[", most), "parentheses": strings.Repeat("(", most), "objects": nest("{a=", most/8, "1", "}"),
		"not": strings.Repeat("!", most) + "true", "minus": strings.Repeat("-", most) + "1", "sum": "1" + strings.Repeat("+1", most/2),
		"conditions": strings.Repeat("true?1:", most/8) + "1", "splats": "self" + strings.Repeat(".*", most/2), "full splats": "self" + strings.Repeat("[*]", most/4),
		"index": "self" + strings.Repeat("[self]", most/8), "indices": nest("self[", most/8, "1", "]"), "attributes": "self" + strings.Repeat(".a", most/2),
		"templates": nest(`"${`, most/8, "1", `}"`), "interpolations": `"` + strings.Repeat("${1}", most/40) + `"`,
		"if": `"` + nest("%{if true}", most/20, "x", "%{endif}") + `"`, "for": nest("[for a in ", most/16, "[1]", " : a]"),
		"for in for": nest("[for a in [1,2,3,4,5,6,7,8,9,10] : ", 30, "1", "]"), "keys": nest("{(", 19, "a", ")=1}"), "parens": nest("(", 37, "1", ")"),
		"deep lists": nest("[", 38, "", "]"), "deep templates": nest(`"${`, 18, "1", `}"`), "deep conditions": strings.Repeat("true?1:", 160) + "1",
		"deep not": strings.Repeat("!", 490) + "true", "deep index": nest("self[", 38, "1", "]"), "calls": nest("upper(", 38, `"a"`, ")"),
		"growing": nest("replace(", 30, `"aaaa"`, `, "a", "aaaaaaaaaaaaaaaa")`), "doubling": `[for a in ["xxxx"] : [for b in ["${a}${a}"] : "${b}${b}"]]`,
		"width": `format("%2000000000s", "a")`, "width in a variable": `format(join("", ["%", "2000000000", "s"]), "a")`,
		"all of all": "jsonencode([for a in self : [for b in self : [for c in self : self]]])", "comments": "1 " + strings.Repeat("/* */", most/5),
		"heredocs": "<<A\n" + strings.Repeat("${<<B\nx\nB\n}\n", most/16) + "A\n", "list": "[" + strings.Repeat("1,", most/2) + "]",
		"splat of splats": "[for a in [1] : a][*][*][*]", "number": strings.Repeat("9", most), "exponent": "1e2000000000", "exponent as a string": `"1e2000000000" + 1`,
		"dynamic index": `self["ho${"st"}"]`, "dynamic port": `self.port[self.host]`, "power": "1e99" + strings.Repeat("*1e99", 490),
	}
	unbounded := map[string]bool{"brackets": true, "parentheses": true, "objects": true, "not": true, "minus": true, "sum": true, "conditions": true,
		"splats": true, "full splats": true, "index": true, "indices": true, "attributes": true, "templates": true, "if": true, "for": true}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			native := fmt.Sprintf("service \"a\" {\n type=\"process\"\n instances = %s\n run {\n command=[\"x\", %s]\n env = { A = %s }\n }\n}\n", v, v, v)
			text := hostile(t, "a.hcl", native)
			if unbounded[name] && !strings.Contains(text, "too deep") && !strings.Contains(text, "too long") {
				t.Errorf("not stopped: %s", text)
			}
			inJSON := fmt.Sprintf(`{"service":{"a":{"type":"process","run":{"command":["x",%q]}}}}`, "${"+v+"}")
			hostile(t, "a.hcl.json", inJSON)
		})
	}
	for name, text := range map[string]string{
		"arrays": strings.Repeat("[", most), "objects": strings.Repeat(`{"a":`, most/8), "numbers": `{"service":` + strings.Repeat("9", most) + "}",
		"services": `{"service":[` + strings.Repeat("{},", most/4) + "{}]}", "quotes": strings.Repeat(`"`, most), "backslashes": `"` + strings.Repeat(`\`, most),
	} {
		t.Run("json "+name, func(t *testing.T) {
			t.Parallel()
			hostile(t, "a.hcl.json", text)
		})
	}
}

func hostile(t *testing.T, file, text string) string {
	t.Helper()
	src := Source{Files: map[string][]byte{file: []byte(text)}}
	m, diags := parseSource(src, testKnown())
	if (m == nil) != diags.HasErrors() {
		t.Errorf("model %v with %v", m != nil, diags)
	}
	rendered := diags.Text(src, 80, false)
	if len(rendered) > 200_000 {
		t.Errorf("the text has %d bytes", len(rendered))
	}
	if m != nil {
		dump(m, src)
	}
	return rendered
}

// FuzzExpr looks at expressions in places where they are checked, evaluated without values and then with them.
func FuzzExpr(f *testing.F) {
	for _, text := range []string{`self.port.http`, `"${dep.db.host}:${dep.db.port.sql}"`, `join(",", [for d in dep.db.all : d.host])`, `dep.db.all[*].host`,
		`node.zone == "a" ? 1 : 2`, `{ for k, v in self.port : k => v... }`, `format("%s-%05d", "a", 3)`, `<<-E
  %{ if true ~} x %{ endif }
E
`, `replace(lower("A"), "/a.*/", "b")`, `lookup(self.port, "http", 1) + 1`, `concat([1], ["a"])`, `merge({}, {a = 1})`, `element(["a"], 3)`, `substr("abc", 1, 2)`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hostile(t, "a.hcl", fmt.Sprintf(`
service "db" {
  type = "process"
  port "sql" {}
  run { command = ["db"] }
}
service "web" {
  type       = "process"
  depends_on = ["db"]
  port "http" {}
  run {
    command = ["x", %s]
    env     = { A = %s }
  }
}
`, text, text))
	})
}
