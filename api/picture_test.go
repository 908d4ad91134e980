package api

import (
	"fmt"
	"strings"
	"testing"

	"decaf/topology"
)

func classes(p *picture) (edges map[string]int, blamed []string) {
	edges = make(map[string]int)
	for _, e := range p.Edges {
		edges[e.Class]++
		if e.Class == "blamed" {
			blamed = append(blamed, e.Note)
		}
	}
	return edges, blamed
}

func TestPictureOfTraces(t *testing.T) {
	f := newFake(t)
	e := NewViews(f.topo).Evidence(f.reports[0].Verdict.Evidence)
	p := drawPath(f.topo, "p0-tor0-h0", "p1-tor1-h1", e.Paths, e.Drops, "link p0-t1-0>t2-1")
	edges, blamed := classes(p)
	// 1+2+4+4+2+1 = 14 links of the ECMP set: 7 traced and one blamed, and a
	// stub where the partial trace ends.
	if edges["blamed"] != 1 || edges["traced"] != 7 || edges["gap"] != 1 || edges["ecmp"] != 6 {
		t.Errorf("edges %v", edges)
	}
	if len(blamed) != 1 || blamed[0] != "p0-t1-0>t2-1: 2 traces" {
		t.Errorf("blamed %v", blamed)
	}
	if len(p.Nodes) != 10 { // 2 hosts, 2 ToRs, 4 T1s, 2 T2s
		t.Errorf("%d nodes", len(p.Nodes))
	}
	checkLayout(t, p)
}

// checkLayout: everything inside, no box on another.
func checkLayout(t *testing.T, p *picture) {
	t.Helper()
	for i, n := range p.Nodes {
		if n.X < 0 || n.Y < 0 || n.X+n.W > p.Width || n.BelowY > p.Height {
			t.Errorf("%s is outside", n.Name)
		}
		for _, m := range p.Nodes[:i] {
			if n.X < m.X+m.W && m.X < n.X+n.W && n.Y < m.Y+m.H && m.Y < n.Y+n.H {
				t.Errorf("%s lies on %s", n.Name, m.Name)
			}
		}
	}
	for _, e := range p.Edges {
		if e.X1 < 0 || e.X2 < 0 || e.X1 > p.Width || e.X2 > p.Width || e.Width < 1 {
			t.Errorf("edge %+v", e)
		}
	}
}

func TestPictureBridgesSilentHops(t *testing.T) {
	f := newFake(t)
	path := f.trace("p0-tor0-h0", "p0-tor0", "p0-t1-0", "*", "p1-t1-0", "p1-tor1")
	view := NewViews(f.topo).Path(path, f.flow("p0-tor0-h0", 1, "p1-tor1-h1", 2))
	p := drawPath(f.topo, "p0-tor0-h0", "p1-tor1-h1", []PathView{*view}, nil, "")
	if edges, _ := classes(p); edges["gap"] == 0 {
		t.Errorf("edges %v", edges)
	}
	checkLayout(t, p)
}

func TestPictureOfALargeFabricIsCut(t *testing.T) {
	topo, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 1, T1s: 16, T2s: 64, Hosts: 1})
	if err != nil {
		t.Fatal(err)
	}
	p := drawPath(topo, "p0-tor0-h0", "p1-tor0-h0", nil, nil, "link p0-t1-15>t2-63")
	if _, blamed := classes(p); len(blamed) != 1 {
		t.Errorf("the blamed link is cut away: %v", blamed)
	}
	column := make(map[int]int)
	more := ""
	for _, n := range p.Nodes {
		column[n.X]++
		if n.Class == "more" {
			more += n.Name + ";"
		}
	}
	for x, n := range column {
		if n > maxColumnNodes+2 {
			t.Errorf("%d boxes at %d", n, x)
		}
	}
	if more == "" {
		t.Error("nothing says that boxes were left out")
	}
	checkLayout(t, p)
}

func TestNoPictureWhereThereIsNoWay(t *testing.T) {
	topo := clos(t)
	for _, ends := range [][2]string{{"p0-tor0-h0", "p0-tor0-h0"}, {"p0-tor0-h0", "nowhere"}} {
		if p := drawPath(topo, ends[0], ends[1], nil, nil, ""); p != nil {
			t.Errorf("%v: %v", ends, p)
		}
	}
}

// Traces that the topology does not foresee are drawn without harm.
func TestPictureOfOddTraces(t *testing.T) {
	topo := clos(t)
	for i, links := range [][]string{
		{"no>link"}, {"t2-0>p1-t1-0"}, {"p1-t1-0>p1-tor1", "p0-tor0-h0>p0-tor0"}, {"p0-t1-1>p0-tor1", "p0-tor1>p0-t1-0"},
		{"p0-tor0>p0-tor0-h0", "p0-tor0-h0>p0-tor0", "p0-tor0>p0-tor0-h0"},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			p := drawPath(topo, "p0-tor0-h0", "p1-tor1-h1", []PathView{{SrcHost: "p0-tor0-h0", DstHost: "p1-tor1-h1", Hops: []HopView{{}}, Links: links}}, nil, "host p1-tor1-h1")
			if p == nil || !strings.Contains(fmt.Sprint(p.Notes), "partial") || !p.hasBlamed() {
				t.Errorf("%+v", p)
			}
			checkLayout(t, p)
		})
	}
}
