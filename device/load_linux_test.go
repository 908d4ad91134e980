package device

import (
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"golang.org/x/sys/unix"
)

// startLooking runs an agent in a node whose fuse looks at its load more often than
// once a second, and waits no longer than that for the first step back. It returns
// the steps, as a client is told of them over gNMI: "class: from to cause".
func (n *node) startLooking(t *testing.T, cfg Config, every time.Duration) (*Agent, gnmipb.GNMIClient, func() []string) {
	t.Helper()
	a, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	a.lookEvery, a.reporter.fuse.budget.backOff = every, every
	runIn(t, n, a)
	c := dial(t, n, a, nil)
	var mu sync.Mutex
	var steps []string
	receive(t, c, func(n *gnmipb.Notification) {
		if s, is, err := yang.DecodeTransition(n); err != nil {
			t.Errorf("transition: %v", err)
		} else if is && s.Kind == "fuse" {
			mu.Lock()
			steps = append(steps, fmt.Sprintf("%s: %s %s %s", s.Class, s.From, s.To, s.Cause))
			mu.Unlock()
		}
	}, func() {}, "loss", "transitions")
	return a, c, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(steps)
	}
}

// allowed is what the fuse allows of a class, or of the whole agent: "".
func (a *Agent) allowed(class string) level {
	a.reporting.Lock()
	defer a.reporting.Unlock()
	if w := a.reporter.fuse.wires[class]; w != nil {
		return w.level
	}
	return full
}

// nextLook waits until the fuse has looked again.
func (a *Agent) nextLook(t *testing.T) {
	t.Helper()
	at := func() time.Time {
		a.reporting.Lock()
		defer a.reporting.Unlock()
		return a.usage.at
	}
	before := at()
	until(t, "the fuse looks", func() bool { return at().After(before) })
}

// of picks the steps of a class.
func stepsOf(class string, steps []string) (out []string) {
	for _, s := range steps {
		if of, step, _ := strings.Cut(s, ": "); of == class {
			out = append(out, step)
		}
	}
	return out
}

// TestFuseByRealDrops: the fuse's load is what the agent really takes. Events of real
// drops above their budget have their class stepped down to aggregates, and the whole
// agent when no class makes much; once it is quiet all of it comes back, and so do the
// events. A client hears of each step.
func TestFuseByRealDrops(t *testing.T) {
	l := newLab(t)
	l.withoutIPv6()
	l.r.route("10.20.0.0/16", "", unix.RTN_BLACKHOLE)
	cfg := testConfig()
	cfg.Counters.Interval, cfg.Routes.Window = 0, 0
	cfg.Fuse.Events, cfg.Fuse.Queue = 20, 1
	cfg.Report.Threshold = 1e6 // the fuse alone holds events back
	a, _, steps := l.r.startLooking(t, cfg, 100*time.Millisecond)
	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	flood := func(drops int) {
		l.h1.sendFrames("eth0", drops, func(i int) []byte { return f.udp4("10.0.1.2", "10.20.0.1", 9, 60, uint16(i), nil, nil) })
	}
	until(t, "one class makes too many events: it has aggregates only", func() bool {
		flood(3000)
		a.nextLook(t)
		return a.allowed(PolicyL3NullRoute) == aggregatesOnly
	})
	until(t, "none makes many, and all too many: the agent has aggregates only", func() bool {
		l.h1.sendFrames("eth0", worthIt*2/3, func(i int) []byte { return f.udp4("10.0.1.2", "10.0.2.2", 1, 60, uint16(i), nil, nil) })
		a.nextLook(t)
		return a.allowed("") == aggregatesOnly
	})
	if s := a.State(); s.Fuse != "aggregates" {
		t.Errorf("the fuse is told to allow %s", s.Fuse)
	}
	events := a.State().Events
	flood(50)
	until(t, "the flood is counted", func() bool {
		return classPackets(a, PolicyL3NullRoute) >= 3050
	})
	until(t, "all has come back", func() bool {
		return a.allowed("") == full && a.allowed(PolicyL3NullRoute) == full && a.State().Fuse == "full"
	})
	if now := a.State().Events; now > events+1 { // one may have been on its way
		t.Errorf("%d events while there were to be aggregates only", now-events)
	}
	events = a.State().Events
	l.sendTo("10.20.0.1:80", 40000, 9)
	until(t, "a drop has an event again", func() bool { return a.State().Events > events })
	until(t, "the client has heard of all steps", func() bool {
		of := stepsOf(PolicyL3NullRoute, steps())
		return len(of) > 0 && strings.HasSuffix(of[len(of)-1], " full healed")
	})
	for _, class := range []string{PolicyL3NullRoute, ""} {
		checkSteps(t, class, stepsOf(class, steps()), "events", aggregatesOnly)
	}
}

// checkSteps holds steps against what they must be, one by one from full down to a
// level, for one cause, and back to full; on a busy machine a step back may have been
// too soon, and be taken again.
func checkSteps(t *testing.T, class string, steps []string, cause string, lowest level) {
	t.Helper()
	at, low := full, full
	for _, s := range steps {
		switch s {
		case fmt.Sprintf("%s %s %s", at, min(at+1, off), cause):
			at++
			low = max(low, at)
		case fmt.Sprintf("%s %s healed", at, max(at, 1)-1):
			at--
		default:
			t.Fatalf("of %q: step %q at %s: %v", class, s, at, steps)
		}
	}
	if at != full || low != lowest {
		t.Errorf("of %q: down to %s, at last %s; want %s and %s: %v", class, low, at, lowest, full, steps)
	}
}

// TestFuseByMemory: more memory than the budget has the agent stepped down until it is
// off and out of the kernel; a larger budget, set over gNMI, brings it back. What the
// kernel keeps for it, at least the room of its maps, is in it.
func TestFuseByMemory(t *testing.T) {
	l := newLab(t)
	l.withoutIPv6()
	l.r.route("10.20.0.0/16", "", unix.RTN_BLACKHOLE)
	cfg := testConfig()
	cfg.Counters.Interval, cfg.Routes.Window = 0, 0
	cfg.Fuse.MemoryBytes, cfg.Fuse.Queue = 16<<20, 1
	ballast := make([]byte, 32<<20) // held by the process, whatever else it is at
	a, c, steps := l.r.startLooking(t, cfg, 50*time.Millisecond)
	k := a.sources.kernel.(*kernel)
	least := uint64(kernelBuffer + len(k.tenant.cells) + len(k.shared.agents) + maxCauses*causeSize)
	if n := k.memory(); n < least || n > 64<<20 {
		t.Errorf("the kernel keeps %d bytes, want %d at least", n, least)
	}
	until(t, "the agent is off", func() bool { return a.allowed("") == off })
	out := func() bool {
		k.tenant.mu.Lock()
		defer k.tenant.mu.Unlock()
		return k.tenant.out
	}
	until(t, "and out of the kernel's program", out)
	s := a.State()
	if s.MemoryBytes < uint64(len(ballast))+least || s.Fuse != "off" {
		t.Errorf("takes %d bytes, of which %d are the test's; the fuse allows %s", s.MemoryBytes, len(ballast), s.Fuse)
	}
	runtime.KeepAlive(ballast)
	if _, err := c.Set(t.Context(), change(`{"fuse":{"config":{"memory":"1099511627776"}}}`)); err != nil {
		t.Fatal(err)
	}
	until(t, "all has come back", func() bool { return a.allowed("") == full && !out() })
	events := a.State().Events
	l.sendTo("10.20.0.1:80", 40000, 9)
	until(t, "a drop has an event again", func() bool { return a.State().Events > events })
	until(t, "the client has heard of all steps", func() bool { return slices.Contains(stepsOf("", steps()), "sampled full healed") })
	checkSteps(t, "", stepsOf("", steps()), "memory", off)
}
