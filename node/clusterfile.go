package node

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/mesh"
)

// clusterFile is what a node must know of its cluster before it can speak with anybody: cluster.json, 0600, replaced
// as a whole. A data directory without it belongs to no cluster.
type clusterFile struct {
	Version    int       `json:"version"` // 1
	ID         string    `json:"id"`
	Name       string    `json:"name"`                 // of this node
	CA         []byte    `json:"ca"`                   // certificate, DER
	FormerCAs  []string  `json:"former_cas,omitempty"` // fingerprints: tokens that configurations still name are of these
	Leaf       []byte    `json:"leaf"`                 // this node's certificate, DER
	GossipKeys [][]byte  `json:"gossip_keys"`
	Join       []string  `json:"join,omitempty"` // addresses as the operator gave them
	Removed    []string  `json:"removed,omitempty"`
	Init       []byte    `json:"init,omitempty"` // of a bootstrap that is not in the log yet: the Init command's parts
	Created    time.Time `json:"created"`
}

// trust answers who is a member. It is asked in every handshake, so it holds what it needs in memory.
type trust struct {
	path  string
	write sync.Mutex // held while the file is written: handshakes do not wait for the disk
	mu    sync.Mutex // guards file
	file  clusterFile
	ca    *x509.Certificate // guarded by mu
	// pinned looks a key up among those of the members as this node knows them; nil until mesh is opened. Guarded by mu.
	pinned func(id string) (key []byte, removed bool)
}

func (t *trust) setPinned(f func(id string) ([]byte, bool)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pinned = f
}

var errNoCluster = errors.New("the data directory belongs to no cluster")

// loadTrust reads cluster.json; errNoCluster when there is none.
func loadTrust(path string) (*trust, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoCluster
	}
	if err != nil {
		return nil, fmt.Errorf("read cluster file: %w", err)
	}
	var f clusterFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("cluster file %s is damaged: %w", path, err)
	}
	if f.Version != 1 {
		return nil, fmt.Errorf("cluster file %s is of version %d; this binary knows version 1", path, f.Version)
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("cluster file %s is damaged: %w", path, err)
	}
	return newTrust(path, f)
}

// check refuses what would make the agent fail later, where the reason could not be seen.
func (f clusterFile) check() error {
	if len(f.ID) < 8 || !nodeName.MatchString(f.Name) {
		return errors.New("it names no cluster or no node")
	}
	if len(f.GossipKeys) == 0 || slices.ContainsFunc(f.GossipKeys, func(k []byte) bool { return len(k) != 32 }) {
		return errors.New("its gossip keys are missing or incomplete")
	}
	if _, err := leafDue(f.Leaf); err != nil {
		return err
	}
	return nil
}

// heldBy says whether the file was written for the node of that key.
func (t *trust) heldBy(id *mesh.Identity) error {
	leaf, err := x509.ParseCertificate(t.file.Leaf)
	if err != nil {
		return fmt.Errorf("cluster file %s is damaged: %w", t.path, err)
	}
	named, err := mesh.VerifyNode(leaf, []*x509.Certificate{t.ca}, time.Time{}) // that it expired is seen by others, and mended
	if err != nil {
		return fmt.Errorf("cluster file %s: %w", t.path, err)
	}
	if named != id.ID {
		return fmt.Errorf("%s was made for node %.8s, but node.key beside it is that of %.8s: the directory was put together from two", t.path, named, id.ID)
	}
	return nil
}

// rejoin takes new addresses of members. A token is not needed, but if it is given it must be of the same cluster.
func (t *trust) rejoin(addrs []string, token string) error {
	if token != "" {
		tok, err := mesh.ParseToken(token)
		if err != nil {
			return fmt.Errorf("token: %w", err)
		}
		if own := (&mesh.CA{Cert: t.authority()}).Fingerprint(); tok.CAFingerprint != own && !slices.Contains(t.get().FormerCAs, tok.CAFingerprint) {
			return fmt.Errorf("the data directory %s belongs to cluster %.8s and the token to another: use another directory (--data) to join that one", filepath.Dir(t.path), t.file.ID)
		}
	}
	return t.change(func(f *clusterFile) { f.Join = addrs })
}

func newTrust(path string, f clusterFile) (*trust, error) {
	ca, err := x509.ParseCertificate(f.CA)
	if err != nil {
		return nil, fmt.Errorf("cluster file %s: the CA's certificate is damaged: %w", path, err)
	}
	return &trust{path: path, file: f, ca: ca}, nil
}

// change edits the file and makes it durable.
func (t *trust) change(edit func(*clusterFile)) error {
	t.write.Lock()
	defer t.write.Unlock()
	t.mu.Lock()
	edit(&t.file)
	text := mustJSON(t.file)
	t.mu.Unlock()
	return writeFileDurably(t.path, text, 0o600)
}

func (t *trust) get() clusterFile {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file
}

// authority is the CA's certificate.
func (t *trust) authority() *x509.Certificate {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ca
}

// certified replaces this node's certificate, and the authority's where the cluster has a new one. One that the authority did
// not sign is refused.
func (t *trust) certified(leaf, authority []byte) error {
	ca, err := x509.ParseCertificate(authority)
	if err != nil {
		return fmt.Errorf("the CA's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(leaf)
	if err != nil {
		return fmt.Errorf("the leader signed something that is no certificate: %w", err)
	}
	if _, err := mesh.VerifyNode(cert, []*x509.Certificate{ca}, time.Now()); err != nil {
		return err
	}
	return t.change(func(f *clusterFile) {
		if !t.ca.Equal(ca) {
			f.FormerCAs = append(slices.Clip(f.FormerCAs), (&mesh.CA{Cert: t.ca}).Fingerprint())
		}
		f.Leaf, f.CA, t.ca = leaf, authority, ca
	})
}

// chain is what this node presents.
func (t *trust) chain() ([][]byte, error) {
	f := t.get()
	return [][]byte{f.Leaf, f.CA}, nil
}

// accept decides about a peer: pinned in State, or vouched for by the CA; removal beats both.
func (t *trust) accept(pub ed25519.PublicKey, chain []*x509.Certificate) error {
	id := mesh.NodeID(pub)
	t.mu.Lock()
	barred, pinned, ca := slices.Contains(t.file.Removed, id), t.pinned, t.ca
	t.mu.Unlock()
	if barred {
		return fmt.Errorf("node %.8s was removed", id)
	}
	if pinned != nil {
		key, removed := pinned(id)
		switch {
		case removed:
			return fmt.Errorf("node %.8s was removed", id)
		case key != nil && pub.Equal(ed25519.PublicKey(key)):
			return nil
		}
	}
	if len(chain) == 0 {
		return fmt.Errorf("node %.8s is not known here and shows no certificate", id)
	}
	named, err := mesh.VerifyNode(chain[0], []*x509.Certificate{ca}, time.Now())
	if err != nil {
		return err
	}
	if named != id {
		return fmt.Errorf("the certificate names node %.8s, the key is that of %.8s", named, id)
	}
	return nil
}

func mustJSON(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic("node: value does not encode: " + err.Error()) // plain data
	}
	return b
}

// writeFileDurably replaces a file as a whole: temp, fsync, rename, fsync of the directory.
func writeFileDurably(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-"+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
