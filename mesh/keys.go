package mesh

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

const (
	gossipKeySize = 32 // bytes: AES-256-GCM
	maxGossipKeys = 8
	rotateTries   = 3 // of each step; a lost datagram is normal
)

func newKeyring(keys [][]byte) (*memberlist.Keyring, error) {
	if len(keys) > maxGossipKeys {
		return nil, fmt.Errorf("gossip keys: %d, the limit is %d", len(keys), maxGossipKeys)
	}
	for _, k := range keys {
		if len(k) != gossipKeySize {
			return nil, fmt.Errorf("gossip key: %d bytes, want %d", len(k), gossipKeySize)
		}
	}
	return memberlist.NewKeyring(keys, keys[0])
}

// GossipKeys lists the keys that this node accepts, the one it sends with first.
func (m *Mesh) GossipKeys() [][]byte {
	var out [][]byte
	for _, k := range m.gossip.ring.GetKeys() {
		out = append(out, slices.Clone(k))
	}
	return out
}

// SetGossipKeys replaces this node's keys, the one to send with first: for a
// node that missed a rotation. Connections need no gossip key, so it can still
// ask another for them.
func (m *Mesh) SetGossipKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return fmt.Errorf("gossip keys: none")
	}
	if _, err := newKeyring(keys); err != nil {
		return err
	}
	ring := m.gossip.ring
	for _, k := range keys {
		if err := ring.AddKey(k); err != nil {
			return fmt.Errorf("add gossip key: %w", err)
		}
	}
	if err := ring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("use gossip key: %w", err)
	}
	for _, k := range m.GossipKeys() {
		if !slices.ContainsFunc(keys, func(o []byte) bool { return slices.Equal(o, k) }) {
			_ = ring.RemoveKey(k) // fails only for the primary, which is in keys
		}
	}
	m.rejoin.wake()
	return nil
}

// RotateGossipKey makes key the one of all live members, and drops the others:
// install everywhere, use everywhere, remove everywhere, each step only when
// every live member confirmed the one before. After an error it may be called
// again with the same key. Members that are down need SetGossipKeys when they
// return.
func (m *Mesh) RotateGossipKey(ctx context.Context, key []byte) error {
	if len(key) != gossipKeySize {
		return fmt.Errorf("rotate gossip key: %d bytes, want %d", len(key), gossipKeySize)
	}
	km := m.gossip.serf.KeyManager()
	if err := keyStep(ctx, "install", key, km.InstallKey); err != nil {
		return err
	}
	if err := keyStep(ctx, "use", key, km.UseKey); err != nil {
		return err
	}
	for _, old := range m.GossipKeys() {
		if slices.Equal(old, key) {
			continue
		}
		if err := keyStep(ctx, "remove", old, km.RemoveKey); err != nil {
			return err
		}
	}
	m.noteKeys()
	return nil
}

// keyStep asks all members, again if an answer is missing.
func keyStep(ctx context.Context, what string, key []byte, ask func(string) (*serf.KeyResponse, error)) error {
	var last error
	for range rotateTries {
		done := make(chan error, 1)
		go func() {
			_, err := ask(base64.StdEncoding.EncodeToString(key))
			done <- err
		}()
		select {
		case last = <-done:
		case <-ctx.Done():
			return fmt.Errorf("rotate gossip key: %s: %w", what, ctx.Err())
		}
		if last == nil {
			return nil
		}
	}
	return fmt.Errorf("rotate gossip key: %s: %w", what, last)
}

// noteKeys tells the caller when the keys have changed since it last heard.
func (m *Mesh) noteKeys() {
	m.keysMu.Lock()
	defer m.keysMu.Unlock()
	keys := m.GossipKeys()
	if slices.EqualFunc(keys, m.lastKeys, slices.Equal[[]byte]) {
		return
	}
	m.lastKeys = keys
	if m.cfg.OnKeys != nil {
		m.cfg.OnKeys(keys)
	}
}
