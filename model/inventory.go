package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// What is known of a node comes from three sides: the node announces it, a generator's inventory adds to that, and the
// model has the last word.

// Provenance says where an attribute of a node comes from.
type Provenance string

// Provenances, the weakest first.
const (
	FromNode      Provenance = "announced"
	FromGenerator Provenance = "generator"
	FromModel     Provenance = "model"
)

// InventorySuffix is how the names of those files of a Source end that are inventories: what generators printed.
const InventorySuffix = ".inventory.json"

// maxAttributes bounds what an inventory says of one node.
const maxAttributes = 200

// Value is an attribute, or a setting of a container, with its provenance.
type Value struct {
	Text string
	From Provenance
}

// NodeInfo is what is known of a node.
type NodeInfo struct {
	ID, Name   string
	Attributes map[string]Value
	Containers map[string]map[string]Value // by container: its settings
}

// Infrastructure says what is known of each member, by a model (nil: none) and by what members announce; in name order.
func Infrastructure(s *State, m *Model) []NodeInfo {
	var out []NodeInfo
	for _, n := range s.Nodes.All() {
		out = append(out, m.nodeInfo(n))
	}
	slices.SortFunc(out, func(a, b NodeInfo) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (m *Model) nodeInfo(n Node) NodeInfo {
	info := NodeInfo{ID: n.ID, Name: n.Name, Attributes: make(map[string]Value, len(n.Attributes)), Containers: map[string]map[string]Value{}}
	for k, v := range n.Attributes {
		info.Attributes[k] = Value{v, FromNode}
	}
	if m != nil {
		info.add(m.Inventory[n.Name], FromGenerator)
		if i, found := slices.BinarySearchFunc(m.Nodes, n.Name, func(d *NodeDecl, name string) int { return strings.Compare(d.Name, name) }); found {
			info.add(m.Nodes[i], FromModel)
		}
	}
	return info
}

func (info NodeInfo) add(d *NodeDecl, from Provenance) {
	if d == nil {
		return
	}
	for k, v := range d.Properties {
		info.Attributes[k] = Value{v, from}
	}
	for c, settings := range d.Containers {
		if info.Containers[c] == nil {
			info.Containers[c] = map[string]Value{}
		}
		for k, v := range settings {
			info.Containers[c][k] = Value{v, from}
		}
	}
}

// plain are values without their provenance.
func plain(m map[string]Value) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v.Text
	}
	return out
}

// inventoryNode is a node in an inventory. What else an inventory says of it is not looked at, so that what
// `isonomia infrastructure --json` prints is one.
type inventoryNode struct {
	Name       string                    `json:"name"`
	Attributes map[string]any            `json:"attributes"`
	Containers map[string]map[string]any `json:"containers"`
}

// readInventories reads the inventories of a source, in name order: where two speak of one thing the later wins.
func (p *parser) readInventories() {
	for _, name := range sortedKeys(p.src.Files) {
		if !strings.HasSuffix(name, InventorySuffix) {
			continue
		}
		at := hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}
		dec := json.NewDecoder(bytes.NewReader(p.src.Files[name]))
		dec.UseNumber()
		var nodes []inventoryNode
		err := dec.Decode(&nodes)
		if err == nil && dec.More() {
			err = fmt.Errorf("there is something after its end")
		}
		if err != nil {
			p.rep.fail(at, `Print [{"name": "n1", "attributes": {"zone": "a"}}], as isonomia infrastructure --json does.`, "the inventory is not the JSON expected: %v", err)
			continue
		}
		if len(nodes) > MaxNodes {
			p.rep.fail(at, "Leave those out that are no members.", "the inventory has %d nodes, more than %d", len(nodes), MaxNodes)
			continue
		}
		seen := map[string]bool{}
		for _, n := range nodes {
			if seen[n.Name] {
				p.rep.fail(at, "Print each node once.", "the inventory has node %q twice", n.Name)
				continue
			}
			seen[n.Name] = true
			p.inventoryNode(n, at)
		}
	}
}

func (p *parser) inventoryNode(n inventoryNode, at hcl.Range) {
	if !p.checkName("node", located{n.Name, at}) {
		return
	}
	if len(n.Attributes) > maxAttributes || len(n.Containers) > maxAttributes {
		p.rep.fail(at, "Leave out what nobody looks at.", "the inventory has more than %d attributes or containers of node %q", maxAttributes, n.Name)
		return
	}
	d := p.model.Inventory[n.Name]
	if d == nil {
		d = &NodeDecl{Name: n.Name, Properties: map[string]string{}, Containers: map[string]map[string]string{}, Range: at}
		p.model.Inventory[n.Name] = d
	}
	for _, k := range sortedKeys(n.Attributes) {
		if k != DataAttribute && p.checkProperty(located{k, at}) { // the node's own word, which an export repeats
			p.inventoryValue(d.Properties, n.Name, k, n.Attributes[k], at)
		}
	}
	for _, c := range sortedKeys(n.Containers) {
		if !p.checkName("container", located{c, at}) {
			continue
		}
		settings := maps.Clone(d.Containers[c])
		if settings == nil {
			settings = map[string]string{}
		}
		d.Containers[c] = settings
		for _, k := range sortedKeys(n.Containers[c]) {
			p.checkSetting(c, k, at)
			p.inventoryValue(settings, n.Name, k, n.Containers[c][k], at)
		}
	}
}

func (p *parser) inventoryValue(into map[string]string, node, key string, v any, at hcl.Range) {
	switch v := v.(type) {
	case string:
		if strings.Contains(v, "\x00") {
			p.rep.fail(at, "A program cannot be given that character: leave it out.", "%s of node %q has a zero character", key, node)
			return
		}
		into[key] = v
	case json.Number:
		into[key] = v.String()
	case bool:
		into[key] = fmt.Sprint(v)
	case nil:
	default:
		p.rep.fail(at, "Make one text of it.", "%s of node %q is a list or an object, and must be a text, a number or a boolean", key, node)
	}
}

// checkProperty says whether a name can be an attribute of a node: expressions read it as node.NAME.
func (p *parser) checkProperty(name located) bool {
	if name.text != "name" && hclsyntax.ValidIdentifier(name.text) {
		return true
	}
	p.rep.fail(name.at, `Use letters, digits, hyphens and underscores, and not "name", which every node has.`, "%q cannot be a property of a node", name.text)
	return false
}
