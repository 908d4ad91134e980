package blame

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// weak is 007's set-up with one fault that loses two packets an epoch.
func weak(t *testing.T) (*Network, setup) {
	t.Helper()
	s := paper()
	s.links, s.low, s.high = 1, .00012, .00012
	n, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	return n, s
}

// A fault too weak for one epoch is found within a few, and only that.
func TestWeakFaultIsFoundOverEpochs(t *testing.T) {
	n, s := weak(t)
	found, early := 0, 0
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 3))
		f := draw(n, s, r)
		h := NewHistory(n, Options{})
		for epoch := range 6 {
			ep, _, _ := f.run(r)
			if res := Infer(n, ep, Options{}); len(res.Components) > 0 && epoch == 0 {
				early++
			}
			res := h.Infer(ep)
			got := named(n, res)
			for _, name := range got {
				if slices.ContainsFunc(res.Abstained, func(why string) bool { return strings.HasPrefix(why, name+": ") }) {
					t.Errorf("seed %d epoch %d: %s is named, and told of as if it could not be: %q", seed, epoch, name, res.Abstained)
				}
			}
			if want := n.Name(f.truth[0]); slices.Contains(got, want) {
				found++
				break
			} else if len(got) > 0 {
				t.Fatalf("seed %d epoch %d: named %v, want %s", seed, epoch, got, want)
			}
		}
	}
	if found < 5 || early > 3 {
		t.Errorf("found %d of 6, %d of them in the first epoch", found, early)
	}
}

// What was mended is not named on memory alone.
func TestMendedFaultIsNotNamed(t *testing.T) {
	s := paper()
	s.links, s.low, s.high = 1, .005, .005
	n, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 3))
	f := draw(n, s, r)
	h := NewHistory(n, Options{})
	for range 3 {
		ep, _, _ := f.run(r)
		if got := named(n, h.Infer(ep)); !slices.Equal(got, []string{n.Name(f.truth[0])}) {
			t.Fatalf("named %v", got)
		}
	}
	for _, c := range f.truth {
		f.rate[c.ID], f.lasts[c.ID] = 0, 0
	}
	for epoch := range 3 {
		ep, _, _ := f.run(r)
		if got := named(n, h.Infer(ep)); len(got) > 0 {
			t.Errorf("epoch %d after it was mended: named %v", epoch, got)
		}
	}
}

// A weak fault is named on memory; once it is mended, every epoch that loses nothing
// there makes it less likely, until it is named no more.
func TestMendedWeakFaultFades(t *testing.T) {
	s := paper()
	s.links, s.low, s.high = 1, .0003, .0003
	n, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	remembered := 0
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 3))
		f := draw(n, s, r)
		h := NewHistory(n, Options{})
		for range 5 {
			ep, _, _ := f.run(r)
			h.Infer(ep)
		}
		for _, c := range f.truth {
			f.rate[c.ID], f.lasts[c.ID] = 0, 0
		}
		var sure []float64
		for range 5 {
			ep, _, _ := f.run(r)
			p := 0.0
			for _, b := range h.Infer(ep).Components {
				if slices.Contains(f.truth, b.Component) {
					p = b.Probability
				}
			}
			sure = append(sure, p)
		}
		if sure[0] > 0 {
			remembered++
		}
		for i, p := range sure[1:] {
			if p > sure[i] {
				t.Errorf("seed %d: surer after another epoch without losses: %.3f", seed, sure)
			}
		}
		if sure[len(sure)-1] > 0 {
			t.Errorf("seed %d: named %d epochs after it was mended: %.3f", seed, len(sure), sure)
		}
	}
	if remembered == 0 {
		t.Error("no fault was remembered into the first epoch without it: this test tests nothing")
	}
}

// Clean epochs stay clean, however many are remembered.
func TestHistoryOfCleanEpochs(t *testing.T) {
	s := paper()
	s.links, s.noise = 0, 1e-5
	n, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(2, 3))
	f := draw(n, s, r)
	h := NewHistory(n, Options{})
	for epoch := range 10 {
		ep, _, _ := f.run(r)
		if got := named(n, h.Infer(ep)); len(got) > 0 {
			t.Errorf("epoch %d: named %v", epoch, got)
		}
	}
}

// Drops where only the memory names a fault are not said to be such that nothing was
// made of.
func TestMemoryHeedsDrops(t *testing.T) {
	n := small(t)
	s0, _ := n.Device("s0")
	t1, _ := n.Node("t1")
	before, now := &Epoch{}, &Epoch{}
	busy(n, before, 10000)
	for _, src := range []string{"a", "b"} {
		lose(t, n, before, 20, src, "t0", "s0", "t1", "c")
		lose(t, n, before, 40, src, "t0", "s0", "t1", "d")
	}
	busy(n, now, 10)
	now.Drops = []Drop{{Device: s0, From: -1, To: t1, Class: "errors/l2/rx/crc-error", Count: 12}}
	if r := Infer(n, now, Options{}); len(r.Components) > 0 || len(r.Abstained) != 1 {
		t.Fatalf("by itself it names %v, abstained %q: this test tests nothing", named(n, r), r.Abstained)
	}
	h := NewHistory(n, Options{})
	h.Infer(before)
	if r := h.Infer(now); !slices.Contains(named(n, r), "link s0>t1") || len(r.Abstained) > 0 {
		t.Errorf("named %v, abstained %q; want the link, and nothing left open", named(n, r), r.Abstained)
	}
}
