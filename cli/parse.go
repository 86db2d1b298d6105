package cli

import (
	"fmt"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// parse reads a model and, when something is wrong with it, says all that is, each with its place.
func (c *console) parse(src model.Source) (*model.Model, error) {
	m, diags := model.Parse(src, model.Known{Modules: model.Modules()})
	if !diags.HasErrors() {
		return m, nil
	}
	e := &api.Error{Code: api.CodeInvalidModel, Message: fmt.Sprintf("the model has %s", count(len(diags), "problem"))}
	for _, d := range diags {
		e.Diagnostics = append(e.Diagnostics, model.Diagnostics{d}.Text(src, c.width, c.colorErr && !c.json))
		if e.Where == "" && d.Subject.File != "" {
			e.Where, e.Hint = fmt.Sprintf("%s:%d", d.Subject.File, d.Subject.Line), d.Hint
		}
	}
	return nil, e
}
