package correlator

import (
	"testing"

	"decaf/topology"
)

// playDown feeds a run to an engine whose devices' agents beat, but for one that
// falls silent for a time.
func playDown(topo *topology.Topology, arrivals []arrival, until int64, silent string, from, to int64) *Engine {
	e := NewEngine(DefaultEngineConfig(), topo, nil, counter("f"))
	e.Watch(func(start, end int64) (list []string) {
		for _, d := range topo.Devices {
			// As presence has it: heard all through, but for freshFor at either end.
			if d.Name != silent || end <= from+freshFor || start >= to-freshFor && end >= to {
				list = append(list, d.Name)
			}
		}
		return list
	})
	return feed(e, arrivals, until, func() {})
}

// A device that has gone is named, and nothing beside it: by what its neighbours
// drop at their ports to it, or, where they say nothing, by its agent's silence.
func TestDeviceDown(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, end = 100 * second, 116 * second
	for _, device := range []string{"t2-0", "t2-1", "p0-t1-0", "p1-t1-1"} {
		for _, c := range []struct {
			name, class string
			silent      bool
			within      int64
			lost        string // how it drops for a second when it is back
		}{
			{"neighbours drop", classNoBuffer, false, 4 * second, ""},
			{"neighbours drop, and its agent falls silent", classNoBuffer, true, 4 * second, ""},
			{"its agent falls silent", "", true, 11 * second, ""},
			{"neighbours drop, and it has no routes at first", classNoBuffer, false, 4 * second, "errors/l3/rx/no-route"},
		} {
			for seed := range uint64(1) {
				faults := []fault{{device: device, down: true, class: c.class, rate: 1, at: at, end: end}}
				if c.lost != "" {
					faults = append(faults, fault{device: device, class: c.lost, rate: 1, at: end, end: end + second})
				}
				fb := newFabric(topo, seed, faults...)
				silent := ""
				if c.silent {
					silent = device
				}
				e := playDown(topo, fb.run(at-10*second, end+15*second), end+40*second, silent, at, end)
				fs := e.Findings()
				if len(fs) != 1 || fs[0].GetComponent() != "device "+device || fs[0].GetClass() != classDown {
					t.Errorf("%s, %s, seed %d: %d findings", device, c.name, seed, len(fs))
					for _, f := range fs {
						t.Errorf("   %s %s detected %.2f resolved %.2f %v", f.GetComponent(), f.GetClass(), float64(f.GetDetectedNs())/1e9, float64(f.GetResolvedNs())/1e9, f.GetEvidence().GetReasons())
					}
					continue
				}
				f := fs[0]
				if took := int64(f.GetDetectedNs()) - at; took <= 0 || took > c.within {
					t.Errorf("%s, %s, seed %d: named after %.2f s", device, c.name, seed, float64(took)/1e9)
				}
				if r := int64(f.GetResolvedNs()); r < end-2*second || r > end+6*second {
					t.Errorf("%s, %s, seed %d: resolved at %.2f s, it was back at %.2f s", device, c.name, seed, float64(r)/1e9, float64(end)/1e9)
				}
				// What is left in the window of drops before it, when it has spoken since.
				drops := uint64(50)
				if c.lost != "" {
					drops = 1
				}
				if f.GetFlows() < 50 || c.class != "" && f.GetEvidence().GetDropCount() < drops {
					t.Errorf("%s, %s, seed %d: %d flows, %d drops", device, c.name, seed, f.GetFlows(), f.GetEvidence().GetDropCount())
				}
			}
		}
	}
}

// What looks like a device that is down, and is not: none is named for it.
func TestNoDeviceDown(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, end = 100 * second, 116 * second
	link := func(name string) *topology.Link { return linkOf(t, topo, name) }
	for _, c := range []struct {
		name   string
		faults []fault
		silent string
		want   string // the one finding, if any
	}{
		{"an agent falls silent, no loss", []fault{{link: link("p0-t1-0>t2-1"), rate: 0, at: at, end: end}}, "t2-0", ""},
		{"its agent falls silent, another device loses", []fault{{device: "t2-1", class: "policy/l3/acl", rate: 1, at: at, end: end}}, "t2-0", "device t2-1"},
		{"gone, and nobody tells", []fault{{device: "t2-0", down: true, at: at, end: end}}, "", ""},
		{"one link into it is cut", []fault{{link: link("p0-t1-0>t2-1"), class: classNoBuffer, rate: 1, at: at, end: end}}, "", "link p0-t1-0>t2-1"},
		{"it forwards nothing but answers", []fault{{device: "p0-t1-1", class: "errors/l3/rx/no-route", rate: 1, at: at, end: end}}, "p0-t1-1", "device p0-t1-1"},
	} {
		for seed := range uint64(2) {
			fb := newFabric(topo, seed, c.faults...)
			e := playDown(topo, fb.run(at-10*second, end+15*second), end+40*second, c.silent, at, end)
			for _, f := range e.Findings() {
				if f.GetClass() == classDown || f.GetComponent() != c.want {
					t.Errorf("%s, seed %d: named %s %s: %v", c.name, seed, f.GetComponent(), f.GetClass(), f.GetEvidence().GetReasons())
				}
			}
			if c.want != "" && len(e.Findings()) == 0 {
				t.Errorf("%s, seed %d: %s is not named", c.name, seed, c.want)
			}
		}
	}
}

// A device that loses SYNs and nothing else is named, with a word for it.
func TestSYNsSwallowed(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, end = 100 * second, 116 * second
	for _, c := range []struct {
		device string
		rate   float64
		named  bool
	}{
		{"t2-0", 1, true}, {"p0-t1-1", 1, true}, {"t2-1", .5, true}, {"p1-tor0", 1, true}, {"p1-t1-0", .002, false},
	} {
		for seed := range uint64(2) {
			fb := newFabric(topo, seed, fault{device: c.device, syn: true, rate: c.rate, at: at, end: end})
			e := playDown(topo, fb.run(at-10*second, end+15*second), end+40*second, "", 0, 0)
			fs := e.Findings()
			if len(fs) != btoi(c.named) || c.named && (fs[0].GetComponent() != "device "+c.device || fs[0].GetClass() != classSYN) {
				t.Errorf("%s, %g, seed %d: %d findings", c.device, c.rate, seed, len(fs))
				for _, f := range fs {
					t.Errorf("   %s %s detected %.2f %v", f.GetComponent(), f.GetClass(), float64(f.GetDetectedNs())/1e9, f.GetEvidence().GetReasons())
				}
			} else if c.named {
				if took := int64(fs[0].GetDetectedNs()) - at; took < 0 || took > 10*second || fs[0].GetProbability() < 0.9995 || fs[0].GetResolvedNs() == 0 {
					t.Errorf("%s, %g, seed %d: after %.2f s: %v", c.device, c.rate, seed, float64(took)/1e9, fs[0])
				}
			}
		}
	}
	// SYNs that hosts repeat for their own reasons, to one server that is down.
	fb := newFabric(topo, 1, fault{link: linkOf(t, topo, "p0-tor0>p0-tor0-h0"), syn: true, rate: 1, at: at, end: end})
	fb.faults[0].link, fb.faults[0].device = nil, "p0-tor0-h0"
	for _, f := range playDown(topo, fb.run(at-10*second, end+15*second), end+40*second, "", 0, 0).Findings() {
		t.Errorf("a server that is down: named %s %s %v", f.GetComponent(), f.GetClass(), f.GetEvidence().GetReasons())
	}
}
