package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// Exit codes. Scripts rely on them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitRolledBack  = 4
)

func exitCode(code string) int {
	switch code {
	case api.CodeUsage:
		return exitUsage
	case api.CodeNoQuorum, api.CodeUnreachable:
		return exitUnreachable
	case api.CodeRolledBack:
		return exitRolledBack
	}
	return exitFailed
}

// failedService is an api.Error about a service that gave up, with the last lines that it wrote.
type failedService struct {
	problem api.Error
	output  string
}

func (e *failedService) Error() string { return e.problem.Message }
func (e *failedService) Unwrap() error { return &e.problem }

// usagef is an error in what was typed: exit code 2.
func usagef(hint, format string, args ...any) error {
	return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// explain finds the api.Error in err, or makes one of it.
func explain(err error) *api.Error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.Canceled):
		return &api.Error{Code: api.CodeFailed, Message: "interrupted"}
	}
	return &api.Error{Code: api.CodeFailed, Message: err.Error()}
}

// fail reports err in the form asked for and returns the exit code.
func (c *console) fail(err error) int {
	e := explain(err)
	var failed *failedService
	errors.As(err, &failed)
	if c.json {
		c.failJSON(e, failed)
	} else {
		c.failText(e, failed)
	}
	return exitCode(e.Code)
}

func (c *console) failJSON(e *api.Error, failed *failedService) {
	body := map[string]any{"error": e}
	if failed != nil {
		body["error"] = struct {
			*api.Error
			Output string `json:"output,omitempty"`
		}{e, failed.output}
	}
	_ = json.NewEncoder(c.out).Encode(body) // there is nowhere left to report to
}

func (c *console) failText(e *api.Error, failed *failedService) {
	paint := painter{c.colorErr}
	if len(e.Diagnostics) > 0 { // each shows its own place and way out
		fmt.Fprintf(c.err, "%s the model has %s\n", paint.red("isonomia:"), count(len(e.Diagnostics), "problem"))
		for _, d := range e.Diagnostics {
			fmt.Fprintf(c.err, "\n%s\n", strings.TrimRight(d, "\n"))
		}
		return
	}
	where := ""
	if e.Where != "" && !strings.Contains(e.Message, e.Where) {
		where = e.Where + ": "
	}
	fmt.Fprintf(c.err, "%s %s\n", paint.red("isonomia:"), cleanText(where+e.Message))
	if failed != nil && failed.output != "" {
		fmt.Fprintln(c.err, "Its last output:")
		fmt.Fprint(c.err, indent(cleanText(failed.output), "  | "))
	}
	if e.Hint != "" {
		fmt.Fprintf(c.err, "%s %s\n", paint.yellow("hint:"), cleanText(e.Hint))
	}
}
