package correlator

import (
	"math/rand/v2"
	"testing"

	"decaf/api/decafpb"
	"decaf/topology"

	"google.golang.org/protobuf/proto"
)

// published is 007's published fabric: 4160 directed links.
func published(b *testing.B) *topology.Topology {
	b.Helper()
	topo, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 20, T1s: 8, T2s: 10, Hosts: 40})
	if err != nil {
		b.Fatal(err)
	}
	return topo
}

// lossyArrivals are the retransmits of n flows within an epoch from a moment
// on: most cross one of four bad links, one in a hundred is noise.
func lossyArrivals(topo *topology.Topology, n int, from int64) []*decafpb.Retransmit {
	rng := rand.New(rand.NewPCG(1, 2))
	fb := newFabric(topo, 1)
	bad := map[*topology.Link]bool{}
	for len(bad) < 4 {
		bad[topo.Links[rng.IntN(len(topo.Links)-2*len(topo.Hosts))]] = true
	}
	var out []*decafpb.Retransmit
	for len(out) < n {
		src, dst := topo.Hosts[rng.IntN(len(topo.Hosts))], topo.Hosts[rng.IntN(len(topo.Hosts))]
		if src == dst {
			continue
		}
		// One path drawn, the others left alone: all paths of all pairs are many.
		fb.pick = func(*rand.Rand, []*topology.Host) (*topology.Host, *topology.Host) { return src, dst }
		fb.paths = map[[2]string][]topology.Path{{src.Name, dst.Name}: {walk(rng, topo, src.Name, dst.Name)}, {dst.Name, src.Name}: {walk(rng, topo, dst.Name, src.Name)}}
		c := fb.newConn(0)
		hit := rng.IntN(100) == 0
		for _, l := range c.fwd {
			hit = hit || bad[l]
		}
		if !hit {
			continue
		}
		at := from + rng.Int64N(30e9)
		fb.arrivals = nil
		fb.retransmit(c, at, kindFAST, 1000, mss, flagACK, false)
		for _, a := range fb.arrivals {
			out = append(out, a.batch.GetRetransmits()...)
		}
	}
	return out
}

// walk draws a shortest path.
func walk(rng *rand.Rand, topo *topology.Topology, src, dst string) topology.Path {
	var path topology.Path
	for at := src; at != dst; {
		var next []*topology.Link
		for _, l := range topo.LinksFrom(at) {
			if l.To.Node == dst || topo.Distance(l.To.Node, dst) == topo.Distance(at, dst)-1 {
				next = append(next, l)
			}
		}
		path = append(path, next[rng.IntN(len(next))])
		at = path[len(path)-1].To.Node
	}
	return path
}

// BenchmarkStep steps an engine that watches 007's published fabric (4160
// directed links) with 2000 lossy flows in its window, as many as four bad
// links make of 192,000 connections; each step brings one more.
func BenchmarkStep(b *testing.B) {
	topo := published(b)
	const start = 100 * second
	list := lossyArrivals(topo, 4000, start)
	for _, name := range Methods() {
		b.Run(name, func(b *testing.B) {
			m, err := NewMethod(name, DefaultEngineConfig(), topo)
			if err != nil {
				b.Fatal(err)
			}
			e := NewEngine(DefaultEngineConfig(), topo, m, counter("f"))
			now := start + 30*second
			for _, r := range list[:2000] {
				e.store.AddRetransmit(proto.CloneOf(r), start+30*second)
			}
			now += 2 * second
			e.Step(now)
			next := 2000
			for b.Loop() {
				if next < len(list) {
					r := proto.CloneOf(list[next])
					r.TimeNs = uint64(now - 3*second)
					e.store.AddRetransmit(r, now-2*second) // ripe at once
					next++
				}
				now += stepEvery / 250
				e.Step(now)
			}
			b.ReportMetric(float64(len(e.findings)), "named")
		})
	}
}
