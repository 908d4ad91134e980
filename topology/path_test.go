package topology

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
)

// In a Clos the ECMP set has a closed form: one path under the same ToR, one per
// T1 within the pod, T1s·T2s·T1s across pods.
func TestClosECMPSets(t *testing.T) {
	for _, s := range sizes {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			topo := build(t, s)
			for _, a := range topo.Hosts {
				for _, b := range topo.Hosts {
					check(t, topo, s, a.Name, b.Name)
				}
			}
		})
	}
}

func check(t *testing.T, topo *Topology, s ClosSpec, src, dst string) {
	t.Helper()
	paths := topo.Paths(src, dst)
	if src == dst {
		if paths != nil || topo.Distance(src, dst) != 0 || topo.CountPaths(src, dst) != 0 || topo.Shares(src, dst) != nil {
			t.Errorf("%s to itself has a path", src)
		}
		return
	}
	torOf := func(host string) *Device {
		d, _ := topo.Device(topo.LinksFrom(host)[0].To.Node)
		return d
	}
	a, b := torOf(src), torOf(dst)
	want, switches := 1, 1
	switch {
	case a == b:
	case a.Pod == b.Pod:
		want, switches = s.T1s, 3
	default:
		want, switches = s.T1s*s.T2s*s.T1s, 5
	}
	if len(paths) != want || topo.CountPaths(src, dst) != uint64(want) {
		t.Errorf("%s to %s: %d paths (counted %d), want %d", src, dst, len(paths), topo.CountPaths(src, dst), want)
	}
	if got := topo.Distance(src, dst); got != switches {
		t.Errorf("%s to %s: distance %d, want %d", src, dst, got, switches)
	}
	seen := make(map[string]bool)
	share := make(map[*Link]float64)
	for _, p := range paths {
		if len(p) != switches+1 || p[0].From.Node != src || p[len(p)-1].To.Node != dst {
			t.Errorf("%s to %s: path %v", src, dst, p)
		}
		for i := 1; i < len(p); i++ {
			if p[i-1].To.Node != p[i].From.Node {
				t.Errorf("%s to %s: path %v breaks at %d", src, dst, p, i)
			}
		}
		for _, l := range p {
			share[l] += 1 / float64(len(paths)) // even in a Clos: all its splits are even
		}
		seen[fmt.Sprint(p)] = true
	}
	if len(seen) != len(paths) {
		t.Errorf("%s to %s: a path twice", src, dst)
	}
	for _, ls := range topo.Shares(src, dst) {
		if math.Abs(share[ls.Link]-ls.Share) > 1e-9 {
			t.Errorf("%s to %s: share of %s is %g, want %g", src, dst, ls.Link, ls.Share, share[ls.Link])
		}
		delete(share, ls.Link)
	}
	if len(share) > 0 {
		t.Errorf("%s to %s: no share for %v", src, dst, share)
	}
}

// nets builds an irregular network from "a-b" edges; names beginning with h are hosts.
func nets(t *testing.T, edges ...[2]string) *Topology {
	t.Helper()
	var devices []*Device
	var hosts []*Host
	var cables []Cable
	ports := make(map[string]int)
	end := func(name string) Interface {
		if ports[name]++; ports[name] == 1 {
			if name[0] == 'h' {
				hosts = append(hosts, &Host{Name: name})
			} else {
				devices = append(devices, &Device{Name: name})
			}
		}
		return Interface{Node: name, Name: fmt.Sprintf("eth%d", ports[name])}
	}
	for _, e := range edges {
		cables = append(cables, Cable{A: end(e[0]), B: end(e[1])})
	}
	topo, err := New("", devices, hosts, cables)
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

func TestPathsInIrregularNetworks(t *testing.T) {
	for _, c := range []struct {
		name     string
		edges    [][2]string
		distance int
		want     []string
	}{
		{"hosts do not forward", [][2]string{{"h1", "a"}, {"a", "hx"}, {"hx", "b"}, {"b", "h2"}, {"a", "c"}, {"c", "d"}, {"d", "b"}}, 4,
			[]string{"[h1>a a>c c>d d>b b>h2]"}},
		{"a host alone between", [][2]string{{"h1", "a"}, {"a", "hx"}, {"hx", "b"}, {"b", "h2"}}, 0, nil},
		{"parallel links are two paths", [][2]string{{"h1", "a"}, {"a", "b"}, {"a", "b"}, {"b", "h2"}}, 2,
			[]string{"[h1>a a:eth2>b:eth1 b>h2]", "[h1>a a:eth3>b:eth2 b>h2]"}},
		{"a host with two switches", [][2]string{{"h1", "a"}, {"h1", "b"}, {"a", "c"}, {"b", "c"}, {"c", "h2"}}, 2,
			[]string{"[h1>a a>c c>h2]", "[h1>b b>c c>h2]"}},
		{"the longer way is no path", [][2]string{{"h1", "a"}, {"a", "b"}, {"b", "c"}, {"a", "c"}, {"c", "h2"}}, 2,
			[]string{"[h1>a a>c c>h2]"}},
		{"back to back", [][2]string{{"h1", "h2"}}, 0, []string{"[h1>h2]"}},
		{"apart", [][2]string{{"h1", "a"}, {"b", "h2"}}, 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			topo := nets(t, c.edges...)
			var got []string
			for _, p := range topo.Paths("h1", "h2") {
				got = append(got, fmt.Sprint(p))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if d := topo.Distance("h1", "h2"); d != c.distance {
				t.Errorf("distance %d, want %d", d, c.distance)
			}
			if n := topo.CountPaths("h1", "h2"); n != uint64(len(c.want)) {
				t.Errorf("%d paths counted, want %d", n, len(c.want))
			}
		})
	}
	topo := nets(t, [2]string{"h1", "a"})
	if topo.Paths("h1", "nobody") != nil || topo.Distance("nobody", "h1") != 0 {
		t.Error("a path with an unknown end")
	}
}

// Shares follow hop-by-hop splitting, not the number of paths: at a the flows
// split in halves, though three of four paths go by b.
func TestSharesSplitAtEachHop(t *testing.T) {
	topo := nets(t, [][2]string{{"h1", "a"}, {"a", "b"}, {"a", "c"}, {"b", "d1"}, {"b", "d2"}, {"b", "d3"}, {"c", "d1"}, {"d1", "e"}, {"d2", "e"}, {"d3", "e"}, {"e", "h2"}}...)
	got := make(map[string]float64)
	for _, s := range topo.Shares("h1", "h2") {
		got[s.Link.Name] = s.Share
	}
	for link, want := range map[string]float64{"a>b": 1. / 2, "a>c": 1. / 2, "b>d1": 1. / 6, "d1>e": 1./2 + 1./6, "d2>e": 1. / 6, "e>h2": 1} {
		if math.Abs(got[link]-want) > 1e-9 {
			t.Errorf("share of %s is %g, want %g", link, got[link], want)
		}
	}
}

func TestPathsAreBoundedAndTheRestCounted(t *testing.T) {
	topo := build(t, ClosSpec{Pods: 2, ToRs: 1, T1s: 16, T2s: 16, Hosts: 1})
	paths, n := topo.Paths("p0-tor0-h0", "p1-tor0-h0"), topo.CountPaths("p0-tor0-h0", "p1-tor0-h0")
	if len(paths) != MaxPaths || n != 16*16*16 {
		t.Errorf("%d paths listed of %d", len(paths), n)
	}
	// Saturation: 30 stages of 8 parallel links are 2^90 paths.
	edges := [][2]string{{"h1", "s0"}}
	for i := range 30 {
		for range 8 {
			edges = append(edges, [2]string{fmt.Sprintf("s%d", i), fmt.Sprintf("s%d", i+1)})
		}
	}
	chain := nets(t, append(edges, [2]string{"s30", "h2"})...)
	if n := chain.CountPaths("h1", "h2"); n != math.MaxUint64 {
		t.Errorf("counted %d", n)
	}
	if n := len(chain.Paths("h1", "h2")); n != MaxPaths {
		t.Errorf("listed %d", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	topo := build(t, sizes[0])
	literal := &Topology{Site: topo.Site, Devices: topo.Devices, Hosts: topo.Hosts, Links: topo.Links}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range topo.Hosts {
				a, b := topo.Hosts[i].Name, topo.Hosts[j].Name
				if len(literal.Paths(a, b)) != len(topo.Paths(a, b)) {
					t.Error("a literal's paths differ")
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkPaths(b *testing.B) {
	topo := build(b, ClosSpec{Pods: 2, ToRs: 20, T1s: 8, T2s: 8, Hosts: 4})
	for b.Loop() {
		topo.Paths("p0-tor0-h0", "p1-tor3-h1")
	}
}

func BenchmarkDistance(b *testing.B) {
	topo := build(b, ClosSpec{Pods: 2, ToRs: 20, T1s: 8, T2s: 8, Hosts: 4})
	for b.Loop() {
		topo.Distance("p0-tor0-h0", "p1-tor3-h1")
	}
}
