package correlator

import (
	"fmt"
	"math"
	"slices"

	"decaf/correlator/blame"
	"decaf/topology"
)

// fabricIDs ties a topology to the network of package blame, which knows links
// by integers and by the two nodes they join.
//
// Two things of a topology it cannot hold. Links side by side between the same
// two nodes are one link there: a flow's path still tells them apart, and
// [fabricIDs.pick] uses that afterwards. Of a host with several links only the
// device of the first counts: of paths through the others what lies between
// devices is used.
type fabricIDs struct {
	topo  *topology.Topology
	net   *blame.Network
	link  map[*topology.Link]int32
	links [][]*topology.Link // by id: several when they lie side by side
	host  []int32            // by index in Topology.Hosts; -1 for a host without a device
}

// newFabricIDs makes the network of a topology that was checked by the package
// that made it; it panics on one that was not, with names that cannot be.
func newFabricIDs(t *topology.Topology) *fabricIDs {
	hosts := make(map[string]string, len(t.Hosts))
	for _, h := range t.Hosts {
		if out := t.LinksFrom(h.Name); len(out) > 0 {
			if _, ok := t.Device(out[0].To.Node); ok {
				hosts[h.Name] = out[0].To.Node
			}
		}
	}
	var cables [][2]string
	for _, l := range t.Links {
		_, from := t.Device(l.From.Node)
		_, to := t.Device(l.To.Node)
		if from && to {
			cables = append(cables, [2]string{l.From.Node, l.To.Node})
		}
	}
	net, err := blame.NewNetwork(cables, hosts)
	if err != nil {
		panic(fmt.Sprintf("correlator: a topology that was not checked: %v", err))
	}
	x := &fabricIDs{topo: t, net: net, link: make(map[*topology.Link]int32, len(t.Links)), links: make([][]*topology.Link, net.Links()), host: make([]int32, len(t.Hosts))}
	for _, l := range t.Links {
		if id, ok := net.Link(l.From.Node, l.To.Node); ok {
			x.link[l] = id
			x.links[id] = append(x.links[id], l)
		}
	}
	for i, h := range t.Hosts {
		x.host[i] = -1
		if id, ok := net.Host(h.Name); ok {
			x.host[i] = id
		}
	}
	return x
}

// hostID is -1 for a host that is not known.
func (x *fabricIDs) hostID(name string) int32 {
	if id, ok := x.net.Host(name); ok {
		return id
	}
	return -1
}

// path gives the links of a route that are known, in order; nil for none.
func (x *fabricIDs) path(r Route) []int32 {
	var out []int32
	for _, l := range r.Links {
		if id, ok := x.link[l]; ok && l != nil {
			out = append(out, id)
		}
	}
	return out
}

// id gives a component's; false when the network does not hold it.
func (x *fabricIDs) id(c Component) (blame.Component, bool) {
	switch {
	case c.Link != nil:
		id, ok := x.link[c.Link]
		return blame.Component{Kind: blame.Link, ID: id}, ok
	case c.host:
		id, ok := x.net.Host(c.Node)
		return blame.Component{Kind: blame.Host, ID: id}, ok
	default:
		id, ok := x.net.Device(c.Node)
		return blame.Component{Kind: blame.Device, ID: id}, ok
	}
}

// components is the way back of [fabricIDs.id]: one, or of links side by side
// all.
func (x *fabricIDs) components(c blame.Component) []Component {
	switch c.Kind {
	case blame.Device:
		return []Component{{Node: x.net.DeviceName(c.ID)}}
	case blame.Host:
		return []Component{{Node: x.net.HostName(c.ID), host: true}}
	}
	var list []Component
	for _, l := range x.links[c.ID] {
		list = append(list, Component{Link: l})
	}
	return list
}

// sideBySide is how sure it must be that one of several links is meant, nats:
// how unlikely, were it another, that all flows had crossed this one as well.
const sideBySide = 10

// pick brings links side by side back in, which package blame knows as one: of
// the components that it cannot tell apart, those remain that the flows leave
// by the very cables they crossed. The first is the one to name.
func (x *fabricIDs) pick(class []blame.Component, flows []*Flow, paths *pathSets) []Component {
	var all []Component
	bundled := false
	for _, c := range class {
		members := x.components(c)
		bundled = bundled || len(members) > 1
		all = append(all, members...)
	}
	if !bundled {
		return all
	}
	crossing := func(c Component) (list []*Flow) {
		for _, f := range flows {
			if c.on(f) {
				list = append(list, f)
			}
		}
		return list
	}
	most := 0
	for _, c := range all {
		most = max(most, len(crossing(c)))
	}
	all = slices.DeleteFunc(all, func(c Component) bool { return 10*len(crossing(c)) < 9*most })
	return slices.DeleteFunc(slices.Clone(all), func(e Component) bool {
		return slices.ContainsFunc(all, func(c Component) bool {
			if c.Link == nil || e.Link == nil || c == e {
				return false
			}
			apart := 0.0
			for _, f := range crossing(c) {
				if p := paths.chances(f.Src, f.Dst, c.Link, e.Link, func(*topology.Link) bool { return false }); p.both > 0 {
					apart += math.Log(p.b / p.both)
				}
			}
			return apart >= sideBySide
		})
	})
}
