package blame

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

// Evidence comes in any order, some of it is taken back: the result is that of
// the evidence which stays.
func TestLiveEqualsBatch(t *testing.T) {
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 9))
		o := Options{DateLast: seed%2 == 1}
		s := paper()
		s.links, s.stale, s.instrumented, s.visible = 3, .1, .5, true
		ep, _, _ := draw(n, s, r).run(r)
		other, _, _ := draw(n, s, r).run(r)

		live := NewLive(n, o)
		var withdrawn []FlowID
		for i := range other.Lossy {
			withdrawn = append(withdrawn, live.Add(other.Lossy[i]))
		}
		for _, f := range other.Clean {
			live.AddClean(f.Src, f.Dst, f.Packets)
		}
		live.Infer()
		for _, f := range ep.Lossy {
			live.Add(f)
		}
		for _, i := range r.Perm(len(ep.Clean)) {
			live.AddClean(ep.Clean[i].Src, ep.Clean[i].Dst, ep.Clean[i].Packets)
		}
		for _, f := range other.Clean {
			live.RemoveClean(f.Src, f.Dst, f.Packets)
		}
		for _, i := range r.Perm(len(withdrawn)) {
			live.Remove(withdrawn[i])
		}
		live.Devices(ep.Drops, ep.Instrumented)
		live.Time(ep.During, ep.Load)

		got, want := live.Infer(), Infer(n, ep, o)
		if len(got.Components) != len(want.Components) || len(got.Suspects) != len(want.Suspects) {
			t.Fatalf("seed %d: %d named and %d suspects, want %d and %d", seed, len(got.Components), len(got.Suspects), len(want.Components), len(want.Suspects))
		}
		for i, w := range want.Components {
			g := got.Components[i]
			if g.Component != w.Component || math.Abs(g.Probability-w.Probability) > 1e-9 || math.Abs(g.Evidence.HostNats-w.Evidence.HostNats) > 1e-9*math.Abs(w.Evidence.HostNats) {
				t.Errorf("seed %d: %s %v, want %s %v", seed, n.Name(g.Component), g.Probability, n.Name(w.Component), w.Probability)
			}
		}
		for i, w := range want.Causes {
			if g := got.Causes[i]; g.Component != w.Component || math.Abs(g.Probability-w.Probability) > 1e-9 {
				t.Fatalf("seed %d: cause of flow %d is %+v, want %+v", seed, i, g, w)
			}
		}
	}
}

func TestLiveForgetsWhatWasRemoved(t *testing.T) {
	n := small(t)
	live := NewLive(n, Options{})
	quiet := live.Infer()
	ep := &Epoch{}
	lose(t, n, ep, 30, "a", "t0", "s0", "t1", "c")
	var ids []FlowID
	for _, f := range ep.Lossy {
		ids = append(ids, live.Add(f))
	}
	if live.Infer(); live.Flows() != 30 {
		t.Fatalf("%d flows, want 30", live.Flows())
	}
	for _, id := range ids {
		live.Remove(id)
	}
	if got := live.Infer(); !reflect.DeepEqual(got, quiet) {
		t.Errorf("after all was removed: %+v, want %+v", got, quiet)
	}
}

// One more vote on 007's set-up: what the live ranking costs.
func BenchmarkLiveVote(b *testing.B) {
	s := paper()
	n, err := build(s)
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1000, 7))
	ep, _, _ := draw(n, s, r).run(r)
	live := NewLive(n, Options{DateLast: true}) // as the correlator asks
	for _, f := range ep.Clean {
		live.AddClean(f.Src, f.Dst, f.Packets)
	}
	live.Time(ep.During, ep.Load)
	for _, f := range ep.Lossy[1:] {
		live.Add(f)
	}
	live.Infer()
	b.ReportMetric(float64(len(ep.Lossy)), "lossy")
	for b.Loop() {
		id := live.Add(ep.Lossy[0])
		live.Infer()
		live.Remove(id)
	}
}
