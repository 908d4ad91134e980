package device

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func testBudget() budget {
	return budget{cpu: 0.05, memory: 100, events: 1000, queue: 0.5, backOff: 4 * time.Second, longest: 20 * time.Second}
}

// words writes steps as "class:from>to".
func words(steps []step) string {
	var out []string
	for _, s := range steps {
		out = append(out, s.class+":"+s.from.String()+">"+s.to.String())
	}
	return strings.Join(out, " ")
}

// looks lets a fuse look once a second at the same load.
func looks(f *fuse, now *time.Time, n int, l load) (steps []step) {
	for range n {
		*now = now.Add(time.Second)
		if s := f.look(*now, l); s != nil {
			steps = append(steps, *s)
		}
	}
	return steps
}

// TestFuseAllTheWayAndBack: each budget leads through every level, and quiet
// back through every level.
func TestFuseAllTheWayAndBack(t *testing.T) {
	flood := map[string]uint64{NoBuffer: 100_000, PolicyL3ACL: 3}
	quiet := load{cpu: 0.001, memory: 10, drops: map[string]uint64{PolicyL3ACL: 3}}
	for _, tc := range []struct {
		name  string
		load  load
		who   string
		down  string
		cause string
	}{
		{"cpu", load{cpu: 0.1, drops: flood}, NoBuffer, "full sampled aggregates counters off", "cpu"},
		{"memory", load{memory: 150, drops: flood}, NoBuffer, "full sampled aggregates counters off", "memory"},
		{"queue", load{queue: 0.9, drops: flood}, NoBuffer, "full sampled aggregates counters off", "queue"},
		{"events", load{events: 1500, drops: flood, told: flood}, NoBuffer, "full sampled aggregates", "events"},
		{"nobody's work", load{cpu: 0.1, drops: map[string]uint64{PolicyL3ACL: 3}}, "", "full sampled aggregates counters off", "cpu"},
		{"the tightest names the cause", load{cpu: 0.06, memory: 200, drops: flood}, NoBuffer, "full sampled aggregates counters off", "memory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, now := newFuse(testBudget()), time.Unix(1000, 0)
			path := func(levels string) string {
				var out []string
				l := strings.Fields(levels)
				for i := range l[:len(l)-1] {
					out = append(out, tc.who+":"+l[i]+">"+l[i+1])
				}
				return strings.Join(out, " ")
			}
			levels := strings.Fields(tc.down)
			down := looks(f, &now, tripAfter*(len(levels)-1), tc.load)
			if words(down) != path(tc.down) {
				t.Fatalf("down: %s, want %s", words(down), path(tc.down))
			}
			for _, s := range down {
				if s.cause != tc.cause || s.measured <= s.limit {
					t.Errorf("step %+v, want cause %s", s, tc.cause)
				}
			}
			if tc.who != "" && f.allows(PolicyL3ACL) != full {
				t.Errorf("a quiet class is allowed %s", f.allows(PolicyL3ACL))
			}
			back := looks(f, &now, 5*len(levels), quiet)
			slices.Reverse(levels)
			if words(back) != path(strings.Join(levels, " ")) {
				t.Errorf("back: %s, want %s", words(back), path(strings.Join(levels, " ")))
			}
			if f.allows(NoBuffer) != full || len(f.tripped) != 0 {
				t.Errorf("healed to %s, %v left", f.allows(NoBuffer), f.tripped)
			}
		})
	}
}

func TestFuseWaits(t *testing.T) {
	over := load{cpu: 0.1, drops: map[string]uint64{NoBuffer: 1000}}
	f, now := newFuse(testBudget()), time.Unix(1000, 0)
	if s := looks(f, &now, 1, over); s != nil {
		t.Errorf("one look above its budget: %s", words(s))
	}
	looks(f, &now, 1, load{cpu: 0.04})
	if s := looks(f, &now, 1, over); s != nil {
		t.Errorf("two looks above, not in a row: %s", words(s))
	}
	if s := looks(newFuse(testBudget()), &now, 1, load{cpu: 0.3, drops: over.drops}); len(s) != 1 {
		t.Errorf("six times its budget: %s", words(s))
	}
	// Between calm and budget it stays where it is.
	looks(f, &now, 1, over)
	if f.allows(NoBuffer) != sampled {
		t.Fatalf("allowed %s", f.allows(NoBuffer))
	}
	if s := looks(f, &now, 100, load{cpu: 0.045}); s != nil {
		t.Errorf("nine tenths of its budget: %s", words(s))
	}
}

// A step back that fails soon doubles the wait for the next, up to a limit; one
// that holds forgives.
func TestFuseBacksOff(t *testing.T) {
	over, quiet := load{cpu: 0.1, drops: map[string]uint64{NoBuffer: 1000}}, load{}
	f, now := newFuse(testBudget()), time.Unix(1000, 0)
	var waits []int
	for range 5 {
		looks(f, &now, tripAfter, over)
		wait := 0
		for f.allows(NoBuffer) != full && wait < 100 {
			looks(f, &now, 1, quiet)
			wait++
		}
		waits = append(waits, wait)
	}
	// From the first calm look, 1 s after the step, on.
	if want := []int{5, 9, 17, 21, 21}; !slices.Equal(waits, want) {
		t.Errorf("waits of %v s, want %v", waits, want)
	}
	looks(f, &now, 100, quiet)
	looks(f, &now, tripAfter, over)
	if s := looks(f, &now, 5, quiet); len(s) != 1 {
		t.Errorf("after long quiet the wait is not the shortest: %s", words(s))
	}
}

// Two floods: each is allowed less in its turn, the quiet class everything.
func TestFuseTwoFloods(t *testing.T) {
	f, now := newFuse(testBudget()), time.Unix(1000, 0)
	steps := looks(f, &now, 4*tripAfter, load{cpu: 0.1, drops: map[string]uint64{NoBuffer: 5000, ErrorsL3RxTTL: 4000, PolicyL3ACL: 5}})
	steps = append(steps, looks(f, &now, 2*tripAfter, load{cpu: 0.1, drops: map[string]uint64{ErrorsL3RxTTL: 4000, PolicyL3ACL: 5}})...)
	if f.allows(NoBuffer) != off || f.allows(ErrorsL3RxTTL) != aggregatesOnly || f.allows(PolicyL3ACL) != full {
		t.Errorf("%s", words(steps))
	}
	// Who tripped last comes back first.
	if s := looks(f, &now, 6, load{}); len(s) == 0 || s[0].class != ErrorsL3RxTTL {
		t.Errorf("back: %s", words(s))
	}
}

// A clock that jumps, either way, does not keep the fuse from healing, nor from
// the next flood.
func TestFuseWithAClockThatJumps(t *testing.T) {
	over, quiet := load{cpu: 0.1, drops: map[string]uint64{NoBuffer: 1000}}, load{}
	for _, jump := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		f, now := newFuse(testBudget()), time.Unix(1_000_000, 0)
		looks(f, &now, 2*tripAfter, over)
		if s := looks(f, &now, 2, quiet); len(s) != 0 {
			t.Fatalf("healed after two seconds: %s", words(s))
		}
		now = now.Add(jump)
		back := looks(f, &now, 20, quiet)
		if words(back) != "no-buffer:aggregates>sampled no-buffer:sampled>full" {
			t.Errorf("a jump of %s: %s", jump, words(back))
		}
		if s := looks(f, &now, 2*tripAfter, over); len(s) != 2 {
			t.Errorf("a jump of %s, and another flood: %s", jump, words(s))
		}
	}
}
