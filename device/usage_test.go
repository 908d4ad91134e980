package device

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"
)

// TestMeterHoldsOneToTheWhole: of several agents in a process the one that handles
// most is held to all that the process takes, the others to their share.
func TestMeterHoldsOneToTheWhole(t *testing.T) {
	m := new(meter)
	a, b, c := m.join(), m.join(), m.join()
	if got := a.of(0); got != 1 {
		t.Errorf("nobody handles drops: an agent is held to %v, want all: it cannot be told whose work it is", got)
	}
	b.of(30)
	for _, tc := range []struct {
		s          *share
		rate, want float64
	}{{c, 60, 1}, {a, 10, 0.1}, {b, 30, 0.3}, {a, 60, 1}, {c, 60, 1}} {
		if got := tc.s.of(tc.rate); got != tc.want {
			t.Errorf("held to %v at %v drops a second, want %v", got, tc.rate, tc.want)
		}
	}
	if got := new(meter).join().of(5); got != 1 {
		t.Errorf("alone and held to %v", got)
	}
}

func TestHeldTo(t *testing.T) {
	for _, tc := range []struct {
		what             string
		part, all, limit float64
		less             bool
		want             float64
	}{
		{"its share", 0.1, 2, 0.25, false, 0.2},
		{"all of it", 1, 2, 0.25, false, 2},
		{"others take too much: neither less nor more", 0.01, 2, 0.25, true, 0.25},
		{"it takes too much itself", 0.5, 2, 0.25, true, 1},
		{"the process is nearly calm, and not quite", 0, 0.2, 0.25, true, 0.2},
		{"the process is calm", 0.1, 0.1, 0.25, true, 0.1},
	} {
		if got := heldTo(tc.part, tc.all, tc.limit, tc.less); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.what, got, tc.want)
		}
	}
}

// TestFleetTripsTheBusyAgent: the process takes twice its budget for one agent's
// flood; the other's fuse does not move, and the first comes back once the flood
// is over.
func TestFleetTripsTheBusyAgent(t *testing.T) {
	m := new(meter)
	type one struct {
		*share
		fuse *fuse
	}
	busy, idle := one{m.join(), newFuse(testBudget())}, one{m.join(), newFuse(testBudget())}
	now := time.Unix(1000, 0)
	look := func(o one, rate, all float64) *step {
		part, less := o.of(rate), o.fuse.blown()
		return o.fuse.look(now, load{cpu: heldTo(part, all, 0.05, less), drops: map[string]uint64{NoBuffer: uint64(rate)}})
	}
	var down, up int
	for range 4 {
		now = now.Add(time.Second)
		if s := look(busy, 100_000, 0.1); s != nil {
			down++
		}
		if s := look(idle, 20, 0.1); s != nil {
			t.Fatalf("the idle agent was allowed %v", s.to)
		}
	}
	for range 60 {
		now = now.Add(time.Second)
		if s := look(busy, 50, 0.001); s != nil {
			up++
		}
		if s := look(idle, 20, 0.001); s != nil {
			t.Fatalf("the idle agent was allowed %v", s.to)
		}
	}
	if down == 0 || up != down || busy.fuse.blown() {
		t.Errorf("%d steps down and %d back", down, up)
	}
}

// TestFleetHasOneMeter: the agents of a fleet share what the process takes.
func TestFleetHasOneMeter(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen = "r", "127.0.0.1:0"
	cfg.SFlow = SFlowConfig{Listen: "127.0.0.1:0", Switches: []SwitchConfig{{Name: "s1", Listen: "127.0.0.1:0", Agent: netip.MustParseAddr("192.0.2.1")}, {Name: "s2", Listen: "127.0.0.1:0", Agent: netip.MustParseAddr("192.0.2.2")}}}
	f, err := newFleet(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range f.switches {
		if a.share == nil || a.share.meter != f.own.share.meter {
			t.Errorf("%s has a meter of its own", a.cfg.Name)
		}
	}
	if n := len(f.own.share.meter.shares); n != 3 {
		t.Errorf("%d agents share a meter, want 3", n)
	}
}
