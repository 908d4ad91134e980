package flow

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"decaf/topology"
)

var smallSpec = topology.ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2}

// hostAddresses are all addresses of a host.
func hostAddresses(g *Graph, host int) string {
	var all []netip.Addr
	for _, v6 := range g.versions() {
		all = append(all, g.HostAddress(host, v6))
	}
	return fmt.Sprint(all)
}

// The fabric's arithmetic and topology.Clos must describe the same network, or
// nobody could place the fabric's records.
func TestGraphIsTopologyClos(t *testing.T) {
	for _, spec := range []topology.ClosSpec{
		smallSpec,
		{Pods: 1, ToRs: 1, Hosts: 2},
		{Pods: 1, ToRs: 3, T1s: 2, Hosts: 1},
		{Pods: 3, ToRs: 4, T1s: 2, T2s: 5, Hosts: 3},
		{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2, IP: topology.IPv6},
		{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2, IP: topology.IPBoth},
	} {
		topo, err := topology.Clos(spec)
		if err != nil {
			t.Fatal(err)
		}
		g, err := NewGraph(spec)
		if err != nil {
			t.Fatal(err)
		}
		if g.Links() != len(topo.Links) || g.Devices() != len(topo.Devices) || g.Hosts() != len(topo.Hosts) {
			t.Fatalf("%+v: %d links, %d devices, %d hosts; want %d, %d, %d", spec, g.Links(), g.Devices(), g.Hosts(), len(topo.Links), len(topo.Devices), len(topo.Hosts))
		}
		for i, d := range topo.Devices {
			if g.Name(Node(i)) != d.Name {
				t.Errorf("device %d is %s, want %s", i, g.Name(Node(i)), d.Name)
			}
		}
		for i, h := range topo.Hosts {
			if g.Name(g.HostNode(i)) != h.Name || hostAddresses(g, i) != fmt.Sprint(h.Addresses) {
				t.Errorf("host %d is %s at %s, want %s at %s", i, g.Name(g.HostNode(i)), hostAddresses(g, i), h.Name, h.Addresses)
			}
			if n, ok := g.Lookup(h.Name); !ok || n != g.HostNode(i) {
				t.Errorf("host %s is not found by name", h.Name)
			}
		}
		for i, want := range topo.Links {
			l := Link(i)
			if g.LinkName(l) != want.Name || g.egress(l) != want.From.Name || g.ingress(l) != want.To.Name {
				t.Errorf("link %d is %s %s>%s, want %s %s>%s", i, g.LinkName(l), g.egress(l), g.ingress(l), want.Name, want.From.Name, want.To.Name)
			}
			for _, v6 := range g.versions() {
				if a := g.Address(l, v6); a != want.To.Of(v6).Addr() {
					t.Errorf("link %d ends at %s, want %s", i, a, want.To.Of(v6))
				}
			}
			if g.LinkName(g.Reverse(l)) != topo.Reverse(want).Name {
				t.Errorf("the reverse of %s is %s", want.Name, g.LinkName(g.Reverse(l)))
			}
			if found, ok := g.LookupLink(want.Name); !ok || found != l {
				t.Errorf("link %s is not found by name", want.Name)
			}
		}
	}
}

// Every draw is one of the shortest paths, and over many draws all of them come up.
func TestRoutesAreTheECMPSet(t *testing.T) {
	spec := topology.ClosSpec{Pods: 2, ToRs: 3, T1s: 2, T2s: 3, Hosts: 2}
	topo, err := topology.Clos(spec)
	if err != nil {
		t.Fatal(err)
	}
	g, err := NewGraph(spec)
	if err != nil {
		t.Fatal(err)
	}
	f := &Fabric{graph: g}
	d := newDice(1, "test")
	for src := range g.Hosts() {
		for dst := range g.Hosts() {
			if src == dst {
				continue
			}
			want := map[string]bool{}
			for _, p := range topo.Paths(topo.Hosts[src].Name, topo.Hosts[dst].Name) {
				name := ""
				for _, l := range p {
					name += " " + l.Name
				}
				want[name] = true
			}
			seen := map[string]bool{}
			for range 40 * len(want) {
				var p Path
				f.route(d, g.HostNode(src), dst, &p)
				name := ""
				for _, l := range p.Links() {
					name += " " + g.LinkName(l)
				}
				if !want[name] {
					t.Fatalf("%d to %d: %s is no shortest path", src, dst, name)
				}
				seen[name] = true
			}
			if len(seen) != len(want) {
				t.Errorf("%d to %d: %d paths drawn of %d", src, dst, len(seen), len(want))
			}
		}
	}
}

func TestLookupTakesOneSpelling(t *testing.T) {
	g, err := NewGraph(smallSpec)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "p0", "p0-", "p00-tor0", "p0-tor2", "p2-tor0", "t2-2", "t2-+1", "p0-t1-2", "p0-tor0-h2", "p0-tor0-h", "p0-tor0-h00", "tor0", "p0-tor-0"} {
		if n, ok := g.Lookup(name); ok {
			t.Errorf("%q is taken for %s", name, g.Name(n))
		}
	}
	for _, name := range []string{"", ">", "p0-tor0>p0-tor1", "p0-tor0", "p0-tor0-h0>p0-t1-0"} {
		if l, ok := g.LookupLink(name); ok {
			t.Errorf("link %q is taken for %s", name, g.LinkName(l))
		}
	}
}

func TestGraphOfAMillionLinks(t *testing.T) {
	began := time.Now()
	g, err := NewGraph(topology.ClosSpec{Pods: 40, ToRs: 64, T1s: 32, T2s: 64, Hosts: 128})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d directed links, %d hosts in %s", g.Links(), g.Hosts(), time.Since(began))
	for _, spec := range []topology.ClosSpec{
		{Pods: 128, ToRs: 256, T1s: 1, T2s: 1, Hosts: 128}, // too many links
		{Pods: 0, ToRs: 1, T1s: 1, T2s: 1, Hosts: 1},
		{Pods: 1, ToRs: 2, Hosts: 1},
		{Pods: 2, ToRs: 1, T1s: 1, Hosts: 1},
		{Pods: 1, ToRs: 1, T2s: 1, Hosts: 1},
		{Pods: 1, ToRs: 1, Hosts: 1},
		{Pods: 1, ToRs: 1, T1s: 1 << 40, T2s: 1 << 40, Hosts: 2},
	} {
		if _, err := NewGraph(spec); err == nil {
			t.Errorf("%+v is taken", spec)
		}
	}
}
