package blame

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// loseAt adds flows of 50 packets over p0-tor0>p0-t1-3 and on to other ToRs, which
// lost so many packets each, at the times given; less than 0: unknown.
func loseAt(t testing.TB, n *Network, e *Epoch, lost float64, times ...float64) {
	t.Helper()
	for i, at := range times {
		src := host(t, n, fmt.Sprintf("p0-tor0-h%d", i%10))
		tor := fmt.Sprintf("p0-tor%d", 1+i%7)
		dst := host(t, n, fmt.Sprintf("%s-h%d", tor, i%11))
		f := Flow{Src: src, Dst: dst, Packets: 50, Lost: lost, Path: slices.Concat([]int32{n.Up(src)}, path(t, n, "p0-tor0", "p0-t1-3", tor), []int32{n.Down(dst)})}
		if at >= 0 {
			f.When = Span{at, at + 0.2}
		}
		e.Lossy = append(e.Lossy, f)
	}
}

// spread is n times evenly over a stretch.
func spread(n int, from, to float64) (times []float64) {
	for i := range n {
		times = append(times, from+(to-from)*(float64(i)+0.5)/float64(n))
	}
	return times
}

func TestWhenALinkLostPackets(t *testing.T) {
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	unknown := make([]float64, 14)
	for i := range unknown {
		unknown[i] = -1
	}
	for _, c := range []struct {
		name  string
		lost  float64 // packets of each flow
		times []float64
		load  []Load
		class string
		from  float64 // 0 and 0: all the time, or unknown
		to    float64
	}{
		{"all the time", 1, spread(14, 0, 30), nil, "", 0, 0},
		{"for a moment", 1, spread(14, 11, 13), nil, "no-buffer", 11, 13.2},
		{"for the last moment", 1, spread(14, 28, 30), nil, "no-buffer", 28, 30.2},
		{"from the middle on", 1, spread(14, 15, 30), nil, "", 15, 30.2},
		{"until the middle", 1, spread(14, 0, 15), nil, "", 0, 15.2},
		{"for a moment, nearly all packets", 48, slices.Repeat(spread(14, 11, 13), 40), nil, "", 11, 13.2},
		{"at the only time there was traffic", 1, spread(14, 11, 13), []Load{{Span{10.9, 13.3}, 1e6}, {Span{0, 30}, 1}}, "", 0, 0},
		{"at unknown times, a packet each", 1, unknown, nil, "", 0, 0},
		{"at unknown times, many each", 4, unknown, nil, "no-buffer", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &Epoch{During: Span{0, 30}, Load: c.load}
			for src := range int32(n.Hosts()) {
				for i := range int32(20) {
					e.Clean = append(e.Clean, Flow{Src: src, Dst: (src + 17*i + 1) % int32(n.Hosts()), Packets: 150})
				}
			}
			loseAt(t, n, e, c.lost, c.times...)
			r := Infer(n, e, Options{})
			if want := path(t, n, "p0-tor0", "p0-t1-3")[0]; len(r.Components) != 1 || r.Components[0].Component != (Component{Link, want}) {
				t.Fatalf("named %v, want one link; suspects %+v", named(n, r), r.Suspects)
			}
			b := r.Components[0]
			if b.Class != c.class {
				t.Errorf("%s has class %q, want %q: %q", n.Name(b.Component), b.Class, c.class, b.Trace)
			}
			if b.During.Known() != (c.to > 0) || math.Abs(b.During.From-c.from) > 0.6 || math.Abs(b.During.To-c.to) > 0.6 {
				t.Errorf("%s lost packets during %v, want %v to %v", n.Name(b.Component), b.During, c.from, c.to)
			}
			for i, cause := range r.Causes {
				if cause.Component != b.Component {
					t.Fatalf("flow %d is put down to %s", i, n.Name(cause.Component))
				}
			}
		})
	}
}

// A congested link is found, dated and no fault, and is not carried over into the
// epochs after it.
func TestCongestionPasses(t *testing.T) {
	s := paper()
	s.links, s.bursts, s.epochs = 1, .01, 3
	n, err := build(s)
	if err != nil {
		t.Fatal(err)
	}
	f, e := scene(n, s, 21)
	h := NewHistory(n, Options{})
	for i, ep := range e.epochs {
		found := 0
		for _, b := range h.Infer(ep).Components {
			switch l := b.Component.ID; {
			case b.Component == f.truth[0]:
				if b.Class != "" {
					t.Errorf("epoch %d: the fault has class %q", i, b.Class)
				}
			case i > 0 || b.Component.Kind != Link || !f.burst[l] || b.Class != "no-buffer":
				t.Errorf("epoch %d: %s is named, class %q", i, n.Name(b.Component), b.Class)
			default:
				found++
				if ev := f.events[l]; b.During.From > ev.to || b.During.To < ev.from || b.During.length() > 6 {
					t.Errorf("%s is dated %v, was %v to %v", n.Name(b.Component), b.During, ev.from, ev.to)
				}
			}
		}
		if i == 0 && found < 5 {
			t.Errorf("%d congested links found of %d", found, len(f.events))
		}
	}
}

func TestClock(t *testing.T) {
	rows := []row{{when: Span{1, 2}}, {}, {when: Span{28, 29}}}
	for _, c := range []struct {
		name string
		ep   Epoch
		at   Span
		want float64
	}{
		{"even", Epoch{During: Span{0, 30}}, Span{10, 13}, 0.1},
		{"from the first loss to the last", Epoch{}, Span{1, 15}, 0.5},
		{"a loss outside the epoch", Epoch{During: Span{0, 20}}, Span{0, 14.5}, 0.5},
		{"loads", Epoch{During: Span{0, 30}, Load: []Load{{Span{0, 10}, 1}, {Span{10, 30}, 3}}}, Span{5, 20}, 0.5},
		{"loads elsewhere", Epoch{During: Span{0, 30}, Load: []Load{{Span{50, 60}, 1}, {Span{}, 3}}}, Span{0, 3}, 0.1},
		{"before it began", Epoch{During: Span{0, 30}}, Span{-5, -1}, 1e-6},
	} {
		clock := newClock(&c.ep, rows)
		if got := clock.share(c.at); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: a share of %v during %v, want %v", c.name, got, c.at, c.want)
		}
	}
	for _, ep := range []Epoch{{}, {During: Span{0, 30}}} {
		if c := newClock(&ep, []row{{}}); c.Known() {
			t.Error("a clock without a loss of a known time")
		}
	}
	c := newClock(&Epoch{During: Span{0, 1e9}}, rows)
	if len(c.before) != maxBins+1 {
		t.Errorf("%d bins of an epoch of years, want %d", len(c.before)-1, maxBins)
	}
}
