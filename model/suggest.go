package model

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// suggest is the name that somebody most likely meant by a mistyped one; "" when none is near. Of equally near ones
// it is the first in the alphabet, whatever the order of from.
func suggest(name string, from []string) string {
	if len(name) > 4*MaxNameLength {
		return ""
	}
	best, bestDistance := "", allowedDistance(name)+1
	for _, f := range from {
		if d := utf8.RuneCountInString(f) - utf8.RuneCountInString(name); d > bestDistance || -d > bestDistance || f == name {
			continue
		}
		d := editDistance(fold(name), fold(f))
		if d < bestDistance || d == bestDistance && best != "" && f < best {
			best, bestDistance = f, d
		}
	}
	return best
}

// allowedDistance is how many slips make a name of this length still recognisable.
func allowedDistance(name string) int {
	switch n := utf8.RuneCountInString(name); {
	case n <= 1:
		return 0
	case n <= 4:
		return 1
	case n <= 7:
		return 2
	}
	return 3
}

// fold makes capitals and the two usual separators equal: "staff_db" is near "Staff-DB".
func fold(s string) []rune {
	return []rune(strings.ReplaceAll(strings.ToLower(s), "_", "-"))
}

// editDistance counts inserted, removed and replaced characters, and neighbours that changed places.
func editDistance(a, b []rune) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// WayOut is a hint for an unknown name: the one that was likely meant, else those that there are, else what to do
// when there are none.
func WayOut(name string, known []string, none string) string {
	if s := suggest(name, known); s != "" {
		return fmt.Sprintf("Did you mean %q?", s)
	}
	switch len(known) {
	case 0:
		return none
	case 1:
		return fmt.Sprintf("There is only %q.", known[0])
	}
	return "There are " + listing(known) + "."
}

// listing names up to ten.
func listing(names []string) string {
	const most = 10
	quoted := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", n))
	}
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(quoted, ", "), more)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " and " + quoted[len(quoted)-1]
}
