package topology

import (
	"net/netip"
	"slices"
	"sync"

	"decaf/topology/strictyaml"
)

// Topology is the network that evidence is laid upon. Read-only after it was
// built; safe for concurrent use. Build one with [New], [Load], [Parse] or
// [Clos]: these check it. Look-ups on a literal work too, unchecked.
type Topology struct {
	// Site is the name of the place; a token of bus subjects.
	Site string
	// Devices forward packets. In file order.
	Devices []*Device
	// Hosts send and receive packets and never forward. In file order.
	Hosts []*Host
	// Links are directed; each cable is two neighbours in this list, first the
	// direction from the file's a to its b, then the way back.
	Links []*Link

	// made when first needed; see index.go
	onceGraph, onceIndex sync.Once
	g                    *graph
	ix                   *index

	mu     sync.Mutex
	fields map[int]*field // see path.go
}

// Device is a switch, router or firewall.
type Device struct {
	Name string
	// Tier is its level in the fabric: "tor", "t1", "t2" in a Clos; free otherwise.
	Tier string
	// Pod groups devices; "" for those of none, such as T2s.
	Pod  string
	Tags map[string]string
	// GNMI is where its drop events are to be had; nil when it has no agent.
	GNMI *GNMI
}

// GNMI is a device's gNMI target.
type GNMI struct {
	Address string // host:port
	TLS     *TLS   // nil: no TLS
	// Username is who calls, by the password that PasswordFile holds; both "" where
	// the target asks for none. A line end behind the password is not part of it.
	Username, PasswordFile string
}

// TLS names PEM files. [Load] makes relative ones relative to the topology file.
type TLS struct {
	CA, Cert, Key string
}

// Host is a server, or whatever else ends paths.
type Host struct {
	Name      string
	Addresses []netip.Addr
	Tags      map[string]string
}

// Interface is one end of a link.
type Interface struct {
	Node string // device or host name
	Name string // such as eth1
	Addr netip.Prefix
	// Addr6 is the IPv6 address beside an IPv4 Addr; not valid on an interface that
	// has but one address.
	Addr6 netip.Prefix
}

// Of gives the interface's address of a version of the Internet Protocol; not valid
// when it has none.
func (i *Interface) Of(v6 bool) netip.Prefix {
	for _, a := range [...]netip.Prefix{i.Addr, i.Addr6} {
		if a.IsValid() && a.Addr().Is6() == v6 {
			return a
		}
	}
	return netip.Prefix{}
}

// Owns says whether an address is one of the interface's.
func (i *Interface) Owns(a netip.Addr) bool {
	return i.Addr.IsValid() && i.Addr.Addr() == a || i.Addr6.IsValid() && i.Addr6.Addr() == a
}

// Link is one direction of a cable.
type Link struct {
	// Name is "a>b", or "a:eth1>b:eth3" when a and b share several links.
	Name string
	From *Interface // packets leave here
	To   *Interface // and arrive here
}

// String gives node:interface.
func (i *Interface) String() string { return i.Node + ":" + i.Name }

// String gives the link's name.
func (l *Link) String() string { return l.Name }

// Cable is one undirected link, the raw material of [New].
type Cable struct {
	A, B Interface
}

// New checks the parts, makes the directed links of the cables and names them.
// The error joins one line for each thing wrong, up to a limit.
func New(site string, devices []*Device, hosts []*Host, cables []Cable) (*Topology, error) {
	p := plan{site: site, devices: devices, hosts: hosts, cables: cables}
	return p.build(strictyaml.NewDoc(""))
}

// linkCables makes the two directed links of each cable, named by how many cables the
// two nodes share.
func linkCables(cables []Cable) []*Link {
	type pair struct{ a, b string }
	shared := make(map[pair]int32, len(cables))
	key := func(c *Cable) pair {
		if c.B.Node < c.A.Node {
			return pair{c.B.Node, c.A.Node}
		}
		return pair{c.A.Node, c.B.Node}
	}
	for i := range cables {
		shared[key(&cables[i])]++
	}
	// In three arrays, not one by one: there may be a million.
	ends := make([]Interface, 2*len(cables))
	made := make([]Link, 2*len(cables))
	links := make([]*Link, 2*len(cables))
	for i := range cables {
		a, b := &ends[2*i], &ends[2*i+1]
		*a, *b = cables[i].A, cables[i].B
		there, back := &made[2*i], &made[2*i+1]
		*there = Link{Name: a.Node + ">" + b.Node, From: a, To: b}
		*back = Link{Name: b.Node + ">" + a.Node, From: b, To: a}
		if shared[key(&cables[i])] > 1 {
			there.Name = a.String() + ">" + b.String()
			back.Name = b.String() + ">" + a.String()
		}
		links[2*i], links[2*i+1] = there, back
	}
	return links
}

// Equal says whether both describe the same network in the same order.
func (t *Topology) Equal(u *Topology) bool {
	if t == nil || u == nil {
		return t == u
	}
	return t.Site == u.Site &&
		slices.EqualFunc(t.Devices, u.Devices, (*Device).equal) &&
		slices.EqualFunc(t.Hosts, u.Hosts, (*Host).equal) &&
		slices.EqualFunc(t.Links, u.Links, (*Link).equal)
}
