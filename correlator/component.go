package correlator

import (
	"strings"

	"decaf/topology"
)

// Component is what can be at fault: a directed link, a device or a host.
type Component struct {
	Link *topology.Link // a link, or
	Node string         // the name of a device or host
	host bool
}

// String gives the name used everywhere: "link a>b", "device d", "host h".
func (c Component) String() string {
	switch {
	case c.Link != nil:
		return "link " + c.Link.Name
	case c.host:
		return "host " + c.Node
	case c.Node != "":
		return "device " + c.Node
	}
	return ""
}

// touches says whether packets on the link are the component's concern.
func (c Component) touches(l *topology.Link) bool {
	if l == nil {
		return false
	}
	if c.Link != nil {
		return l == c.Link
	}
	return c.Node != "" && (l.From.Node == c.Node || l.To.Node == c.Node)
}

// within says whether the component is a part of another: a link of a device or
// host that it touches.
func (c Component) within(other Component) bool {
	return c.Link != nil && other.Link == nil && other.touches(c.Link)
}

// devices are the nodes that would see the component's drops.
func (c Component) devices() []string {
	switch {
	case c.Link != nil:
		return []string{c.Link.From.Node, c.Link.To.Node}
	case c.host:
		return nil
	}
	return []string{c.Node}
}

// on says whether the flow's known path holds the component.
func (c Component) on(f *Flow) bool {
	for _, l := range f.Route.Links {
		if c.touches(l) {
			return true
		}
	}
	return false
}

// parseComponent reads a component's name; false when the topology has no such.
func parseComponent(t *topology.Topology, name string) (Component, bool) {
	kind, what, ok := strings.Cut(name, " ")
	if !ok {
		return Component{}, false
	}
	switch kind {
	case "link":
		l, ok := t.Link(what)
		return Component{Link: l}, ok
	case "device":
		_, ok := t.Device(what)
		return Component{Node: what}, ok
	case "host":
		_, ok := t.Host(what)
		return Component{Node: what, host: true}, ok
	}
	return Component{}, false
}
