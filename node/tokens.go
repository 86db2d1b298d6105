package node

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

func (n *Node) getTokens(*http.Request) (any, error) {
	out := []api.Token{}
	for _, t := range n.fsm.State().Tokens.All() {
		out = append(out, api.Token{ID: t.ID, Role: t.Role, UsesLeft: t.UsesLeft, Expires: t.Expires, Created: t.Created, By: t.By})
	}
	slices.SortFunc(out, func(a, b api.Token) int { return a.Created.Compare(b.Created) })
	return out, nil
}

// postToken draws a secret, stores its hash and shows it once.
func (n *Node) postToken(r *http.Request) (any, error) {
	req, err := decode[api.TokenRequest](r)
	if err != nil {
		return nil, err
	}
	req.Role, req.Uses, req.TTL = cmp.Or(req.Role, "node"), cmp.Or(req.Uses, 1), cmp.Or(req.TTL, time.Hour)
	if err := checkToken(req); err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(n.fsm.State().Cluster.CA) // this node's own certificate may still be of a former one
	if err != nil {
		return nil, fmt.Errorf("read the CA's certificate: %w", err)
	}
	tok := mesh.NewToken((&mesh.CA{Cert: ca}).Fingerprint())
	now := time.Now().UTC()
	err = n.proposeOne(r.Context(), model.CreateToken{Token: model.Token{ID: tok.ID, Role: req.Role, Hash: hashSecret(tok.Secret),
		UsesLeft: req.Uses, Created: now, Expires: now.Add(req.TTL), By: req.By}})
	return api.TokenCreated{ID: tok.ID, Token: tok.String()}, err
}

func checkToken(req api.TokenRequest) error {
	switch {
	case req.Role != "node":
		return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("there is no role %q", req.Role), Hint: "The role is node."}
	case req.Uses < 1 || req.Uses > 1000:
		return &api.Error{Code: api.CodeUsage, Message: "a token has 1 to 1000 uses"}
	case req.TTL < time.Second || req.TTL > 30*24*time.Hour:
		return &api.Error{Code: api.CodeUsage, Message: "a token lives between one second and 30 days"}
	}
	return nil
}

func (n *Node) deleteToken(r *http.Request) (any, error) {
	return struct{}{}, n.proposeOne(r.Context(), model.RevokeToken{ID: r.PathValue("id")})
}

// proposeOne proposes a command from any node and gives its refusal as an error. When it returns, this node's own State
// has it, so that who asks the same node next sees it.
func (n *Node) proposeOne(ctx context.Context, c model.Command) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	res, err := n.fsm.Propose(ctx, c)
	if err != nil {
		return err
	}
	n.await(ctx, res[0].Index)
	return res[0].Err()
}

// await gives this node's State a moment to reach an index; not reaching it is no failure of what was asked.
func (n *Node) await(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, _ = n.fsm.Wait(ctx, index)
}
