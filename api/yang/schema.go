package yang

import (
	"slices"
	"strings"
)

// Kind says how the values under a node come about, and with it how a
// subscription of mode TARGET_DEFINED is served.
type Kind uint8

const (
	// State is sampled: counters and the like.
	State Kind = iota
	// Event is sent on change: an atomic notification for each event.
	Event
	// Setting is sent on change, and when it is gone: what clients set.
	Setting
)

// Type is the YANG type of a leaf, as far as its encoding depends on it.
type Type uint8

const (
	// Container is no leaf.
	Container Type = iota
	// String is a string.
	String
	// Uint is an unsigned integer of at most 32 bits.
	Uint
	// Uint64 is an unsigned integer that JSON_IETF writes as a string (RFC
	// 7951, section 6.1).
	Uint64
	// Binary is bytes, base64 in JSON.
	Binary
	// Strings is a leaf-list of strings.
	Strings
	// Bool is true or false.
	Bool
)

// Node is one name of a schema tree: a container, a list (with Keys) or a leaf
// (Type other than Container). A tree is not changed once it is built.
type Node struct {
	Name     string
	Module   string   // where it begins, at the top or below: what qualifies the name in JSON_IETF
	Keys     []string // key leaves of a list
	Type     Type
	Kind     Kind
	Writable bool // clients may set it; of a container, something below it
	Children []*Node
}

// Child returns the child of that name, or nil.
func (n *Node) Child(name string) *Node {
	for _, c := range n.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Leaf reports whether the node holds a value.
func (n *Node) Leaf() bool { return n.Type != Container }

// HasKey reports whether the node is a list with that key.
func (n *Node) HasKey(name string) bool {
	for _, k := range n.Keys {
		if k == name {
			return true
		}
	}
	return false
}

// Schema returns the tree of module decaf-loss, which a test holds against
// decaf-loss.yang, and beside it the standard paths; its root has no name.
func Schema() *Node {
	event := leaves(eventLeaves, Event)
	packet := &Node{Name: "packet", Kind: Event}
	for _, l := range packetLeaves {
		packet.Children = append(packet.Children, &Node{Name: l.name, Type: l.typ, Kind: Event})
	}
	inner := &Node{Name: "inner", Kind: Event}
	for _, l := range innerLeaves {
		inner.Children = append(inner.Children, &Node{Name: l.name, Type: l.typ, Kind: Event})
	}
	event = append(event, packet, inner)
	return &Node{Writable: true, Children: append([]*Node{{Name: "loss", Module: Module, Writable: true, Children: []*Node{
		{Name: "agent", Children: []*Node{
			{Name: "state", Children: leaves(agentLeaves, State)},
		}},
		{Name: "reporting", Kind: Setting, Writable: true, Children: []*Node{
			config(leaves(generalLeaves, Setting)),
			{Name: "state", Kind: Setting, Children: leaves(generalLeaves, Setting)},
		}},
		{Name: "fuse", Kind: Setting, Writable: true, Children: []*Node{
			config(leaves(fuseLeaves, Setting)),
			{Name: "state", Kind: Setting, Children: leaves(fuseLeaves, Setting)},
		}},
		{Name: "filters", Kind: Setting, Writable: true, Children: []*Node{
			{Name: "filter", Keys: []string{"name"}, Kind: Setting, Writable: true, Children: []*Node{
				{Name: "name", Type: String, Kind: Setting, Writable: true},
				config(leaves(filterLeaves, Setting)),
				{Name: "state", Kind: Setting, Children: append(leaves(filterLeaves, Setting),
					&Node{Name: "counters", Children: leaves(filterCounterLeaves, State)})},
			}},
		}},
		{Name: "classes", Writable: true, Children: []*Node{
			{Name: "class", Keys: []string{"name"}, Writable: true, Children: []*Node{
				{Name: "name", Type: String, Writable: true},
				config([]*Node{{Name: "name", Type: String, Kind: Setting}}),
				{Name: "state", Children: leaves(classLeaves, State)},
				{Name: "reporting", Writable: true, Children: []*Node{
					config(reportingConfig()),
					{Name: "state", Children: leaves(reportingLeaves, State)},
				}},
			}},
		}},
		{Name: "events", Kind: Event, Children: []*Node{
			{Name: "event", Keys: []string{"slot"}, Kind: Event, Children: []*Node{
				{Name: "slot", Type: Uint64, Kind: Event},
				{Name: "state", Kind: Event, Children: event},
			}},
		}},
		{Name: "aggregates", Kind: Event, Children: []*Node{
			{Name: "aggregate", Keys: []string{"slot"}, Kind: Event, Children: []*Node{
				{Name: "slot", Type: Uint64, Kind: Event},
				{Name: "state", Kind: Event, Children: leaves(aggregateLeaves, Event)},
				{Name: "flows", Kind: Event, Children: []*Node{ranked("flow", leaves(flowLeaves, Event))}},
				{Name: "prefixes", Kind: Event, Children: []*Node{ranked("prefix", leaves(prefixLeaves, Event))}},
			}},
		}},
		{Name: "transitions", Kind: Event, Children: []*Node{
			{Name: "transition", Keys: []string{"slot"}, Kind: Event, Children: []*Node{
				{Name: "slot", Type: Uint64, Kind: Event},
				{Name: "state", Kind: Event, Children: leaves(transitionLeaves, Event)},
			}},
		}},
		{Name: "routes", Kind: Event, Children: []*Node{
			{Name: "route", Keys: []string{"slot"}, Kind: Event, Children: []*Node{
				{Name: "slot", Type: Uint64, Kind: Event},
				{Name: "state", Kind: Event, Children: leaves(routeLeaves, Event)},
			}},
		}},
	}}}, standard()...)}
}

// config is a container of leaves that clients set.
func config(leaves []*Node) *Node {
	for _, l := range leaves {
		l.Writable = true
	}
	return &Node{Name: "config", Kind: Setting, Writable: true, Children: leaves}
}

// reportingConfig are the leaves of general settings that a class has too.
func reportingConfig() []*Node {
	return slices.DeleteFunc(leaves(generalLeaves, Setting), func(n *Node) bool { return strings.HasPrefix(n.Name, "prefix-length-") })
}

// ranked is a list of an aggregate, by rank.
func ranked(name string, state []*Node) *Node {
	return &Node{Name: name, Keys: []string{"rank"}, Kind: Event, Children: []*Node{
		{Name: "rank", Type: Uint, Kind: Event},
		{Name: "state", Kind: Event, Children: state},
	}}
}

func leaves[T any](table []leaf[T], kind Kind) []*Node {
	var out []*Node
	for _, l := range table {
		out = append(out, &Node{Name: l.name, Type: l.typ, Kind: kind})
	}
	return out
}
