package replay

import (
	"math"
	"testing"
)

func TestScore(t *testing.T) {
	const flows = `
{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1}}
{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1}}
{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1}}
{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":0}}
`
	for _, c := range []struct {
		name, truth       string
		blamed            [][]string // each with what it cannot be told from
		causes            []string   // by flow
		precision, recall float64
		accuracy          float64
	}{
		{"nothing wrong, nothing named", `{}`, nil, nil, 1, 1, 1},
		{"nothing wrong, something named", `{}`, [][]string{{"link t0>s1"}}, nil, 0, 1, 1},
		{"not found", `{"links":[["t0","s1"]]}`, nil, nil, 1, 0, 1},
		{"found", `{"links":[["t0","s1"]]}`, [][]string{{"link t0>s1"}}, nil, 1, 1, 1},
		{"the other direction", `{"links":[["t0","s1"]]}`, [][]string{{"link s1>t0"}}, nil, 0, 0, 1},
		{"one of two, and one too many", `{"links":[["t0","s1"]],"devices":["s2"]}`, [][]string{{"link t0>s1"}, {"link t0>s2"}}, nil, 0.5, 0.5, 1},
		{"a device by its links", `{"devices":["s2"]}`, [][]string{{"link t0>s2"}, {"link s2>t4"}}, nil, 0, 0, 1},
		{"in a class", `{"links":[["t0","s1"]]}`, [][]string{{"link s1>t4", "link t0>s1"}}, nil, 1, 1, 1},
		{"a class claims one", `{"links":[["t0","s1"],["s1","t4"]]}`, [][]string{{"link s1>t4", "link t0>s1"}}, nil, 1, 0.5, 1},
		{"a class leaves what is named alone", `{"links":[["t0","s1"],["s1","t4"]]}`, [][]string{{"link s1>t4", "link t0>s1"}, {"link s1>t4"}}, nil, 1, 1, 1},
		{"named twice", `{"links":[["t0","s1"]]}`, [][]string{{"link t0>s1"}, {"link t0>s1"}}, nil, 0.5, 1, 1},
		{"a host", `{"hosts":["h1"]}`, [][]string{{"host h1"}}, nil, 1, 1, 1},
		{"causes", `{"links":[["t0","s1"]],"causes":[{"flow":1,"link":["t0","s1"]},{"flow":2,"link":["t0","s1"]},{"flow":3,"link":["s1","t4"]}]}`,
			nil, []string{"link t0>s1", "link s1>t4", "link t0>s1"}, 1, 0, 0.5},
		{"a flow that lost in two places", `{"links":[["t0","s1"]],"causes":[{"flow":1,"link":["t0","s1"]},{"flow":2,"link":["s1","t4"]},{"flow":1,"link":["s1","t4"]}]}`,
			nil, []string{"link s1>t4", ""}, 1, 0, 1},
		{"a device as cause", `{"devices":["s1"],"causes":[{"flow":1,"link":["t0","s1"]},{"flow":2,"link":["t0","s1"]},{"flow":3,"link":["t0","s1"]}]}`,
			nil, []string{"device s1", "link t0>s1", "device t0"}, 1, 0, 2.0 / 3},
		{"no cause named", `{"links":[["t0","s1"]],"causes":[{"flow":1,"link":["t0","s1"]}]}`, nil, []string{""}, 1, 0, 0},
		{"a host's link as cause of its fault", `{"hosts":["h1"],"causes":[{"flow":1,"link":["h1","t0"]}]}`, nil, []string{"host h1"}, 1, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			topo, epochs := read(t, small+flows+`{"truth":`+c.truth+"}\n")
			component := func(name string) Component {
				c, ok := topo.Component(name)
				if !ok {
					t.Fatalf("no component %q", name)
				}
				return c
			}
			var blamed []Blamed
			for _, names := range c.blamed {
				b := Blamed{Component: component(names[0])}
				for _, n := range names[1:] {
					b.Equivalent = append(b.Equivalent, component(n))
				}
				blamed = append(blamed, b)
			}
			s, ok := epochs[0].Score(topo, blamed, func(flow int) (Component, bool) {
				if flow >= len(c.causes) || c.causes[flow] == "" {
					return Component{}, false
				}
				return component(c.causes[flow]), true
			})
			if !ok {
				t.Fatal("no score")
			}
			for _, x := range []struct {
				what      string
				got, want float64
			}{{"precision", s.Precision(), c.precision}, {"recall", s.Recall(), c.recall}, {"flow accuracy", s.FlowAccuracy(), c.accuracy}} {
				if math.Abs(x.got-x.want) > 1e-12 {
					t.Errorf("%s %v, want %v (%+v)", x.what, x.got, x.want, s)
				}
			}
			if twice := s.Add(s); twice.Precision() != s.Precision() || twice.Recall() != s.Recall() || twice.Blamed != 2*s.Blamed {
				t.Errorf("twice %+v is %+v", s, twice)
			}
		})
	}
	topo, epochs := read(t, small)
	if _, ok := epochs[0].Score(topo, nil, nil); ok {
		t.Error("a score without a truth")
	}
}
