package correlator

import (
	"slices"
	"strings"
	"testing"

	"decaf/api/decafpb"
	"decaf/topology"
)

// A device testifies by its silence only while it would tell of all that it drops.
func TestWhoseSilenceMeansSomething(t *testing.T) {
	t.Parallel()
	type beat struct {
		fuse       string
		unreported []string
		counters   map[string]uint64
	}
	full := beat{fuse: fuseFull}
	with := func(counter string, n uint64) beat {
		return beat{fuse: fuseFull, counters: map[string]uint64{counter: n}}
	}
	for _, c := range []struct {
		name  string
		at    map[int64]beat // from this second on
		spans map[[2]int64]string
	}{
		{"all is told", map[int64]beat{100: full}, map[[2]int64]string{{100, 130}: "", {100, 200}: ""}},
		{"an agent that does not say", map[int64]beat{100: {}}, map[[2]int64]string{{100, 130}: ""}},
		{"sampled", map[int64]beat{100: {fuse: "sampled"}}, map[[2]int64]string{{100, 130}: ""}},
		{"aggregates only", map[int64]beat{100: full, 120: {fuse: "aggregates"}}, map[[2]int64]string{{110, 140}: ""}},
		{"counters only", map[int64]beat{100: full, 120: {fuse: "counters"}, 140: full},
			map[[2]int64]string{{100, 117}: "", {100, 119}: "counters only", {120, 150}: "counters only", {141, 150}: "", {100, 130}: "counters only"}},
		{"off until now", map[int64]beat{100: full, 190: {fuse: "off"}}, map[[2]int64]string{{100, 187}: "", {195, 200}: "off", {200, 200}: "off"}},
		{"a class is ignored", map[int64]beat{100: full, 120: {fuse: fuseFull, unreported: []string{"policy/l3/acl"}}, 140: full},
			map[[2]int64]string{{110, 130}: "policy/l3/acl", {150, 160}: ""}},
		{"many are", map[int64]beat{100: {fuse: fuseFull, unreported: []string{"a", "b", "c"}}}, map[[2]int64]string{{110, 130}: "a and 2 more"}},
		{"drops that were not counted", map[int64]beat{100: with(counterUncounted, 4), 150: with(counterUncounted, 5)},
			map[[2]int64]string{{110, 140}: "", {120, 149}: "did not look at", {152, 160}: ""}},
		{"drops that nobody looked at", map[int64]beat{100: with(counterMissed, 4), 150: with(counterMissed, 14)}, map[[2]int64]string{{110, 160}: "did not look at"}},
		{"few of these", map[int64]beat{100: with(counterMissed, 4), 150: with(counterMissed, 13)}, map[[2]int64]string{{110, 160}: ""}},
		{"started anew", map[int64]beat{100: with(counterBoot, 4), 150: with(counterBoot, 5)}, map[[2]int64]string{{110, 160}: "anew", {152, 160}: ""}},
	} {
		a := newAgents()
		a.of("s", "device")
		a.reached("s", nil, 90*second)
		var says beat
		for at := int64(100); at <= 200; at++ {
			if b, ok := c.at[at]; ok {
				says = b
			}
			if at%2 == 0 {
				a.beat(&decafpb.Heartbeat{Origin: &decafpb.Origin{Producer: "s"}, TimeNs: uint64(at * second), Role: "device", Source: "tp_btf",
					Fuse: says.fuse, Unreported: says.unreported, Counters: says.counters}, at*second)
			}
		}
		for span, want := range c.spans {
			from, to := span[0]*second, span[1]*second
			why := a.blindWithin("s", from, to)
			if (why == "") != (want == "") || !strings.Contains(why, want) {
				t.Errorf("%s, %v: %q, want %q", c.name, span, why, want)
			}
			if got := slices.Contains(a.watching(from, to), "s"); got != (want == "") {
				t.Errorf("%s, %v: watching %v", c.name, span, got)
			}
			if !slices.Contains(a.heard(from, to), "s") {
				t.Errorf("%s, %v: not heard", c.name, span)
			}
		}
		if n := len(a.byName["s"].blind); n > 2 {
			t.Errorf("%s: %d times held", c.name, n)
		}
	}
}

// What a device tells of, in words.
func TestReportsInWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fuse string
		less []string
		want string
	}{
		{"", nil, ""}, {"full", nil, "full"}, {"off", nil, "off"}, {"", []string{"a"}, "full but a"},
		{"sampled", []string{"a", "b"}, "sampled but a, b"}, {"full", []string{"a", "b", "c", "d"}, "full but a and 3 more"},
	} {
		if got := (&presence{fuse: c.fuse, unreported: c.less}).reports(); got != c.want {
			t.Errorf("%q %v: %q, want %q", c.fuse, c.less, got, c.want)
		}
	}
}

// A device with its fuse off loses packets on all its links and shows none of them.
// Were its silence believed, what it does would be laid on its neighbours' links;
// as it is, it is named as one that is not watched, and the trace says why it is
// not believed.
func TestBlindDeviceIsNoWitness(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, end = 100 * second, 116 * second
	link := linkOf(t, topo, "p0-t1-0>t2-1")
	run := func(fuse string) *Engine {
		fb := newFabric(topo, 5, fault{link: link, rate: .05, at: at, end: end})
		arrivals := fb.run(at-20*second, end+5*second)
		a := newAgents()
		for _, d := range topo.Devices {
			a.of(d.Name, "device")
			a.reached(d.Name, nil, at-60*second)
			for t := at - 60*second; t < end+30*second; t += 2 * second {
				b := &decafpb.Heartbeat{Origin: &decafpb.Origin{Producer: d.Name, BootId: 1}, TimeNs: uint64(t), Role: "device", Source: "tp_btf", Fuse: "full"}
				if d.Name == "p0-t1-0" {
					b.Fuse = fuse
				}
				a.beat(b, t)
			}
		}
		return playHeard(topo, arrivals, end+4*second, a)
	}
	for fuse, want := range map[string]bool{"full": false, "aggregates": false, "counters": true, "off": true} {
		e := run(fuse)
		fs := components(e)
		f := fs["link "+link.Name]
		if len(fs) != 1 || f == nil {
			t.Fatalf("fuse %s: named %v", fuse, fs)
		}
		said := slices.ContainsFunc(f.GetEvidence().GetReasons(), func(r string) bool { return strings.Contains(r, "its fuse") })
		if said != want {
			t.Errorf("fuse %s: %v", fuse, f.GetEvidence().GetReasons())
		}
	}
}

// playHeard is play with agents whose silence is judged as in the service.
func playHeard(topo *topology.Topology, arrivals []arrival, until int64, a *agents) *Engine {
	e := NewEngine(DefaultEngineConfig(), topo, nil, counter("f"))
	e.Watch(a.watching)
	e.Attend(a.heard, a.blindWithin)
	return feed(e, arrivals, until, func() {})
}
