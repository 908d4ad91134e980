package device

import (
	"net/netip"
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"
)

// heldBackFlows is a source that holds back drops of flows, by flow.
type heldBackFlows map[packet.Flow]*heldBackFlow

type heldBackFlow struct {
	last    time.Time
	packets uint64
}

func (h heldBackFlows) repeated(_ time.Time, _ string, f packet.Flow) (time.Time, uint64, bool) {
	if of := h[f]; of != nil {
		return of.last, of.packets, true
	}
	return time.Time{}, 0, false
}
func (h heldBackFlows) forget(_ string, f packet.Flow) { delete(h, f) }
func (h heldBackFlows) anew()                          {}

// What the source holds back of a flow is told of with what it hands on, each packet
// once, and the flow has not stopped while the source still sees it.
func TestRepetitionOfWhatIsHeldBack(t *testing.T) {
	src := heldBackFlows{}
	r := testReporter(func(c *Config) { c.Report.Deduplicate = 10 * time.Second })
	r.source = src
	now := time.Unix(1000, 0)
	drop := func(i int) decision { return r.take(now, testDrop(PolicyL3ACL, i)) }
	stopped := func() (out []transitionAt) {
		r.tick(now)
		return r.takeTransitions()
	}
	for i := range 3 {
		if d := drop(i); !d.report || d.repeats != 0 {
			t.Errorf("first drop of flow %d: %+v", i, d)
		}
	}
	src[testFlow(0)] = &heldBackFlow{now.Add(9 * time.Second), 70}
	src[testFlow(1)] = &heldBackFlow{now.Add(4 * time.Second), 5}
	now = now.Add(11 * time.Second)
	if ts := stopped(); len(ts) != 1 || ts[0].Measured != 0 {
		t.Fatalf("only flow 2 has stopped, with nothing more: %+v", ts)
	}
	src[testFlow(0)].packets += 30
	if d := drop(0); !d.report || d.repeats != 100 {
		t.Errorf("still dropped: %+v, want 100 more", d)
	}
	now = now.Add(3 * time.Second) // 14 s: flow 1 was last dropped 10 s ago
	if ts := stopped(); len(ts) != 1 || ts[0].Measured != 5 {
		t.Errorf("flow 1 has stopped, with 5 more: %+v", ts)
	}
	src[testFlow(0)] = &heldBackFlow{now, 8} // the source forgot it meanwhile, and counts anew
	now = now.Add(10 * time.Second)
	if ts := stopped(); len(ts) != 1 || ts[0].Measured != 8 {
		t.Errorf("flow 0 has stopped, with 8 more: %+v", ts)
	}
	if len(src) != 0 {
		t.Errorf("the source remembers %d flows that stopped", len(src))
	}
}

// What matched a filter and did not come up counts with that filter as long as it is as
// it was.
func TestFilterMissed(t *testing.T) {
	of := yang.Filter{Name: "a", Source: netip.MustParsePrefix("10.0.0.0/8"), EndNs: 9}
	now, other := of, of
	other.EndNs = 10
	f := filters{list: []*yang.Filter{&now}}
	f.missed(&of, 3)
	f.missed(&other, 5)
	if now.Matched != 3 {
		t.Errorf("%d matched, want 3", now.Matched)
	}
}
