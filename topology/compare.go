package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Comparison is what walks say of a topology that is in force.
type Comparison struct {
	// Pairs counts the pairs of its hosts that were walked; Foreign counts walks
	// with an end that is none of them.
	Pairs, Foreign int
	// Seen counts its directed links that were walked.
	Seen int
	// Unseen are links of the ECMP sets of these pairs that no walk went over, in
	// file order. A switch that does not answer hides the link into it.
	Unseen []*Link
	// Unknown are steps that were walked and are no link of it.
	Unknown []Step
}

// Step is a link as a walk shows it, in the topology's words where it has some.
type Step struct {
	From string     // node, or an address; "" where nobody answered
	To   string     // node:interface, or "" where the address is of none
	Addr netip.Addr // that answered; not valid where To is a host
	// Walks counts those that went there.
	Walks int
}

// String gives "a>b:eth1", or "a>10.0.0.1" where nothing has the address.
func (s Step) String() string {
	from, to := s.From, s.To
	if from == "" {
		from = "?"
	}
	switch {
	case to == "":
		to = s.Addr.String()
	case s.Addr.IsValid():
		to = fmt.Sprintf("%s (%v)", to, s.Addr)
	}
	return from + ">" + to
}

// Compare lays walks on the topology. An address tells by which link packets
// came in, as in [Walk].
func (t *Topology) Compare(walks []Walk) Comparison {
	var c Comparison
	seen := make(map[*Link]bool)
	unknown := make(map[Step]int)
	pairs := make(map[[2]string]bool)
	for _, w := range walks {
		src, okSrc := t.HostAt(w.Src)
		dst, okDst := t.HostAt(w.Dst)
		if !okSrc || !okDst && w.Dst.IsValid() {
			c.Foreign++
		}
		at := w.Src.Unmap().String()
		if okSrc {
			at = src.Name
			if okDst {
				pairs[[2]string{src.Name, dst.Name}] = true
			}
		}
		for _, a := range w.Hops {
			a = a.Unmap()
			if !a.IsValid() {
				at = ""
				continue
			}
			i, ok := t.InterfaceAt(a)
			if !ok {
				unknown[Step{From: at, Addr: a}]++
				at = a.String()
				continue
			}
			if l, ok := t.LinkInto(i.Node, i.Name); ok && (at == "" || l.From.Node == at) {
				seen[l] = true
			} else {
				unknown[Step{From: at, To: i.String(), Addr: a}]++
			}
			at = i.Node
		}
		if !okDst || at == "" {
			continue
		}
		switch into := t.LinkBetween(at, dst.Name); len(into) {
		case 0:
			unknown[Step{From: at, To: dst.Name}]++
		case 1:
			seen[into[0]] = true
		default: // one of several: the host does not say by which
		}
	}
	c.Pairs, c.Seen = len(pairs), len(seen)
	expected := make(map[*Link]bool)
	for pair := range pairs {
		for _, s := range t.Shares(pair[0], pair[1]) {
			expected[s.Link] = true
		}
	}
	for _, l := range t.Links {
		_, toHost := t.Host(l.To.Node)
		if expected[l] && !seen[l] && !(toHost && len(t.LinkBetween(l.From.Node, l.To.Node)) > 1) {
			c.Unseen = append(c.Unseen, l)
		}
	}
	for s, n := range unknown {
		s.Walks = n
		c.Unknown = append(c.Unknown, s)
	}
	slices.SortFunc(c.Unknown, func(a, b Step) int {
		return cmp.Or(cmp.Compare(b.Walks, a.Walks), cmp.Compare(a.String(), b.String()))
	})
	return c
}
