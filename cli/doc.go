// Package cli is the command line: it reads what an operator typed and wrote, asks one node over its API, and shows
// the answer. It decides nothing that a test would want to see without a terminal.
//
//	Main -> run -> a cobra command -> api.Client -> table, plan or lines on stdout
//	                               \-> *api.Error -> "isonomia: message" and a hint on stderr, or JSON on stdout
//
// Results go to stdout and everything else (warnings, questions, errors) to stderr; under --json stdout carries JSON
// alone. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no quorum or no node reachable, 4 rolled back.
package cli
