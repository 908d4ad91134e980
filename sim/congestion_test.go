package sim

import (
	"fmt"
	"testing"
	"time"
)

// Queues that overflow for two seconds now and then, with no device to tell of it:
// hosts alone see it. It comes out as congestion, from its beginning to its end, each
// time anew, and never as a fault of the link.
func TestCongestionIsNamedOnlyWhileItLasts(t *testing.T) {
	const text = `
name: bursts
fabric: {kind: clos, pods: 2, tors: 2, t1: 2, t2: 2, hosts: 2}
traffic: {connections_per_host: 80/s, packets: 1..100, pattern: uniform}
duration: 70s
instrumented: 0%%
faults:
  - {at: 10s, for: 2s, every: 25s, on: %s, kind: queue, rate: %s}
`
	for _, c := range []struct{ on, rate string }{
		{"link p0-t1-0>t2-1", "10%"}, {"link p1-tor0>p1-t1-1", "10%"}, {"link p0-tor1>p0-tor1-h0", "10%"},
	} {
		t.Run(c.on+" "+c.rate, func(t *testing.T) {
			for _, seed := range []uint64{1, 2, 3, 4} {
				r := played(t, fmt.Sprintf(text, c.on, c.rate), seed, "")
				found := make(map[int]bool)
				for _, f := range r.Findings {
					if f.Component != c.on || f.Class != "no-buffer" {
						t.Errorf("seed %d: %s of class %q", seed, f.Component, f.Class)
						continue
					}
					for i, p := range r.Faults {
						if f.FromNS < p.StartNS || f.FromNS > p.EndNS+1e9 {
							continue
						}
						found[i] = true
						if over := time.Duration(f.ResolvedNS - p.EndNS); f.ResolvedNS == 0 || over > 2*time.Second {
							t.Errorf("seed %d: burst %d is over %v after it was", seed, i, over)
						}
						if late := time.Duration(f.DetectedNS - p.StartNS); late > 6*time.Second {
							t.Errorf("seed %d: burst %d was named after %v", seed, i, late)
						}
					}
				}
				if len(found) != len(r.Faults) {
					t.Errorf("seed %d: %d of %d bursts were named", seed, len(found), len(r.Faults))
				}
			}
		})
	}
}
