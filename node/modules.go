package node

import (
	"fmt"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/process"
)

// module is what runs the instances of a type.
func (n *Node) module(typ string) (activate.Module, error) {
	if typ == process.Type {
		return n.proc, nil
	}
	return nil, fmt.Errorf("type %q: this node has no module for it", typ)
}

// stateful is the module of a type, if it knows state.
func (n *Node) stateful(typ string) (activate.Stateful, error) {
	m, err := n.module(typ)
	if err != nil {
		return nil, err
	}
	s, ok := m.(activate.Stateful)
	if !ok {
		return nil, fmt.Errorf("type %q: its services have no state that could be saved", typ)
	}
	return s, nil
}
