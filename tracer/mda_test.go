package tracer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api/packet"
)

// The published stopping points, up to 16 next hops.
func TestStoppingPoints(t *testing.T) {
	for epsilon, want := range map[float64][]int{
		0.05: {6, 11, 16, 21, 27, 33, 38, 44, 51, 57, 63, 70, 76, 83, 90, 96},
		0.01: {8, 15, 21, 28, 36, 43, 51, 58, 66, 74, 82, 90, 98, 106, 115, 123},
	} {
		for i, n := range want {
			if got := stopping(i+1, epsilon); got != n {
				t.Errorf("%v, %d next hops: %d, want %d", epsilon, i+1, got, n)
			}
		}
	}
}

// net is a network that a test enumerates: who answers for a flow at a TTL and with what
// delay. An empty name: nobody.
type mdaNet func(flow, ttl, nth int) (name string, delay time.Duration)

func (n mdaNet) play(t *testing.T, e *mda) *Fan {
	t.Helper()
	type flight struct {
		at   time.Duration
		flow int
		a    answer
	}
	var flying []flight
	var now time.Duration
	sent := map[mdaProbe]int{}
	for step := 0; ; step++ {
		if step > 100000 {
			t.Fatal("does not end")
		}
		probes, next, done := e.due(now, nil)
		if done {
			return e.fan()
		}
		for _, p := range probes {
			nth := sent[p]
			sent[p]++
			name, delay := n(p.flow, p.ttl, nth)
			if name == "" {
				continue
			}
			a := answer{ttl: p.ttl, nth: nth, from: nodeAddress(name), kind: packet.TimeExceeded}
			if strings.HasPrefix(name, "!") {
				a.from, a.kind, a.meaning = nodeAddress(name[1:]), packet.Unreachable, "network unreachable"
			}
			flying = append(flying, flight{now + delay, p.flow, a})
		}
		slices.SortStableFunc(flying, func(a, b flight) int { return int(a.at - b.at) })
		if len(flying) > 0 && flying[0].at <= next {
			f := flying[0]
			flying = flying[1:]
			now = f.at
			e.answer(f.flow, f.a, now)
			continue
		}
		if next <= now {
			t.Fatalf("at %s: nothing to send, and to be asked again at %s", now, next)
		}
		now = next
	}
}

// nodeAddress: "2.3" is node 3 at TTL 2.
func nodeAddress(name string) netip.Addr {
	if name == "dst" {
		return address("dst")
	}
	var ttl, n byte
	fmt.Sscanf(name, "%d.%d", &ttl, &n)
	return netip.AddrFrom4([4]byte{10, ttl, 0, n})
}

// balancer spreads flows over n ways, each TTL in its own manner.
func spread(flow, ttl, n int) int {
	return int(rand.New(rand.NewPCG(uint64(flow), uint64(ttl))).Uint64() % uint64(n))
}

// wide is a network of so many nodes at each TTL, fully meshed.
func wide(widths ...int) mdaNet {
	return func(flow, ttl, _ int) (string, time.Duration) {
		return fmt.Sprintf("%d.%d", ttl, spread(flow, ttl, widths[ttl-1])), time.Millisecond
	}
}

func newTestMDA(switches int) *mda {
	return newMDA(address("dst"), switches, 4096, 0.05, 2*time.Millisecond, 50*time.Millisecond)
}

// shape is the number of nodes by TTL.
func shape(f *Fan) string {
	var words []string
	for _, nodes := range f.Hops {
		words = append(words, fmt.Sprint(len(nodes)))
	}
	return strings.Join(words, "-")
}

func TestEnumerations(t *testing.T) {
	for _, c := range []struct {
		name     string
		net      mdaNet
		widths   int
		shape    string
		paths    uint64 // that the links allow
		complete bool
		why      string
		probes   int // at most
	}{
		{"one path", wide(1, 1, 1), 3, "1-1-1", 1, true, "", 18},
		{"the fan", wide(1, 4, 1), 3, "1-4-1", 4, true, "", 100},
		{"one switch", wide(1), 1, "1", 1, true, "", 6},
		{"fan of sixteen", wide(1, 16, 1), 3, "1-16-1", 16, true, "", 500},
		{"a Clos: two, two by two, two", wide(1, 2, 2, 2, 1), 5, "1-2-2-2-1", 8, true, "", 400},
		{"loss everywhere", func(flow, ttl, nth int) (string, time.Duration) {
			if nth == 0 && spread(flow, 100+ttl, 3) == 0 {
				return "", 0
			}
			return wide(1, 4, 1)(flow, ttl, nth)
		}, 3, "1-4-1", 4, true, "", 150},
		{"a silent TTL", func(flow, ttl, nth int) (string, time.Duration) {
			if ttl == 2 {
				return "", 0
			}
			return wide(1, 4, 1)(flow, ttl, nth)
		}, 3, "1-1-1", 1, false, "TTL 2 silent", 100},
		{"a node that answers some only", func(flow, ttl, nth int) (string, time.Duration) {
			if ttl == 3 && flow%3 == 0 {
				return "", 0
			}
			return wide(1, 1, 1)(flow, ttl, nth)
		}, 3, "1-1-1", 1, false, "TTL 3 silent to", 100},
		{"packet by packet", func(flow, ttl, nth int) (string, time.Duration) {
			if ttl == 2 {
				return fmt.Sprintf("2.%d", (flow+nth)%2), time.Millisecond
			}
			return wide(1, 2, 1)(flow, ttl, nth)
		}, 3, "1-2-1", 2, false, "10.1.0.0 (TTL 1) balances packets of one flow one by one", 100},
		{"refused on some paths", func(flow, ttl, nth int) (string, time.Duration) {
			if spread(flow, 2, 2) == 1 && ttl >= 2 {
				return "!2.1", time.Millisecond
			}
			return wide(1, 2, 1)(flow, ttl, nth)
		}, 3, "1-2-1", 2, true, "10.2.0.1 says at TTL 2: network unreachable", 100},
		{"the destination answers early", func(flow, ttl, nth int) (string, time.Duration) {
			if ttl >= 2 {
				return "dst", time.Millisecond
			}
			return wide(1)(flow, ttl, nth)
		}, 5, "1-1", 1, true, "", 30},
		{"a loop", func(flow, ttl, nth int) (string, time.Duration) {
			return fmt.Sprintf("%d.0", 1+ttl%2), time.Millisecond
		}, 4, "1-1-1-1", 1, true, "10.2.0.0 answered at TTL 1 and 3: a routing loop", 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newTestMDA(c.widths)
			f := c.net.play(t, e)
			if shape(f) != c.shape || f.Possible != c.paths || f.Complete != c.complete || !strings.Contains(f.Why, c.why) || c.why == "" && f.Why != "" {
				t.Errorf("shape %s, %d paths, complete %v, %q; want %s, %d, %v, %q", shape(f), f.Possible, f.Complete, f.Why, c.shape, c.paths, c.complete, c.why)
			}
			if f.Probes > c.probes {
				t.Errorf("%d probes", f.Probes)
			}
			t.Logf("%d probes, %d flows, %s", f.Probes, f.Flows, f.Took)
			if len(f.Paths) == 0 || uint64(len(f.Paths)) > f.Possible || f.Possible <= 4 && uint64(len(f.Paths)) != f.Possible {
				t.Errorf("%d paths seen of %d", len(f.Paths), f.Possible)
			}
			// Every path is one that flows take.
			for _, p := range f.Paths {
				for _, flow := range p.Flows {
					for i, n := range p.Nodes {
						node := f.Hops[i][n]
						name, _ := c.net(flow, i+1, 1)
						if node.Address.IsValid() && name != "" && c.name != "packet by packet" && nodeAddress(strings.TrimPrefix(name, "!")) != node.Address {
							t.Errorf("flow %d, TTL %d: %s, went by %s", flow, i+1, node.Address, name)
						}
					}
				}
			}
		})
	}
}

// Of many fans at most as many are incomplete as the confidence allows.
func TestConfidenceHolds(t *testing.T) {
	for _, epsilon := range []float64{0.05, 0.01} {
		missed, runs := 0, 1000
		for run := range runs {
			e := newMDA(address("dst"), 2, 4096, epsilon, 2*time.Millisecond, 50*time.Millisecond)
			f := mdaNet(func(flow, ttl, _ int) (string, time.Duration) {
				if ttl == 1 {
					return "1.0", time.Millisecond
				}
				return fmt.Sprintf("2.%d", spread(flow+100000*run, ttl, 4)), time.Millisecond
			}).play(t, e)
			if shape(f) != "1-4" {
				missed++
			}
		}
		t.Logf("%v: %d of %d missed a path", epsilon, missed, runs)
		// The bound is for one node and one more next hop; over the ways to stop at
		// one, two or three it adds up, and less than threefold.
		if float64(missed) > 3*epsilon*float64(runs) {
			t.Errorf("%v: %d of %d missed a path", epsilon, missed, runs)
		}
	}
}

// A network that looks wider with every flow ends at the bounds, and says so.
func TestEnumerationIsBounded(t *testing.T) {
	e := newMDA(address("dst"), 2, 300, 0.05, 2*time.Millisecond, 50*time.Millisecond)
	f := mdaNet(func(flow, ttl, _ int) (string, time.Duration) {
		if ttl == 1 {
			return "1.0", time.Millisecond
		}
		return fmt.Sprintf("%d.%d", 2+flow/250, flow%250), time.Millisecond
	}).play(t, e)
	if f.Flows > 300 || f.Complete || !strings.Contains(f.Why, "more than 300 flows would be needed") {
		t.Errorf("%d flows, complete %v, %q", f.Flows, f.Complete, f.Why)
	}
}
