package blame

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The benchmark's own fabric: what it says was seen is what happened.
func TestFabricLosesAtItsRates(t *testing.T) {
	for _, c := range []situation{
		{"four links", func(*setup) {}},
		{"uneven", func(s *setup) { s.uneven = true }},
		{"a whole T1", func(s *setup) { s.device = "t1" }},
		{"unequal weights", func(s *setup) { s.unequal = true }},
		{"a reroute", func(s *setup) { s.reroute = .2 }},
		{"planes", func(s *setup) { s.planes, s.t2 = true, 2 }},
		{"one pod", func(s *setup) { s.pods = 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := paper()
			c.edit(&s)
			n, err := build(s)
			if err != nil {
				t.Fatal(err)
			}
			f, e := scene(n, s, 11)
			deviance, links := 0.0, 0.0
			for l := range e.all[0].sent {
				sent, lost := e.all[0].sent[l], e.all[0].lost[l]
				variance := sent * f.rate[l] * (1 - f.rate[l])
				if f.bad[l] && variance > 0 {
					deviance += (lost - sent*f.rate[l]) * (lost - sent*f.rate[l]) / variance
					links++
				}
				if sent == 0 && int32(l) < n.fabric() && s.reroute == 0 && s.pods > 1 {
					t.Errorf("%s carried nothing", n.LinkName(int32(l)))
				}
			}
			if limit := links + 5*math.Sqrt(2*links); links == 0 || deviance > limit {
				t.Errorf("%v faulty links are off their rates by %.1f variances, want at most %.1f", links, deviance, limit)
			}
			packets, lost, told := 0.0, 0.0, 0.0
			for _, fl := range e.whole.Lossy {
				packets, lost = packets+fl.Packets, lost+fl.Lost
				at := f.from[fl.Path[0]]
				for _, l := range fl.Path {
					if f.from[l] != at {
						t.Fatalf("path %v has a gap before %s", fl.Path, n.LinkName(l))
					}
					at = f.to[l]
				}
				if fl.Path[0] != n.Up(fl.Src) || fl.Path[len(fl.Path)-1] != n.Down(fl.Dst) {
					t.Fatalf("path %v is not from %s to %s", fl.Path, n.HostName(fl.Src), n.HostName(fl.Dst))
				}
			}
			for _, k := range e.told[0].lost {
				told += k
			}
			if lost != told || lost == 0 {
				t.Errorf("flows lost %v packets, links %v", lost, told)
			}
			up := 0.0
			for h := range int32(n.Hosts()) {
				up += e.all[0].sent[n.Up(h)]
			}
			for _, fl := range e.whole.Clean {
				packets += fl.Packets
			}
			if up != packets || len(e.whole.Lossy)+len(e.whole.Clean) != s.connections*n.Hosts() {
				t.Errorf("hosts sent %v packets, flows had %v", up, packets)
			}
		})
	}
}

func TestNoPathOverALinkOutOfService(t *testing.T) {
	s := paper()
	s.reroute = .1
	n, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(12, 7))
	f := draw(n, s, r)
	if !slices.Contains(f.after, 0) {
		t.Fatal("no link was taken out of service")
	}
	before := false
	for range 2000 {
		src, dst := f.near[r.IntN(20)][0], f.near[20+r.IntN(20)][0]
		for _, l := range f.route(src, dst, f.after, r, nil) {
			if f.after[l] == 0 {
				t.Fatalf("a path over %s", n.LinkName(l))
			}
		}
		for _, l := range f.route(src, dst, f.weight, r, nil) {
			before = before || f.after[l] == 0
		}
	}
	if !before {
		t.Error("what is out of service carried nothing before")
	}
}

func TestEventsDoNotLast(t *testing.T) {
	s := paper()
	s.bursts, s.noise, s.links, s.epochs = .05, 0, 0, 2
	n, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	f, e := scene(n, s, 13)
	for l, there := range f.burst {
		for i, c := range e.all {
			from := float64(i) * epochLasts / parts
			ev := f.events[int32(l)]
			if during := there && from < ev.to && from+epochLasts/parts > ev.from; c.lost[l] > 0 && !during || c.lost[l] != c.burst[l] {
				t.Fatalf("%s lost %v packets, %v of them to congestion, from %v s on; its burst was at %v", n.LinkName(int32(l)), c.lost[l], c.burst[l], from, ev)
			}
		}
	}
	lost := 0
	for i, ep := range e.epochs {
		if lost += len(ep.Lossy); i > 0 && len(ep.Lossy) > 0 {
			t.Errorf("%d lossy flows in epoch %d, after all bursts", len(ep.Lossy), i)
		}
	}
	if lost == 0 || lost != len(e.whole.Lossy) {
		t.Errorf("%d lossy flows in the epochs, %d in the whole", lost, len(e.whole.Lossy))
	}
}

// What an honest device reports is of the right link; what a liar does is not.
func TestDevicesReportWhatTheySee(t *testing.T) {
	for _, c := range []struct {
		name      string
		edit      func(*setup)
		want      func(f *fabric, l int32) bool // may be reported
		all, none bool                          // all of it is, nothing is
	}{
		{"visible", func(s *setup) { s.visible = true }, func(f *fabric, l int32) bool { return f.bad[l] }, true, false},
		{"noise too", func(s *setup) { s.visible, s.seesNoise = true, true }, func(*fabric, int32) bool { return true }, true, false},
		{"invisible", func(*setup) {}, func(*fabric, int32) bool { return false }, false, true},
		{"congestion", func(s *setup) { s.bursts = .05 }, func(f *fabric, l int32) bool { return f.burst[l] }, true, false},
		{"all lie", func(s *setup) { s.visible, s.lying = true, 1 }, func(f *fabric, l int32) bool { return !f.bad[l] }, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := paper()
			s.instrumented = 1
			c.edit(&s)
			n, err := build(s)
			if err != nil {
				t.Fatal(err)
			}
			f, e := scene(n, s, 15)
			seen := make(map[int32]float64)
			for _, d := range e.whole.Drops {
				l, ok := n.linkBetween(d.Device, d.To)
				if d.To < 0 {
					l, ok = n.linkBetween(d.From, d.Device)
				}
				if !ok || !c.want(f, l) {
					t.Errorf("%+v is of %s", d, n.LinkName(l))
				}
				seen[l] += d.Count
			}
			if c.none != (len(seen) == 0) {
				t.Errorf("%d links reported", len(seen))
			}
			for l := range int32(n.Links()) {
				lost := 0.0
				for _, k := range e.all {
					lost += k.lost[l]
					if f.burst[l] {
						lost += k.burst[l] - k.lost[l]
					}
				}
				if c.all && c.want(f, l) && seen[l] != lost {
					t.Errorf("%s lost %v, reported %v", n.LinkName(l), lost, seen[l])
				}
			}
		})
	}
}

// The oracle's probabilities are right as often as they say, and it misses only
// what cannot be seen.
func TestOracleIsCalibrated(t *testing.T) {
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		situation
		precision, recall float64
	}{
		{situation{"weak", func(s *setup) { s.links, s.low, s.high, s.noise = 40, .00005, .0005, 1e-5 }}, .85, .75},
		{situation{"bursts", func(s *setup) { s.links, s.bursts = 20, .05 }}, .99, .99},
		{situation{"whole ToR", func(s *setup) { s.device = "tor" }}, 1, 1},
		{situation{"pair", func(s *setup) { s.pair = true }}, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := paper()
			c.edit(&s)
			var sum score
			for seed := range uint64(4) {
				f, e := scene(n, s, 20+seed)
				sum.add(f, e, f.oracle(e), 0)
			}
			ece, _ := sum.calibration()
			if sum.precision() < c.precision || sum.recall() < c.recall || sum.recall() > sum.possible() || ece > .05 {
				t.Errorf("precision %.3f, recall %.3f of %.3f, calibration error %.3f", sum.precision(), sum.recall(), sum.possible(), ece)
			}
		})
	}
}
