package model

import "github.com/hashicorp/hcl/v2"

// noRange is for problems that lie in no file.
var noRange = hcl.Range{}

// problem makes a Diagnostic of a position in HCL's terms.
func problem(where hcl.Range, summary, hint string) Diagnostic {
	return Diagnostic{Severity: SeverityError, Summary: summary, Hint: hint,
		Subject: Range{File: where.Filename, Line: where.Start.Line, Column: where.Start.Column, EndColumn: where.End.Column}}
}

// Suggestion is a hint that names what somebody may have meant by a mistyped name; "" when nothing is near.
func Suggestion(name string, known []string) string {
	if s := suggest(name, known); s != "" {
		return "Did you mean \"" + s + "\"?"
	}
	return ""
}
