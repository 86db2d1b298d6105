package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func TestRenderRecovery(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	renderRecovery(&b, api.Recovery{
		Reconstruction: api.Reconstruction{From: "n4", Index: 1234, Missing: []string{"n1", "n2", "n3"}, Nodes: []api.SurveyedNode{
			{Name: "n4", Voter: true, Term: 7, Last: 1234, Index: 1230, Chosen: true}, {Name: "n5", Voter: true, Term: 7, Last: 1200, Index: 1200}, {Name: "n6", Index: 1199}}},
		Log: true, Voters: []string{"n1", "n2", "n3", "n4", "n5"}, Silent: []string{"n1", "n2", "n3"},
		Newest: []api.Newest{{System: "default", Generation: 12, At: time.Unix(0, 0)}},
	}, painter{}, 0)
	want := `NODE  ROLE   LOG ENDS AT   COMMITTED
n4    voter  1234, term 7  1230       the cluster goes on from this
n5    voter  1200, term 7  1200
n6           no log        1199
3 of 5 voters are not there, or have no log any more: n1, n2, n3. What was decided after entry 1234 and only they know of is lost.
The newest deployment of default that is known is generation 12, of 1970-01-01T00:00:00Z.
Members that do not answer: n1, n2, n3. They count as down, and are members still.
If they are alive after all, and a cluster of their own: exclusive services run on both sides until they are back in touch, and what is decided there is lost then.
`
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}
