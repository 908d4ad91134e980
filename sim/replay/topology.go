package replay

import (
	"fmt"
	"strings"

	"decaf/topology"
)

// NodeID is a switch or host of a [Topology].
type NodeID int32

// LinkID is a directed link of a [Topology]. The two directions of a cable are 2n
// and 2n+1.
type LinkID int32

// None stands for a node that is not given.
const None NodeID = -1

// Limits that keep what is read within memory.
const (
	maxName  = 256
	maxNodes = 1 << 23
	maxLinks = 1 << 23 // directed
)

type role uint8

const (
	roleUnknown role = iota
	roleSwitch
	roleHost
)

// Topology is the network of a recording: names interned to numbers. Once complete it
// is read-only and safe for concurrent use.
type Topology struct {
	names  []string
	role   []role
	tor    []NodeID // of hosts; None for switches
	from   []NodeID // by link
	to     []NodeID
	byName map[string]NodeID
	byPair map[uint64]LinkID
	hosts  int
}

// NewTopology is an empty one.
func NewTopology() *Topology {
	return &Topology{byName: make(map[string]NodeID), byPair: make(map[uint64]LinkID)}
}

// FromTopology is a network as a recording has it: parallel links are one, and every
// host has one ToR.
func FromTopology(from *topology.Topology) (*Topology, error) {
	t := NewTopology()
	for _, l := range from.Links {
		_, hostFrom := from.Host(l.From.Node)
		_, hostTo := from.Host(l.To.Node)
		var err error
		switch {
		case hostFrom && hostTo:
			err = fmt.Errorf("link %s joins two hosts: a recording knows hosts at switches only", l.Name)
		case hostTo:
			if id, known := t.byName[l.To.Node]; !known || t.Name(t.tor[id]) != l.From.Node {
				err = t.AddHost(l.To.Node, l.From.Node)
			}
		case !hostFrom:
			err = t.AddLink(l.From.Node, l.To.Node)
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// AddLink joins two switches, both directions; a link given twice, either way round,
// is one. The error says what is wrong: a name that is empty, too long, with a ">" or
// a host's, or too many.
func (t *Topology) AddLink(a, b string) error {
	if a == b {
		return fmt.Errorf("link joins %q to itself", a)
	}
	x, err := t.node(a, roleSwitch)
	if err != nil {
		return err
	}
	y, err := t.node(b, roleSwitch)
	if err != nil {
		return err
	}
	if _, known := t.byPair[pair(x, y)]; known {
		return nil
	}
	return t.join(x, y)
}

// AddHost attaches a host to its ToR.
func (t *Topology) AddHost(host, tor string) error {
	if id, ok := t.byName[host]; ok && t.role[id] == roleHost {
		return fmt.Errorf("host %q is given twice", host)
	}
	x, err := t.node(tor, roleSwitch)
	if err != nil {
		return err
	}
	y, err := t.node(host, roleHost)
	if err != nil {
		return err
	}
	t.tor[y] = x
	t.hosts++
	return t.join(x, y) // the ToR first, so that 2n leads to the host
}

func (t *Topology) node(name string, as role) (NodeID, error) {
	if id, ok := t.byName[name]; ok {
		if t.role[id] != as {
			return 0, fmt.Errorf("%q is both a switch and a host", name)
		}
		return id, nil
	}
	switch {
	case name == "":
		return 0, fmt.Errorf("a name is empty")
	case len(name) > maxName:
		return 0, fmt.Errorf("a name of %d bytes: at most %d", len(name), maxName)
	case strings.Contains(name, ">"):
		return 0, fmt.Errorf("name %q: a > would make link names ambiguous", name)
	case len(t.names) >= maxNodes:
		return 0, fmt.Errorf("more than %d nodes", maxNodes)
	}
	id := NodeID(len(t.names))
	t.names = append(t.names, name)
	t.role = append(t.role, as)
	t.tor = append(t.tor, None)
	t.byName[name] = id
	return id, nil
}

func pair(a, b NodeID) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

func (t *Topology) join(a, b NodeID) error {
	if len(t.from) >= maxLinks {
		return fmt.Errorf("more than %d directed links", maxLinks)
	}
	l := LinkID(len(t.from))
	t.from = append(t.from, a, b)
	t.to = append(t.to, b, a)
	t.byPair[pair(a, b)] = l
	t.byPair[pair(b, a)] = l + 1
	return nil
}

// Nodes is the number of switches and hosts; their ids are 0 to Nodes-1.
func (t *Topology) Nodes() int { return len(t.names) }

// Hosts is how many of the nodes are hosts.
func (t *Topology) Hosts() int { return t.hosts }

// Links is the number of directed links, those of hosts included; their ids are 0 to
// Links-1.
func (t *Topology) Links() int { return len(t.from) }

// Name is a node's.
func (t *Topology) Name(n NodeID) string { return t.names[n] }

// IsHost says whether a node is a host.
func (t *Topology) IsHost(n NodeID) bool { return t.role[n] == roleHost }

// ToR is the switch a host is attached to; None for a switch.
func (t *Topology) ToR(host NodeID) NodeID { return t.tor[host] }

// From is the node that a link's packets leave.
func (t *Topology) From(l LinkID) NodeID { return t.from[l] }

// To is the node that they arrive at.
func (t *Topology) To(l LinkID) NodeID { return t.to[l] }

// Reverse is the other direction.
func (t *Topology) Reverse(l LinkID) LinkID { return l ^ 1 }

// LinkName is a link's name, a>b.
func (t *Topology) LinkName(l LinkID) string { return t.names[t.from[l]] + ">" + t.names[t.to[l]] }

// Node finds a node by its name.
func (t *Topology) Node(name string) (NodeID, bool) {
	n, ok := t.byName[name]
	return n, ok
}

// Link finds the directed link between two nodes.
func (t *Topology) Link(from, to NodeID) (LinkID, bool) {
	l, ok := t.byPair[pair(from, to)]
	return l, ok
}

// SwitchLinks lists the cables between switches by name, in the order given.
func (t *Topology) SwitchLinks() [][2]string {
	var all [][2]string
	for l := 0; l < len(t.from); l += 2 {
		if t.role[t.to[l]] == roleSwitch {
			all = append(all, [2]string{t.names[t.from[l]], t.names[t.to[l]]})
		}
	}
	return all
}

// HostToRs gives every host's ToR by name.
func (t *Topology) HostToRs() map[string]string {
	all := make(map[string]string, t.hosts)
	for n, tor := range t.tor {
		if tor != None {
			all[t.names[n]] = t.names[tor]
		}
	}
	return all
}

// Kind is what a component is.
type Kind uint8

// A component is one of these.
const (
	KindLink Kind = iota
	KindDevice
	KindHost
)

// Component is what may be at fault: a directed link, a device or a host.
type Component struct {
	Kind Kind
	ID   int32 // LinkID of a link, NodeID of the others
}

// LinkComponent is a link as a component.
func LinkComponent(l LinkID) Component { return Component{KindLink, int32(l)} }

// NodeComponent is a device or host as a component.
func (t *Topology) NodeComponent(n NodeID) Component {
	if t.IsHost(n) {
		return Component{KindHost, int32(n)}
	}
	return Component{KindDevice, int32(n)}
}

// ComponentName is "link a>b", "device d" or "host h".
func (t *Topology) ComponentName(c Component) string {
	switch c.Kind {
	case KindLink:
		return "link " + t.LinkName(LinkID(c.ID))
	case KindDevice:
		return "device " + t.names[c.ID]
	}
	return "host " + t.names[c.ID]
}

// Component finds a component by such a name.
func (t *Topology) Component(name string) (Component, bool) {
	kind, rest, _ := strings.Cut(name, " ")
	if kind == "link" {
		from, to, _ := strings.Cut(rest, ">")
		a, okA := t.byName[from]
		b, okB := t.byName[to]
		l, ok := t.Link(a, b)
		return LinkComponent(l), ok && okA && okB
	}
	n, ok := t.byName[rest]
	if !ok || kind != "device" && kind != "host" || (kind == "host") != t.IsHost(n) {
		return Component{}, false
	}
	return t.NodeComponent(n), true
}
