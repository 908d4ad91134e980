package serve

import (
	"testing"
	"time"

	"decaf/topology"
)

// What is shown is used once it has been the same for a time, but not too often, and
// in the end though it never stays the same.
func TestSettling(t *testing.T) {
	network := make([]*topology.Topology, 30)
	for i := range network {
		n, err := topology.Clos(topology.ClosSpec{Site: "lab", Pods: 1, ToRs: 1, T1s: 1, T2s: 1, Hosts: i + 1})
		if err != nil {
			t.Fatal(err)
		}
		network[i] = n
	}
	type look struct {
		at    int // s
		shown int // network
		takes bool
	}
	everChanging := []look{}
	for i := range 28 {
		everChanging = append(everChanging, look{10 * i, i + 1, false})
	}
	for _, c := range []struct {
		name  string
		looks []look
	}{
		{"nothing new", []look{{0, 0, false}, {40, 0, false}, {400, 0, false}}},
		{"the same for 30 s", []look{{0, 1, false}, {29, 1, false}, {30, 1, true}, {35, 1, false}}},
		{"changed on the way", []look{{0, 1, false}, {20, 2, false}, {49, 2, false}, {50, 2, true}}},
		{"gone again", []look{{0, 1, false}, {20, 0, false}, {25, 1, false}, {54, 1, false}, {55, 1, true}}},
		{"two within a minute", []look{{0, 1, false}, {30, 1, true}, {31, 2, false}, {61, 2, false}, {89, 2, false}, {90, 2, true}}},
		{"again and again", []look{
			{0, 1, false}, {30, 1, true}, {60, 2, false}, {90, 2, true}, {130, 1, false}, {209, 1, false}, {210, 1, true},
			{300, 2, false}, {449, 2, false}, {450, 2, true}, {500, 3, false}, {929, 3, false}, {930, 3, true}, {940, 4, false}, {1529, 4, false}, {1530, 4, true},
			{1540, 5, false}, {2129, 5, false}, {2130, 5, true}, {3300, 6, false}, {3330, 6, true}, {3331, 7, false}, {3389, 7, false}, {3390, 7, true}}},
		{"back to the one before", []look{{0, 1, false}, {30, 1, true}, {100, 0, false}, {129, 0, false}, {130, 0, true}}},
		{"ever changing", append(everChanging, look{299, 28, false}, look{300, 29, true})},
		{"a clock that is put back", []look{{1000, 1, false}, {0, 1, false}, {1029, 1, false}, {1030, 1, true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := settling{Quiet: 30 * time.Second, Longest: 5 * time.Minute, Pace: time.Minute}
			inUse := network[0]
			start := time.Unix(1_800_000_000, 0)
			for _, l := range c.looks {
				takes := s.see(start.Add(time.Duration(l.at)*time.Second), inUse, network[l.shown])
				if takes != l.takes {
					t.Fatalf("at %d s it takes %d: %v, want %v", l.at, l.shown, takes, l.takes)
				}
				if takes {
					inUse = network[l.shown]
				}
			}
		})
	}
}
