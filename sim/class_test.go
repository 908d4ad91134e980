package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/sim/scenario"
)

// classRun is what the live correlator said of one fault, step by step.
type classRun struct {
	faults, named int           // windows of the fault, and those that a finding was named for
	took          time.Duration // of the first, from its beginning to its name
	right         time.Duration // to its right class; -1 never
	// Of the time that the true component was named and the fault there, and of the time
	// that a finding was open at all: how long with the right class, and with a wrong one.
	there, wrongThere, open, wrongOpen time.Duration
	last                               int // findings whose last class was wrong
	merged                             int // windows whose finding is that of an earlier one
	strangers                          []string
}

// classOf plays a scenario of one fault and looks at the findings of its component with
// each step. A link fault that no device tells of is of class silent or unknown: want "".
func classOf(ctx context.Context, s *scenario.Scenario, seed uint64, want string) (r classRun, err error) {
	topo, err := s.Fabric.Topology()
	if err != nil {
		return r, err
	}
	if s, err = s.Draw(topo, seed); err != nil {
		return r, err
	}
	v, err := newVirtual(topo, RunOptions{Scenario: s, Seed: seed, Progress: func(string, ...any) {}})
	if err != nil {
		return r, err
	}
	if _, err = v.start(ctx); err != nil {
		return r, err
	}
	on := s.Faults[0].Component()
	windows := s.Faults[0].Windows(s.Duration)
	r.faults, r.took, r.right = len(windows), -1, -1
	ofWindow := make([]string, len(windows))
	class := make(map[string]string) // by finding, the latest
	for at := everyStep; at <= s.Duration+settle; at += everyStep {
		if err := v.wait(ctx, at, func() {}); err != nil {
			return r, err
		}
		for _, f := range v.engine.Findings() {
			if f.GetComponent() != on {
				if f.GetDetectedNs() == uint64(v.at(at)) {
					r.strangers = append(r.strangers, fmt.Sprintf("seed %d at %v: %s %q beside %s", seed, at, f.GetComponent(), f.GetClass(), on))
				}
				continue
			}
			class[f.GetId()] = told(f)
			from, last := time.Duration(int64(f.GetFromNs())-v.at(0)), time.Duration(int64(f.GetLastNs())-v.at(0))
			for i, w := range windows {
				if ofWindow[i] == "" && last >= w.Start && from <= w.End+time.Second && last > w.Start {
					ofWindow[i] = f.GetId()
				}
			}
			if f.GetResolvedNs() != 0 {
				continue
			}
			ok := told(f) == want
			if r.took < 0 {
				r.took = at - windows[0].Start
			}
			if ok && r.right < 0 {
				r.right = at - windows[0].Start
			}
			r.open += everyStep
			if !ok {
				r.wrongOpen += everyStep
			}
			if slices.ContainsFunc(windows, func(w scenario.Window) bool { return at > w.Start && at <= w.End }) {
				r.there += everyStep
				if !ok {
					r.wrongThere += everyStep
				}
			}
		}
	}
	for i, id := range ofWindow {
		if id == "" {
			continue
		}
		r.named++
		if slices.Contains(ofWindow[:i], id) {
			r.merged++
		}
	}
	for _, c := range class {
		if c != want {
			r.last++
		}
	}
	return r, nil
}

// told is the class of what a device tells of, or of congestion; "" of all else.
func told(f *decafpb.Finding) string {
	if c := f.GetClass(); c != "silent" && c != "unknown" {
		return c
	}
	return ""
}

type classRow struct {
	name, kind, rate, want string
	times                  string
	duration               time.Duration
	connections            int // per host and second
	instrumented           int // percent
}

// classRows are the rows of BenchmarkClass.
var classRows = []classRow{
	{"silent .1 %", "silent-loss", "0.1%", "", "at: 20s, for: 90s", 110 * time.Second, 40, 0},
	{"silent .5 %", "silent-loss", "0.5%", "", "at: 20s, for: 40s", 60 * time.Second, 10, 0},
	{"silent 1 %", "silent-loss", "1%", "", "at: 20s, for: 40s", 60 * time.Second, 10, 0},
	{"silent 5 %", "silent-loss", "5%", "", "at: 20s, for: 40s", 60 * time.Second, 10, 0},
	{"silent 1 %, watched", "silent-loss", "1%", "", "at: 20s, for: 40s", 60 * time.Second, 10, 100},
	{"silent 5 %, watched", "silent-loss", "5%", "", "at: 20s, for: 40s", 60 * time.Second, 10, 100},
	{"silent 5 % for 4 s", "silent-loss", "5%", "", "at: 20s, for: 4s", 50 * time.Second, 10, 0},
	{"queue 5 % for 40 s", "queue", "100%", "no-buffer", "at: 20s, for: 40s", 60 * time.Second, 10, 0},
	{"burst 10 %, 80 per s", "queue", "10%", "no-buffer", "at: 20s, for: 2s, every: 25s", 95 * time.Second, 80, 0},
	{"burst 10 %, 40 per s", "queue", "10%", "no-buffer", "at: 20s, for: 2s, every: 25s", 95 * time.Second, 40, 0},
	{"burst 10 %, 20 per s", "queue", "10%", "no-buffer", "at: 20s, for: 2s, every: 25s", 95 * time.Second, 20, 0},
	{"burst 10 %, 10 per s", "queue", "10%", "no-buffer", "at: 20s, for: 2s, every: 25s", 95 * time.Second, 10, 0},
	{"burst 10 %, 40 per s, each 10 s", "queue", "10%", "no-buffer", "at: 20s, for: 2s, every: 10s", 95 * time.Second, 40, 0},
	{"burst 10 %, 20 per s, each 10 s", "queue", "10%", "no-buffer", "at: 20s, for: 2s, every: 10s", 95 * time.Second, 20, 0},
	{"quiet, 10 per s", "silent-loss", "0.0001%", "", "at: 299s, for: 1s", 300 * time.Second, 10, 0},
	{"quiet, 80 per s", "silent-loss", "0.0001%", "", "at: 299s, for: 1s", 300 * time.Second, 80, 0},
}

const classText = `
name: class
fabric: {kind: clos, pods: 2, tors: 2, t1: 2, t2: 2, hosts: 2}
traffic: {connections_per_host: %d/s, packets: 1..100, pattern: uniform}
duration: %s
noise: 1e-5
instrumented: %d%%
faults:
  - {%s, on: random tor>t1 or t1>t2 link, kind: %s, rate: %s}
`

// A link that has just begun to lose packets silently is not taken for a congested one,
// and a burst of congestion is none of the link's faults when it is over.
func TestClassOfWhatHasJustBegun(t *testing.T) {
	for _, name := range []string{"silent 1 %", "silent 5 %", "silent 5 %, watched", "burst 10 %, 80 per s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := classRows[slices.IndexFunc(classRows, func(c classRow) bool { return c.name == name })]
			s := parsed(t, fmt.Sprintf(classText, c.connections, min(c.duration, 50*time.Second), c.instrumented, c.times, c.kind, c.rate))
			var runs []classRun
			for seed := range uint64(3) {
				r, err := classOf(t.Context(), s, 2000+seed, c.want)
				if err != nil {
					t.Fatal(err)
				}
				if c.want == "" && r.named != r.faults || r.named == 0 || r.last > 0 || len(r.strangers) > 0 || c.want == "" && r.wrongOpen > r.open/20 {
					t.Errorf("seed %d: %d of %d named, %d of the wrong class, %v of %v; beside it %q", seed, r.named, r.faults, r.last, r.wrongOpen, r.open, r.strangers)
				}
				runs = append(runs, r)
			}
			t.Log(classSummary(runs))
		})
	}
}

// BenchmarkClass prints how soon the live correlator names what loses packets and of
// what class it takes it to be: `go test -run - -bench Class -benchtime 1x ./sim`, 40
// seeds a row, on links between switches drawn at random.
func BenchmarkClass(b *testing.B) {
	for _, c := range classRows {
		b.Run(c.name, func(b *testing.B) {
			s := parsed(b, fmt.Sprintf(classText, c.connections, c.duration, c.instrumented, c.times, c.kind, c.rate))
			for b.Loop() {
				runs, errs := make([]classRun, 40), make([]error, 40)
				seeds := make(chan int)
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						for i := range seeds {
							runs[i], errs[i] = classOf(b.Context(), s, uint64(1000+i), c.want)
						}
					})
				}
				for i := range runs {
					seeds <- i
				}
				close(seeds)
				wg.Wait()
				if err := errors.Join(errs...); err != nil {
					b.Fatal(err)
				}
				b.Log(classSummary(runs))
			}
		})
	}
}

// classSummary is one line of the table.
func classSummary(runs []classRun) string {
	var sum classRun
	var took, right []time.Duration
	var strangers []string
	for _, r := range runs {
		sum.faults, sum.named, sum.merged, sum.last = sum.faults+r.faults, sum.named+r.named, sum.merged+r.merged, sum.last+r.last
		sum.there, sum.wrongThere = sum.there+r.there, sum.wrongThere+r.wrongThere
		sum.open, sum.wrongOpen = sum.open+r.open, sum.wrongOpen+r.wrongOpen
		strangers = append(strangers, r.strangers...)
		if r.took >= 0 {
			took = append(took, r.took)
		}
		if r.right >= 0 {
			right = append(right, r.right)
		}
	}
	q := func(list []time.Duration, p float64) float64 {
		slices.Sort(list)
		if len(list) == 0 {
			return -1
		}
		return list[int(p*float64(len(list)-1))].Seconds()
	}
	share := func(part, of time.Duration) float64 { return 100 * part.Seconds() / max(of.Seconds(), 1e-9) }
	out := fmt.Sprintf("named %3d of %3d, %2d merged; after %5.2f s (p90 %5.2f), right class after %5.2f s (p90 %5.2f) in %d runs; wrong class %4.1f %% of the fault's time, %4.1f %% of the open time, %d at last; %d strangers",
		sum.named, sum.faults, sum.merged, q(took, .5), q(took, .9), q(right, .5), q(right, .9), len(right), share(sum.wrongThere, sum.there), share(sum.wrongOpen, sum.open), sum.last, len(strangers))
	for _, s := range strangers[:min(len(strangers), 5)] {
		out += "\n   " + s
	}
	return out
}
