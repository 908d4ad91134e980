package topology

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// walked gives the addresses that a path's switches answer from.
func walked(t *testing.T, top *Topology, p Path) (w Walk) {
	t.Helper()
	address := func(host string) netip.Addr {
		h, ok := top.Host(host)
		if !ok {
			t.Fatalf("no host %s", host)
		}
		return h.Addresses[0]
	}
	w.Src, w.Dst = address(p[0].From.Node), address(p[len(p)-1].To.Node)
	for _, l := range p[:len(p)-1] {
		w.Hops = append(w.Hops, l.To.Addr.Addr())
	}
	return w
}

func TestCompare(t *testing.T) {
	top := build(t, ClosSpec{Site: "lab", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 1})
	const a, b = "p0-tor0-h0", "p1-tor1-h0"
	var walks []Walk
	for _, p := range top.Paths(a, b) {
		walks = append(walks, walked(t, top, p))
	}
	expected := len(top.Shares(a, b))
	f := func(what string, walks []Walk, want Comparison, unknown string) {
		t.Helper()
		got := top.Compare(walks)
		var steps []string
		for _, s := range got.Unknown {
			steps = append(steps, fmt.Sprint(s, "*", s.Walks))
		}
		if got.Pairs != want.Pairs || got.Seen != want.Seen || got.Foreign != want.Foreign || len(got.Unseen) != expected*min(want.Pairs, 1)-want.Seen || strings.Join(steps, " ") != unknown {
			t.Errorf("%s: %d pairs, %d foreign, %d seen, unseen %v, unknown %v", what, got.Pairs, got.Foreign, got.Seen, got.Unseen, steps)
		}
	}
	f("all paths", walks, Comparison{Pairs: 1, Seen: expected}, "")
	f("nothing", nil, Comparison{}, "")

	// No walk goes by p0-t1-1: what leads to it and on from it is unseen.
	some := top.Compare(walks[:len(walks)/2])
	if fmt.Sprint(some.Unseen) != "[p0-tor0>p0-t1-1 p0-t1-1>t2-0 p0-t1-1>t2-1]" {
		t.Errorf("unseen %v", some.Unseen)
	}

	// A cable that the file does not have, to a switch that it has, and an address
	// that it has not.
	first := walks[0]
	odd := Walk{Src: first.Src, Dst: first.Dst, Hops: []netip.Addr{first.Hops[0], first.Hops[2], netip.MustParseAddr("192.0.2.7"), first.Hops[4]}}
	got := top.Compare([]Walk{odd, odd})
	if len(got.Unknown) != 3 || got.Unknown[0].Walks != 2 || !strings.Contains(fmt.Sprint(got.Unknown), "192.0.2.7>p1-tor1:") {
		t.Errorf("unknown %v", got.Unknown)
	}
	// Who did not answer hides the link to it, and no other.
	silent := Walk{Src: first.Src, Dst: first.Dst, Hops: append([]netip.Addr(nil), first.Hops...)}
	silent.Hops[1] = netip.Addr{}
	if got := top.Compare([]Walk{silent}); len(got.Unknown) != 0 || got.Seen != 5 {
		t.Errorf("a silent hop: %d seen, unknown %v", got.Seen, got.Unknown)
	}
	if got := top.Compare([]Walk{{Src: netip.MustParseAddr("192.0.2.1"), Dst: first.Dst, Hops: first.Hops}}); got.Foreign != 1 || got.Pairs != 0 || len(got.Unseen) != 0 {
		t.Errorf("a foreign host: %+v", got)
	}
}
