package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
)

// sealInfo names what is sealed with a node's sealing key.
const sealInfo = "isonomia cluster CA key"

// initPart is what cluster.json keeps of a bootstrap until the log has it: a crash in between finishes at the next start.
type initPart struct {
	Init model.Init `cbor:"1,keyasint"`
}

// enter gives the trust of the cluster that the data directory belongs to, making or joining one first if need be.
func enter(ctx context.Context, cfg Config, id *mesh.Identity) (*trust, error) {
	t, err := loadTrust(paths(cfg.Dir).cluster())
	if err == nil {
		err = t.heldBy(id)
	}
	switch {
	case err == nil && cfg.Bootstrap && len(t.get().Init) == 0:
		cfg.Log.Info("the data directory knows its cluster already; --bootstrap is not needed", "cluster", t.get().ID[:8])
		return t, nil
	case err == nil && len(cfg.Join) > 0:
		return t, t.rejoin(cfg.Join, cfg.Token)
	case err == nil:
		return t, nil
	case !errors.Is(err, errNoCluster):
		return nil, err
	case cfg.Bootstrap && len(cfg.Join) > 0:
		return nil, errors.New("--bootstrap makes a new cluster and --join enters one: give one of them")
	case cfg.Bootstrap:
		return bootstrap(cfg, id)
	case len(cfg.Join) > 0:
		return join(ctx, cfg, id)
	}
	return nil, errors.New("the data directory is empty: make a new cluster with --bootstrap, or enter one with --join HOST:PORT and a token (isonomia token create on a member)")
}

// bootstrap makes a CA and the first node's certificate, and writes them down with the Init command to come.
func bootstrap(cfg Config, id *mesh.Identity) (*trust, error) {
	raw := make([]byte, 16+32)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("draw a cluster id: %w", err)
	}
	cluster := hex.EncodeToString(raw[:16])
	ca, err := mesh.NewCA(cluster)
	if err != nil {
		return nil, err
	}
	key, err := ca.KeyDER()
	if err != nil {
		return nil, err
	}
	sealed, err := mesh.Seal(id.SealPub, sealInfo, key)
	if err != nil {
		return nil, err
	}
	leaf, err := ca.SignNode(id.Public(), time.Now(), cfg.CertLife)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	n := selfNode(cfg, id, nil)
	n.Server, n.Epoch, n.Admitted = true, 1, now
	storeKey := make([]byte, 32)
	_, _ = rand.Read(storeKey) // never fails (crypto/rand)
	init := initPart{model.Init{Node: n, Cluster: model.Cluster{ID: cluster, Created: now, CA: ca.Cert.Raw, Epoch: 1, StoreKey: storeKey,
		Sealed: map[string][]byte{id.ID: sealed}, LeafLife: cfg.CertLife}}}
	b, err := cbor.Marshal(init)
	if err != nil {
		return nil, fmt.Errorf("encode init: %w", err)
	}
	return writeTrust(cfg, clusterFile{Version: 1, ID: cluster, Name: cfg.Name, CA: ca.Cert.Raw, Leaf: leaf,
		GossipKeys: [][]byte{raw[16:]}, Init: b, Created: now})
}

func writeTrust(cfg Config, f clusterFile) (*trust, error) {
	t, err := newTrust(paths(cfg.Dir).cluster(), f)
	if err != nil {
		return nil, err
	}
	return t, t.change(func(*clusterFile) {})
}

// selfNode is what this node says of itself. announced are its attributes as it told them last.
func selfNode(cfg Config, id *mesh.Identity, announced map[string]string) model.Node {
	return model.Node{ID: id.ID, Name: cfg.Name, Key: id.Public(), SealKey: id.SealPub, Attributes: facts(cfg, announced),
		Host: ownHost(cfg), Version: Version, StateMax: model.StateVersion}
}

// ownHost is the address at which others reach this node's services: the advertised one, the bound one, or the one of
// the default route.
func ownHost(cfg Config) string {
	for _, hp := range []string{cfg.Advertise, cfg.Bind} {
		host, _, err := net.SplitHostPort(hp)
		if ip := net.ParseIP(host); err == nil && host != "" && (ip == nil || !ip.IsUnspecified()) {
			return host
		}
	}
	c, err := net.Dial("udp", "192.0.2.1:9") // sends nothing: it only asks which address would be used
	if err != nil {
		return "127.0.0.1"
	}
	defer c.Close()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return "127.0.0.1"
	}
	return host
}

// joinRequest is what a machine asks, behind the check of the cluster's fingerprint.
type joinRequest struct {
	Token  string     `cbor:"1,keyasint"`
	Secret []byte     `cbor:"2,keyasint"`
	Node   model.Node `cbor:"3,keyasint"`
}

// joinReply is what it needs to be a member.
type joinReply struct {
	Cluster    string   `cbor:"1,keyasint"`
	CA         []byte   `cbor:"2,keyasint"`
	Leaf       []byte   `cbor:"3,keyasint"`
	GossipKeys [][]byte `cbor:"4,keyasint"`
	Peers      []string `cbor:"5,keyasint"` // host:port of members
}

// join asks the given members in turn until one admits this machine. A refusal ends it; an address that does not
// answer, or a cluster without quorum, is tried again.
func join(ctx context.Context, cfg Config, id *mesh.Identity) (*trust, error) {
	tok, err := mesh.ParseToken(cfg.Token)
	if cfg.Token == "" {
		return nil, errors.New("--join needs a token: run 'isonomia token create' on a member and pass it with --token-file or ISONOMIA_TOKEN")
	}
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	req, err := cbor.Marshal(joinRequest{Token: tok.ID, Secret: tok.Secret, Node: selfNode(cfg, id, nil)})
	if err != nil {
		return nil, fmt.Errorf("encode join request: %w", err)
	}
	wait := 250 * time.Millisecond
	for {
		for _, addr := range cfg.Join {
			rep, err := joinOne(ctx, addr, id, tok.CAFingerprint, req)
			if err == nil {
				peers := append(cfg.Join[:len(cfg.Join):len(cfg.Join)], rep.Peers...)
				return writeTrust(cfg, clusterFile{Version: 1, ID: rep.Cluster, Name: cfg.Name, CA: rep.CA, Leaf: rep.Leaf,
					GossipKeys: rep.GossipKeys, Join: peers, Created: time.Now().UTC()})
			}
			if final := refusal(err); final != nil {
				return nil, final
			}
			cfg.Log.Warn("joining: will try again", "address", addr, "reason", err.Error(), "in", wait)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, 5*time.Second)
		}
	}
}

func joinOne(ctx context.Context, addr string, id *mesh.Identity, fingerprint string, req []byte) (joinReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	b, err := mesh.Join(ctx, addr, id, fingerprint, req)
	if err != nil {
		return joinReply{}, err
	}
	var rep joinReply
	if err := cbor.Unmarshal(b, &rep); err != nil {
		return joinReply{}, fmt.Errorf("decode the answer of %s: %w", addr, err)
	}
	return rep, nil
}

// refusal gives the error to end with, nil when trying again makes sense.
func refusal(err error) error {
	var r *mesh.Refused
	switch {
	case errors.As(err, &r) && !r.Retry:
		return fmt.Errorf("not admitted: %s", r.Message)
	case errors.Is(err, mesh.ErrWrongCluster):
		return fmt.Errorf("not joined, and nothing was sent: %w; the token is of a cluster with another CA", err)
	}
	return nil
}

// hashSecret is what State keeps of a token's secret.
func hashSecret(secret []byte) []byte {
	sum := sha256.Sum256(secret)
	return sum[:]
}

// admit answers a join request on behalf of the cluster: it is passed to the leader, who proposes it and signs.
func (n *Node) admit(ctx context.Context, key ed25519.PublicKey, request []byte) ([]byte, error) {
	var req joinRequest
	if err := cbor.Unmarshal(request, &req); err != nil {
		return nil, &mesh.Refused{Code: "invalid", Message: "the request is malformed"}
	}
	if req.Node.ID != mesh.NodeID(key) || !key.Equal(ed25519.PublicKey(req.Node.Key)) {
		return nil, &mesh.Refused{Code: "invalid", Message: "the request names another key than the connection's"}
	}
	if !nodeName.MatchString(req.Node.Name) {
		return nil, &mesh.Refused{Code: "invalid", Message: fmt.Sprintf("%q is not a node name", req.Node.Name)}
	}
	res, err := n.fsm.Propose(ctx, model.Admit{Token: req.Token, Secret: hashSecret(req.Secret), Node: req.Node, Now: time.Now().UTC()})
	if err != nil {
		return nil, &mesh.Refused{Code: "no_quorum", Message: "the cluster has no leader at the moment: " + err.Error(), Retry: true}
	}
	if err := res[0].Err(); err != nil {
		return nil, &mesh.Refused{Code: string(res[0].Code), Message: err.Error()}
	}
	leaf, err := n.signLeaf(ctx, key)
	if err != nil {
		return nil, &mesh.Refused{Code: "no_signer", Message: err.Error(), Retry: true}
	}
	f := n.trust.get()
	rep := joinReply{Cluster: f.ID, CA: n.fsm.State().Cluster.CA, Leaf: leaf, GossipKeys: n.mesh.GossipKeys()}
	for _, m := range n.mesh.Members() {
		rep.Peers = append(rep.Peers, m.Addr)
	}
	n.note(Noted{Kind: "join", Message: fmt.Sprintf("node %s was admitted (%.8s)", req.Node.Name, req.Node.ID)})
	return cbor.Marshal(rep)
}

// signLeaf has the leader sign a certificate for a member's key.
func (n *Node) signLeaf(ctx context.Context, key ed25519.PublicKey) ([]byte, error) {
	if n.fsm.IsLeader() {
		return n.signLeafHere(key)
	}
	return n.peers.sign(ctx, n.fsm.Leader(), key)
}

// signLeafHere signs if the key is a member's. Only raft servers hold the CA's key, and only the leader is asked.
func (n *Node) signLeafHere(key ed25519.PublicKey) ([]byte, error) {
	s := n.fsm.State()
	if !s.Nodes.Has(mesh.NodeID(key)) {
		return nil, errors.New("that key is no member's")
	}
	ca, err := n.openCA(s)
	if err != nil {
		return nil, err
	}
	return ca.SignNode(key, time.Now(), s.Cluster.LeafLife)
}

func (n *Node) openCA(s *model.State) (*mesh.CA, error) {
	sealed, ok := s.Cluster.Sealed[n.id.ID]
	if !ok {
		return nil, errors.New("the CA's key is not sealed to this node yet")
	}
	key, err := n.id.Open(sealInfo, sealed)
	if err != nil {
		return nil, fmt.Errorf("open the CA's key: %w", err)
	}
	return mesh.ParseCA(s.Cluster.CA, key)
}

func makeDirs(dir string) error {
	for _, d := range []string{"", "packages", "state", "run", "logs", "build", "raft", "store", "stage", "modules"} {
		mode := os.FileMode(0o755) // services of other users pass through; what is private is 0700 below
		if d == "raft" || d == "store" || d == "stage" || d == "modules" {
			mode = 0o700
		}
		if err := os.MkdirAll(paths(dir).join(d), mode); err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
	}
	return nil
}
