package blame

import (
	"math"
	"slices"
	"testing"
)

// say adds what a device says of a link out of it.
func (e *Epoch) say(t testing.TB, n *Network, from, to string, count float64) {
	t.Helper()
	d, ok := n.Device(from)
	if !ok {
		t.Fatalf("no device %s", from)
	}
	node, ok := n.Node(to)
	if !ok {
		t.Fatalf("no node %s", to)
	}
	e.Drops = append(e.Drops, Drop{Device: d, From: -1, To: node, Class: "no-buffer", Count: count})
}

// watch makes all devices instrumented.
func (e *Epoch) watch(n *Network) {
	for d := range int32(n.Devices()) {
		e.Instrumented = append(e.Instrumented, d)
	}
}

func TestWrongPortIsSeenThrough(t *testing.T) {
	n := small(t)
	e := &Epoch{}
	busy(n, e, 10000)
	lose(t, n, e, 20, "a", "t0", "s0", "t1", "c")
	lose(t, n, e, 20, "a", "t0", "s1", "t1", "c")
	lose(t, n, e, 20, "d", "t1", "s1", "t0", "b")
	lose(t, n, e, 20, "d", "t1", "s0", "t0", "b")
	e.watch(n)
	e.say(t, n, "t1", "c", 40)
	e.say(t, n, "t0", "a", 40) // it was b
	r := Infer(n, e, Options{})
	got := named(n, r)
	slices.Sort(got)
	if want := []string{"link t0>b", "link t1>c"}; !slices.Equal(got, want) {
		t.Errorf("named %v, want %v; suspects %+v", got, want, r.Suspects)
	}
}

// A device without a word does not clear what hosts prove.
func TestGrayFaultIsNamed(t *testing.T) {
	n := small(t)
	e := &Epoch{}
	busy(n, e, 10000)
	lose(t, n, e, 20, "a", "t0", "s0", "t1", "c")
	lose(t, n, e, 20, "b", "t0", "s0", "t1", "c")
	lose(t, n, e, 20, "b", "t0", "s1", "t1", "c")
	lose(t, n, e, 20, "a", "t0", "s1", "t1", "c")
	e.watch(n)
	if got, want := named(n, Infer(n, e, Options{})), []string{"link t1>c"}; !slices.Equal(got, want) {
		t.Errorf("named %v, want %v", got, want)
	}
}

// Where no flow has a path, devices tell the links apart.
func TestDevicesTellWhereFlowsHaveNoPath(t *testing.T) {
	n := small(t)
	e := &Epoch{}
	busy(n, e, 10000)
	for _, src := range []string{"a", "b"} {
		for _, dst := range []string{"c", "d"} {
			for range 15 {
				e.Lossy = append(e.Lossy, Flow{Src: host(t, n, src), Dst: host(t, n, dst), Packets: 50, Lost: 1})
			}
		}
	}
	e.watch(n)
	e.say(t, n, "s0", "t1", 60)
	r := Infer(n, e, Options{})
	if got, want := named(n, r), []string{"link s0>t1"}; !slices.Equal(got, want) {
		t.Fatalf("named %v, want %v; suspects %+v", got, want, r.Suspects)
	}
	for i, c := range r.Causes {
		if c.Component != r.Components[0].Component {
			t.Fatalf("flow %d has cause %s", i, n.Name(c.Component))
		}
	}
}

// Rows of the benchmark with device evidence.
func TestDeviceRows(t *testing.T) {
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	all := paper()
	all.instrumented = 1
	for _, c := range []bar{
		{"no paths", func(s *setup) { s.noPaths, s.visible = true, true }, 1, 1, .8},
		{"weak faults", func(s *setup) { s.low, s.high, s.epochs, s.visible = .00005, .0005, 5, true }, 1, 1, .98},
		{"5 % of hosts", func(s *setup) { s.reporting, s.visible = .05, true }, 1, 1, .95},
		{"half of the paths stale", func(s *setup) { s.stale, s.visible = .5, true }, 1, 1, .85},
		{"noise seen too", func(s *setup) { s.visible, s.seesNoise, s.noise = true, true, 1e-5 }, 1, 1, .95},
		{"nothing wrong, noise seen", func(s *setup) { s.links, s.visible, s.seesNoise, s.noise = 0, true, true, 1e-4 }, 1, 1, 1},
		{"a third of the devices lie", func(s *setup) { s.visible, s.lying = true, .3 }, 1, 1, .98},
		{"a whole T1, liars around", func(s *setup) { s.device, s.visible, s.lying = "t1", true, .1 }, 1, 1, .98},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t, n, all) })
	}
}

// Once faults are seen, all are expected to be; once some are not, those are.
func TestVisibility(t *testing.T) {
	for _, c := range []struct{ seen, all, low, high float64 }{
		{0, 0, 0, .1}, {0, 3, 0, .02}, {1, 1, .8, 1}, {4, 4, .9, 1}, {5, 10, .4, .6},
	} {
		if v := visibility(c.seen, c.all); math.IsNaN(v) || v < c.low || v > c.high {
			t.Errorf("%v of %v seen: %.3f, want %v to %v", c.seen, c.all, v, c.low, c.high)
		}
	}
}
