package flow

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"decaf/topology"
)

// MaxHops is the number of links on the longest path of a three-tier Clos: host,
// ToR, T1, T2, T1, ToR, host.
const MaxHops = 6

// MaxLinks bounds the directed links of one fabric.
const MaxLinks = topology.MaxClosLinks

// Node is a device or host by its number: devices come first, in the order of
// topology.Clos, then hosts.
type Node int32

// Link is a directed link by its number, which is its index in the Links of the
// same fabric built by topology.Clos.
type Link int32

// Graph is a three-tier Clos. Nodes and links are numbers; names, addresses and
// routes follow from them by arithmetic. Read-only, safe for concurrent use.
type Graph struct {
	spec    topology.ClosSpec
	devices int
	hosts   int
	podSize int    // devices of a pod
	podLink int    // fabric cables of a pod
	fabric  int    // fabric cables in all
	from    []Node // by link
	to      []Node
}

// NewGraph builds the fabric of a size. Only sizes that the address plan of
// topology.Clos can hold are possible, and at most [MaxLinks] directed links.
func NewGraph(s topology.ClosSpec) (*Graph, error) {
	switch {
	case s.IP > topology.IPBoth:
		return nil, fmt.Errorf("ip is %d: give topology.IPv4, IPv6 or IPBoth", s.IP)
	case s.Pods < 1 || s.Pods > 128:
		return nil, fmt.Errorf("pods is %d: give 1 to 128", s.Pods)
	case s.ToRs < 1 || s.ToRs > 256:
		return nil, fmt.Errorf("tors (per pod) is %d: give 1 to 256", s.ToRs)
	case s.Hosts < 1 || s.Hosts > 128:
		return nil, fmt.Errorf("hosts (per tor) is %d: give 1 to 128", s.Hosts)
	case s.T1s < 0 || s.T1s > MaxLinks || s.T2s < 0 || s.T2s > MaxLinks:
		return nil, fmt.Errorf("t1 (per pod) and t2 are %d and %d: give 0 to %d", s.T1s, s.T2s, MaxLinks)
	case s.T1s == 0 && s.ToRs > 1:
		return nil, fmt.Errorf("%d tors in a pod but no t1 to join them", s.ToRs)
	case s.T2s == 0 && s.Pods > 1:
		return nil, fmt.Errorf("%d pods but no t2 to join them", s.Pods)
	case s.T1s == 0 && s.T2s > 0:
		return nil, fmt.Errorf("%d t2 but no t1 to join them to", s.T2s)
	}
	cables := int64(s.Pods)*int64(s.T1s)*(int64(s.ToRs)+int64(s.T2s)) + int64(s.Pods)*int64(s.ToRs)*int64(s.Hosts)
	if 2*cables > MaxLinks {
		return nil, fmt.Errorf("%d directed links: at most %d are built", 2*cables, MaxLinks)
	}
	if s.Pods*s.ToRs*s.Hosts < 2 {
		return nil, errors.New("one host alone has nobody to talk to: give at least 2")
	}
	g := &Graph{
		spec:    s,
		podSize: s.ToRs + s.T1s,
		podLink: s.T1s * (s.ToRs + s.T2s),
		hosts:   s.Pods * s.ToRs * s.Hosts,
	}
	g.devices = s.Pods*g.podSize + s.T2s
	g.fabric = s.Pods * g.podLink
	g.from = make([]Node, 0, 2*cables)
	g.to = make([]Node, 0, 2*cables)
	join := func(a, b Node) {
		g.from = append(g.from, a, b)
		g.to = append(g.to, b, a)
	}
	for p := range s.Pods {
		for i := range s.ToRs {
			for j := range s.T1s {
				join(g.tor(p, i), g.t1(p, j))
			}
		}
		for j := range s.T1s {
			for k := range s.T2s {
				join(g.t1(p, j), g.t2(k))
			}
		}
	}
	for h := range g.hosts {
		join(g.torOf(h), g.HostNode(h))
	}
	return g, nil
}

func (g *Graph) tor(pod, i int) Node { return Node(pod*g.podSize + i) }
func (g *Graph) t1(pod, j int) Node  { return Node(pod*g.podSize + g.spec.ToRs + j) }
func (g *Graph) t2(k int) Node       { return Node(g.spec.Pods*g.podSize + k) }

// torOf gives the ToR of a host.
func (g *Graph) torOf(host int) Node {
	tor := host / g.spec.Hosts
	return g.tor(tor/g.spec.ToRs, tor%g.spec.ToRs)
}

// Links is the number of directed links.
func (g *Graph) Links() int { return len(g.from) }

// Devices is the number of devices.
func (g *Graph) Devices() int { return g.devices }

// Hosts is the number of hosts.
func (g *Graph) Hosts() int { return g.hosts }

// Spec is the size the fabric was built from.
func (g *Graph) Spec() topology.ClosSpec { return g.spec }

// HostNode is the node of the host with this number, 0 to Hosts-1.
func (g *Graph) HostNode(host int) Node { return Node(g.devices + host) }

// HostOf is the number of the host that a node is; false for a device.
func (g *Graph) HostOf(n Node) (int, bool) { return int(n) - g.devices, int(n) >= g.devices }

// IsDevice says whether a node is a device.
func (g *Graph) IsDevice(n Node) bool { return int(n) < g.devices }

// From is the node that a link's packets leave.
func (g *Graph) From(l Link) Node { return g.from[l] }

// To is the node that a link's packets arrive at.
func (g *Graph) To(l Link) Node { return g.to[l] }

// Reverse is the other direction of the same cable.
func (g *Graph) Reverse(l Link) Link { return l ^ 1 }

// tier tells what a device is: "tor", "t1" or "t2", with its pod (-1 for a T2)
// and its index in the pod.
func (g *Graph) tier(n Node) (tier string, pod, i int) {
	if rest := int(n) - g.spec.Pods*g.podSize; rest >= 0 {
		return "t2", -1, rest
	}
	pod, i = int(n)/g.podSize, int(n)%g.podSize
	if i < g.spec.ToRs {
		return "tor", pod, i
	}
	return "t1", pod, i - g.spec.ToRs
}

// Name is a node's name, as topology.Clos gives it.
func (g *Graph) Name(n Node) string {
	if h, ok := g.HostOf(n); ok {
		return g.Name(g.torOf(h)) + "-h" + strconv.Itoa(h%g.spec.Hosts)
	}
	switch tier, pod, i := g.tier(n); tier {
	case "tor":
		return "p" + strconv.Itoa(pod) + "-tor" + strconv.Itoa(i)
	case "t1":
		return "p" + strconv.Itoa(pod) + "-t1-" + strconv.Itoa(i)
	default:
		return "t2-" + strconv.Itoa(i)
	}
}

// LinkName is a link's name, a>b.
func (g *Graph) LinkName(l Link) string { return g.Name(g.from[l]) + ">" + g.Name(g.to[l]) }

// Lookup finds a node by its name.
func (g *Graph) Lookup(name string) (Node, bool) {
	n, ok := g.parse(name)
	// Names have one spelling: p00-tor0 is nobody's.
	if !ok || g.Name(n) != name {
		return 0, false
	}
	return n, true
}

func (g *Graph) parse(name string) (Node, bool) {
	number := func(s string, below int) (int, bool) {
		n, err := strconv.Atoi(s)
		return n, err == nil && n >= 0 && n < below
	}
	if rest, ok := strings.CutPrefix(name, "t2-"); ok {
		k, ok := number(rest, g.spec.T2s)
		return g.t2(k), ok
	}
	rest, ok := strings.CutPrefix(name, "p")
	if !ok {
		return 0, false
	}
	podText, rest, ok := strings.Cut(rest, "-")
	pod, okPod := number(podText, g.spec.Pods)
	if !ok || !okPod {
		return 0, false
	}
	if rest, ok := strings.CutPrefix(rest, "t1-"); ok {
		j, ok := number(rest, g.spec.T1s)
		return g.t1(pod, j), ok
	}
	rest, ok = strings.CutPrefix(rest, "tor")
	if !ok {
		return 0, false
	}
	torText, hostText, isHost := strings.Cut(rest, "-h")
	i, ok := number(torText, g.spec.ToRs)
	if !ok || !isHost {
		return g.tor(pod, i), ok
	}
	h, ok := number(hostText, g.spec.Hosts)
	return g.HostNode((pod*g.spec.ToRs+i)*g.spec.Hosts + h), ok
}

// LookupLink finds a directed link by its name, a>b.
func (g *Graph) LookupLink(name string) (Link, bool) {
	a, b, ok := strings.Cut(name, ">")
	from, okA := g.Lookup(a)
	to, okB := g.Lookup(b)
	if !ok || !okA || !okB {
		return 0, false
	}
	return g.between(from, to)
}

// between is the link from one node to another.
func (g *Graph) between(from, to Node) (Link, bool) {
	for _, l := range g.linksFrom(from) {
		if g.to[l] == to {
			return l, true
		}
	}
	return 0, false
}

// up is the link from a ToR to a T1 of its pod, or from a T1 to a T2.
func (g *Graph) torUp(pod, i, j int) Link { return Link(2 * (pod*g.podLink + i*g.spec.T1s + j)) }
func (g *Graph) t1Up(pod, j, k int) Link {
	return Link(2 * (pod*g.podLink + g.spec.ToRs*g.spec.T1s + j*g.spec.T2s + k))
}

// hostDown is the link from the ToR to a host; its reverse is the host's uplink.
func (g *Graph) hostDown(host int) Link { return Link(2 * (g.fabric + host)) }

// linksFrom lists the links that leave a node, uplinks first.
func (g *Graph) linksFrom(n Node) []Link {
	if h, ok := g.HostOf(n); ok {
		return []Link{g.hostDown(h) ^ 1}
	}
	var out []Link
	switch tier, pod, i := g.tier(n); tier {
	case "tor":
		for j := range g.spec.T1s {
			out = append(out, g.torUp(pod, i, j))
		}
		for h := range g.spec.Hosts {
			out = append(out, g.hostDown((pod*g.spec.ToRs+i)*g.spec.Hosts+h))
		}
	case "t1":
		for k := range g.spec.T2s {
			out = append(out, g.t1Up(pod, i, k))
		}
		for t := range g.spec.ToRs {
			out = append(out, g.torUp(pod, t, i)^1)
		}
	case "t2":
		for p := range g.spec.Pods {
			for j := range g.spec.T1s {
				out = append(out, g.t1Up(p, j, i)^1)
			}
		}
	}
	return out
}

// choices counts the links by which a node may send a packet on towards a host,
// and gives the first and the step to the next: the ECMP set of that hop.
func (g *Graph) choices(n Node, host int) (first Link, step Link, count int) {
	if h, ok := g.HostOf(n); ok {
		return g.hostDown(h) ^ 1, 0, 1
	}
	tor := host / g.spec.Hosts
	pod := tor / g.spec.ToRs
	if rest := int(n) - g.spec.Pods*g.podSize; rest >= 0 { // T2: any T1 of the host's pod
		return g.t1Up(pod, 0, rest) ^ 1, Link(2 * g.spec.T2s), g.spec.T1s
	}
	p, i := int(n)/g.podSize, int(n)%g.podSize
	switch {
	case i >= g.spec.ToRs && p == pod: // T1 of the host's pod
		return g.torUp(p, tor%g.spec.ToRs, i-g.spec.ToRs) ^ 1, 0, 1
	case i >= g.spec.ToRs: // T1 of another
		return g.t1Up(p, i-g.spec.ToRs, 0), 2, g.spec.T2s
	case p == pod && i == tor%g.spec.ToRs: // the host's ToR
		return g.hostDown(host), 0, 1
	default:
		return g.torUp(p, i, 0), 2, g.spec.T1s
	}
}

// Speaks says whether the fabric has addresses of a version of the Internet Protocol.
func (g *Graph) Speaks(v6 bool) bool {
	return g.spec.IP == topology.IPBoth || v6 == (g.spec.IP == topology.IPv6)
}

// versions are those that the fabric has addresses of, as what to give for v6.
func (g *Graph) versions() (all []bool) {
	for _, v6 := range []bool{false, true} {
		if g.Speaks(v6) {
			all = append(all, v6)
		}
	}
	return all
}

// Address is the address of the interface at a link's receiving end, the one a
// switch answers a trace from.
func (g *Graph) Address(l Link, v6 bool) netip.Addr { return toAddr(g.address(l), v6) }

// address is the IPv4 address of the receiving end, or that which its IPv6 address
// stands for. The A end of a cable has the even address; link 2c goes from A to B.
func (g *Graph) address(l Link) uint32 {
	cable, odd := int(l)/2, l&1 == 0
	n := uint32(10<<24|128<<16) + 2*uint32(cable)
	if h := cable - g.fabric; h >= 0 {
		tor := h / g.spec.Hosts
		n = uint32(10<<24 | tor/g.spec.ToRs<<16 | tor%g.spec.ToRs<<8 | 2*(h%g.spec.Hosts))
	}
	if odd {
		n++
	}
	return n
}

// HostAddress is a host's address.
func (g *Graph) HostAddress(host int, v6 bool) netip.Addr { return g.Address(g.hostDown(host), v6) }

// toAddr is an address by its number, of IPv4 or the IPv6 one that goes with it.
func toAddr(a uint32, v6 bool) netip.Addr {
	four := netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
	if v6 {
		return topology.ClosAddr6(four)
	}
	return four
}

// ingress is the name of the interface at a link's receiving end.
func (g *Graph) ingress(l Link) string { return g.egress(l ^ 1) }

// egress is the name of the interface at a link's sending end.
func (g *Graph) egress(l Link) string {
	from, to := g.from[l], g.to[l]
	if _, ok := g.HostOf(from); ok {
		return "eth0"
	}
	port := 0
	switch tier, _, _ := g.tier(from); tier {
	case "tor":
		if h, ok := g.HostOf(to); ok {
			port = g.spec.T1s + h%g.spec.Hosts
		} else {
			_, _, port = g.tier(to)
		}
	case "t1":
		if t, _, i := g.tier(to); t == "t2" {
			port = i
		} else {
			port = g.spec.T2s + i
		}
	default:
		_, pod, i := g.tier(to)
		port = pod*g.spec.T1s + i
	}
	return "eth" + strconv.Itoa(1+port)
}
