package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// A service that never was is told, with what was probably meant; one of which something is left is known.
func TestGCKnowsServices(t *testing.T) {
	t.Parallel()
	s := &model.State{}
	s.ByService = s.ByService.Set("default/staff/row", struct{}{})
	s.Custody = s.Custody.Set("default/gone/process", model.Custody{})
	s.Snapshots = s.Snapshots.Set(model.SnapshotKey("default", "saved", "process", 1), model.Snapshot{})
	left := []api.CollectedState{{Service: "left"}}
	if err := unknownService(s, api.GCRequest{System: "default", Services: []string{"staff", "gone", "saved", "left"}}, left); err != nil {
		t.Error(err)
	}
	var e *api.Error
	if err := unknownService(s, api.GCRequest{System: "default", Services: []string{"staf"}}, left); !errors.As(err, &e) || e.Code != api.CodeNotFound || !strings.Contains(e.Hint, `"staff"`) {
		t.Errorf("%+v", e)
	}
	if err := unknownService(s, api.GCRequest{System: "other", Services: []string{"staff"}}, nil); err == nil {
		t.Error("a service of another system is known")
	}
}
