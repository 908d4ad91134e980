package device

import (
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"
)

func testReporter(change func(c *Config)) *reporter {
	cfg := DefaultConfig()
	cfg.Name = "r"
	if change != nil {
		change(&cfg)
	}
	return newReporter(cfg.settings, newAggregates(defaultAggregates().Open, prefixLength{24, 48}, time.Unix(1000, 0)), newFuse(testBudget()))
}

func testDrop(class string, flow int) *drop {
	return &drop{class: class, reason: "R", ingress: "eth1", egress: "eth2", packets: 1, bytes: 100, flow: testFlow(flow)}
}

// TestReporterFlood: a flood in one class stops that class's events and no
// other's, every drop is in an aggregate with why it has no event, and the
// events come back.
func TestReporterFlood(t *testing.T) {
	r := testReporter(func(c *Config) { c.Report.Threshold = 100 })
	now := time.Unix(1000, 0)
	events, drops := map[string]uint64{}, map[string]uint64{}
	told, packets, suppressed := map[string]uint64{}, map[string]uint64{}, map[string]yang.Suppressed{}
	gather := func(list []*aggregate) {
		for _, g := range list {
			told[g.class] += g.events
			packets[g.class] += g.packets
			s := suppressed[g.class]
			s.Threshold += g.suppressed.Threshold
			suppressed[g.class] = s
		}
	}
	take := func(class string, flow int) {
		drops[class]++
		v := r.take(now, testDrop(class, flow))
		if !v.count {
			t.Fatal("a drop is not counted")
		}
		if v.report {
			events[class]++
		}
	}
	for ms := range 5000 {
		now = now.Add(time.Millisecond)
		for range 10 {
			take(PolicyL3ACL, ms)
		}
		if ms%100 == 0 {
			take(NoBuffer, 1)
		}
		gather(r.tick(now))
	}
	for range 100 {
		now = now.Add(50 * time.Millisecond)
		gather(r.tick(now))
	}
	take(PolicyL3ACL, 1)
	gather(r.aggregates.flush(now))
	if events[NoBuffer] != drops[NoBuffer] {
		t.Errorf("the quiet class: %d events of %d drops", events[NoBuffer], drops[NoBuffer])
	}
	if got := events[PolicyL3ACL]; got < 100 || got > 105 {
		t.Errorf("the flood: %d events, want 100 before and 1 after", got)
	}
	for class, n := range drops {
		if packets[class] != n || told[class] != events[class] || suppressed[class].Threshold != n-events[class] {
			t.Errorf("%s: %d drops, %d events; aggregates have %d, %d and %+v", class, n, events[class], packets[class], told[class], suppressed[class])
		}
	}
	ts := r.takeTransitions()
	if len(ts) != 2 || ts[0].To != "aggregates" || ts[1].To != "events" || ts[0].Class != PolicyL3ACL || ts[0].Measured < 9000 || ts[0].Measured > 11000 || ts[0].Limit != 100 {
		t.Errorf("transitions: %+v", ts)
	}
	for _, c := range r.reporting() {
		if c.Stream != "events" || c.Fuse != "full" || c.Suppressed.Threshold != drops[c.Name]-events[c.Name] {
			t.Errorf("reporting: %+v", c)
		}
	}
}

// What a parent has holds for its children; ignored drops are counted only.
func TestReporterIgnores(t *testing.T) {
	yes, no := true, false
	r := testReporter(func(c *Config) {
		c.Classes = map[string]ClassConfig{"policy": {Ignore: &yes}, PolicyL3RPF: {Ignore: &no}}
	})
	now := time.Unix(1000, 0)
	for class, report := range map[string]bool{PolicyL3ACL: false, PolicyL2ACL: false, PolicyL3RPF: true, NoBuffer: true} {
		if v := r.take(now, testDrop(class, 1)); !v.count || v.report != report {
			t.Errorf("%s: %+v, want a report: %v", class, v, report)
		}
	}
	if list := r.aggregates.flush(now); len(list) != 2 {
		t.Errorf("%d aggregates, want those of two classes", len(list))
	}
	for _, c := range r.reporting() {
		if want := map[string]string{PolicyL3ACL: "ignored", PolicyL2ACL: "ignored"}[c.Name]; want != "" && c.Stream != want || want == "" && c.Stream != "events" {
			t.Errorf("reporting %+v", c)
		}
	}
}

// First, still, stopped; a drop without a flow is told of each time.
func TestReporterDeduplicates(t *testing.T) {
	every := 2 * time.Second
	r := testReporter(func(c *Config) { c.Classes = map[string]ClassConfig{NoBuffer: {Deduplicate: &every}} })
	now := time.Unix(1000, 0)
	events, repeats := 0, uint64(0)
	for range 50 { // 5 s
		v := r.take(now, testDrop(NoBuffer, 1))
		if v.report {
			events++
			repeats += v.repeats
		}
		now = now.Add(100 * time.Millisecond)
		r.tick(now)
	}
	if events != 3 || repeats != 38 {
		t.Errorf("%d events for %d more; want 3 for 38", events, repeats)
	}
	now = now.Add(every)
	r.tick(now)
	ts := r.takeTransitions()
	if len(ts) != 1 || ts[0].Kind != "flow" || ts[0].To != "stopped" || ts[0].Measured != 9 {
		t.Fatalf("transitions: %+v", ts)
	}
	if f, err := packet.FlowFromPB(ts[0].Flow); err != nil || f != testFlow(1) {
		t.Errorf("stopped: %v, %v", f, err)
	}
	for range 3 {
		if !r.take(now, &drop{class: NoBuffer, packets: 1}).report {
			t.Error("a drop that shows no packet has no event")
		}
	}
	if c := r.reporting()[0]; c.Suppressed.Duplicate != 47 {
		t.Errorf("suppressed: %+v", c.Suppressed)
	}
}

// TestReporterFuse: what is left at each level of the fuse, for the class that
// floods and for a quiet one.
func TestReporterFuse(t *testing.T) {
	r := testReporter(func(c *Config) { c.Report.Threshold = 1e6 })
	now := time.Unix(1000, 0)
	const n = 1600
	for _, want := range []struct {
		level              string
		events, aggregated int
		counted            int
	}{
		{"full", n, n, n}, {"sampled", n / sampleOf, n, n}, {"aggregates", 0, n, n}, {"counters", 0, 0, n}, {"off", 0, 0, 0},
		{"counters", 0, 0, n}, {"aggregates", 0, n, n}, {"sampled", n / sampleOf, n, n}, {"full", n, n, n},
	} {
		if got := r.fuse.allows(PolicyL3ACL).String(); got != want.level {
			t.Fatalf("level %s, want %s", got, want.level)
		}
		events, counted, aggregated := 0, 0, 0
		for range n {
			v := r.take(now, testDrop(PolicyL3ACL, 1))
			if v.report {
				events++
			}
			if v.count {
				counted++
			}
		}
		if v := r.take(now, testDrop(NoBuffer, 1)); !v.report || !v.count {
			t.Errorf("at %s of another class: %+v", want.level, v)
		}
		for _, g := range r.aggregates.flush(now) {
			if g.class == PolicyL3ACL {
				aggregated = int(g.packets)
				if g.events+g.suppressed.Fuse != n {
					t.Errorf("at %s: %d events and %d suppressed of %d", want.level, g.events, g.suppressed.Fuse, n)
				}
			}
		}
		if events != want.events || counted != want.counted || aggregated != want.aggregated {
			t.Errorf("at %s: %d events, %d counted, %d in aggregates; want %+v", want.level, events, counted, aggregated, want)
		}
		// Down while it floods, and when it is off back up.
		took := load{cpu: 1}
		if r.uncounted > 0 {
			took = load{}
			if want.level == "full" {
				break
			}
		}
		for before := r.fuse.allows(PolicyL3ACL); r.fuse.allows(PolicyL3ACL) == before; {
			now = now.Add(time.Second)
			r.look(now, took)
		}
	}
	if r.uncounted != n {
		t.Errorf("%d not counted, want %d", r.uncounted, n)
	}
}

// TestReporterHeldBackOfADeduplicatedClass: what the source held back of one fast
// flow says nothing of how many events there would be, so it does not take the class
// above its threshold, and other flows still have their first event.
func TestReporterHeldBackOfADeduplicatedClass(t *testing.T) {
	for _, test := range []struct {
		deduplicate time.Duration
		told        bool
	}{{0, false}, {time.Minute, true}} {
		r := testReporter(func(c *Config) { c.Report.Threshold, c.Report.Deduplicate = 100, test.deduplicate })
		now := time.Unix(1000, 0)
		for range 20 {
			now = now.Add(100 * time.Millisecond)
			r.take(now, testDrop(PolicyL3ACL, 1))
			r.unseen(now, &drop{class: PolicyL3ACL, packets: 500, bytes: 50_000, sketched: true}, 500, overThreshold)
			r.tick(now)
		}
		if got := r.take(now, testDrop(PolicyL3ACL, 2)).report; got != test.told {
			t.Errorf("de-duplicated each %s: the first drop of another flow is told of: %v", test.deduplicate, got)
		}
	}
}
