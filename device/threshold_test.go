package device

import (
	"testing"
	"time"
)

// TestGate walks a gate through rates; each row goes on where the one before
// ended.
func TestGate(t *testing.T) {
	type phase struct {
		what     string
		rate     int // drops per second, evenly
		lasts    time.Duration
		pass     int // of them; within 2
		above    bool
		crossing string // of the phase, in order
	}
	for _, tc := range []struct {
		name   string
		gate   gate
		phases []phase
	}{
		{"below, above, back", gate{threshold: 100, burst: 100, hold: 2 * time.Second}, []phase{
			{"quiet", 50, 5 * time.Second, 250, false, ""},
			{"just under", 100, 10 * time.Second, 1000, false, ""},
			{"flood", 10_000, time.Second, 101, true, "up"},
			{"still above", 101, 5 * time.Second, 0, true, ""},
			{"under the threshold, above 80 % of it", 90, 10 * time.Second, 0, true, ""},
			{"low enough: events after two seconds and the window it began in", 70, 4 * time.Second, 127, false, "down"},
		}},
		{"a burst is not above", gate{threshold: 10, burst: 50, hold: time.Second}, []phase{
			{"burst", 5000, 10 * time.Millisecond, 50, false, ""},
			{"quiet", 0, 5 * time.Second, 0, false, ""},
			{"again", 5000, 10 * time.Millisecond, 50, false, ""},
		}},
		{"slightly above for long", gate{threshold: 100, burst: 50, hold: time.Second}, []phase{
			{"ten percent over: a bucket of 50 fills by 1 - 100/110 a drop", 110, 10 * time.Second, 539, true, "up"},
		}},
		{"silence brings events back without a drop", gate{threshold: 100, burst: 100, hold: 2 * time.Second}, []phase{
			{"flood", 10_000, time.Second, 101, true, "up"},
			{"silence", 0, 5 * time.Second, 0, false, "down"},
			{"a drop", 1, time.Second, 1, false, ""},
		}},
		{"a low window between high ones does not", gate{threshold: 100, burst: 100, hold: 3 * time.Second}, []phase{
			{"flood", 1000, time.Second, 111, true, "up"},
			{"low", 10, 2 * time.Second, 0, true, ""},
			{"high", 1000, 2 * time.Second, 0, true, ""},
			{"low", 10, 2 * time.Second, 0, true, ""},
		}},
		{"no events at all", gate{}, []phase{
			{"one", 1, 2 * time.Second, 0, false, ""},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, now := tc.gate, time.Unix(1000, 0)
			for _, p := range tc.phases {
				crossed, pass := "", 0
				note := func(c *crossing) {
					switch {
					case c == nil:
					case c.above:
						crossed += "up"
						if c.measured < c.limit {
							t.Errorf("%s: above at %g, under %g", p.what, c.measured, c.limit)
						}
					default:
						crossed += "down"
						if c.measured > c.limit {
							t.Errorf("%s: back at %g, above %g", p.what, c.measured, c.limit)
						}
					}
				}
				n := int(float64(p.rate) * p.lasts.Seconds())
				end := now.Add(p.lasts)
				if n > 0 {
					for step := p.lasts / time.Duration(n); n > 0; n-- {
						now = now.Add(step)
						ok, c := g.take(now, 1)
						note(c)
						if ok {
							pass++
						}
					}
				} else {
					for ; now.Before(end); now = now.Add(50 * time.Millisecond) {
						note(g.tick(now))
					}
				}
				now = end
				if crossed != p.crossing || g.above != p.above || pass < p.pass-2 || pass > p.pass+2 {
					t.Errorf("%s: crossed %q, above %v, %d passed; want %q, %v, %d", p.what, crossed, g.above, pass, p.crossing, p.above, p.pass)
				}
			}
		})
	}
}

// A clock that goes back neither opens nor shuts it.
func TestGateClockGoesBack(t *testing.T) {
	g := gate{threshold: 10, burst: 10, hold: time.Second}
	now := time.Unix(1000, 0)
	for i := range 10 {
		if pass, c := g.take(now.Add(-time.Duration(i)*time.Hour), 1); !pass || c != nil {
			t.Fatalf("drop %d: passes %v, crossing %+v", i, pass, c)
		}
	}
	if pass, c := g.take(now.Add(-20*time.Hour), 1); pass || c == nil || !c.above {
		t.Errorf("past the burst: passes %v, crossing %+v", pass, c)
	}
	if c := g.tick(now.Add(-30 * time.Hour)); c != nil {
		t.Errorf("back in time it is back under: %+v", c)
	}
}
