package correlator

import (
	"math/rand/v2"
	"strings"
	"testing"

	"decaf/api/decafpb"
	"decaf/correlator/blame"
)

// lostSegments is a flow that sent segments again, by their number, fast.
func lostSegments(n int, at int64, segments ...int) *Flow {
	f := &Flow{Src: "a", Dst: "b", First: at, Last: at, Count: uint64(len(segments))}
	f.Key.Cookie = uint64(n)
	for _, s := range segments {
		seq := uint32(1<<32-3*mss) + uint32(s)*mss // wraps
		f.Retransmits = append(f.Retransmits, &decafpb.Retransmit{TimeNs: uint64(at), Kind: kindFAST, Segments: 1, TcpSeq: seq, TcpEndSeq: seq + mss, TcpFlags: flagACK})
	}
	f.kinds[kindFAST] = uint32(len(segments))
	return f
}

func TestTrains(t *testing.T) {
	t.Parallel()
	const at = 100 * second
	timeout := lostSegments(5, at, 1, 2, 3)
	for _, r := range timeout.Retransmits {
		r.Kind = kindRTO
	}
	many := lostSegments(6, at, 8)
	many.Retransmits[0].Segments, many.Retransmits[0].TcpEndSeq = 3, many.Retransmits[0].TcpSeq+3*mss
	for _, c := range []struct {
		name     string
		flows    []*Flow
		from, to int64
		want     trains
	}{
		{"none", nil, 0, 0, trains{}},
		{"one by one", []*Flow{lostSegments(1, at, 1, 7), lostSegments(2, at, 4)}, 0, 0, trains{3, 0}},
		{"in any order, over the end of the numbers", []*Flow{lostSegments(1, at, 5, 1, 2, 3, 4)}, 0, 0, trains{5, 4}},
		{"the same twice", []*Flow{lostSegments(1, at, 2, 3, 3)}, 0, 0, trains{2, 1}},
		{"of different flows", []*Flow{lostSegments(1, at, 1), lostSegments(2, at, 2)}, 0, 0, trains{2, 0}},
		{"timeouts", []*Flow{timeout}, 0, 0, trains{}},
		{"several at once", []*Flow{many}, 0, 0, trains{3, 2}},
		{"at another time", []*Flow{lostSegments(1, at, 1, 2)}, at + 1, at + second, trains{}},
	} {
		if got := trainsOf(c.flows, c.from, c.to); got != c.want {
			t.Errorf("%s: %+v, not %+v", c.name, got, c.want)
		}
	}
}

// The same number of packets lost one by one and in trains is told apart, over and over;
// where nobody knows how many were sent as well.
func TestTrainsTellQueuesFromLinks(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	const flows, packets = 40, 50
	for _, known := range []bool{true, false} {
		for _, share := range []float64{.01, .05} {
			wrong, silent := 0, 0
			for range 200 {
				for _, queue := range []bool{false, true} {
					var list []*Flow
					for n := range flows {
						// A queue is full for a fifth of the flows.
						p := share
						if queue {
							if p = share * 5; rng.Float64() >= .2 {
								continue
							}
							p = max(p, .3)
						}
						var lost []int
						for i := range packets {
							if rng.Float64() < p {
								lost = append(lost, i)
							}
						}
						if len(lost) > 0 {
							list = append(list, lostSegments(n, second, lost...))
						}
					}
					sent := 0.0
					if known {
						sent = flows * packets
					}
					switch odds, sure := trainsOf(list, 0, 0).nats(sent), DefaultCongestionRule().Sure; {
					case queue && odds <= -sure || !queue && odds >= sure:
						wrong++
					case odds > -sure && odds < sure:
						silent++
					}
				}
			}
			t.Logf("%g of the packets lost, sent known %v: of 400 wrong %d, not told %d", share, known, wrong, silent)
			if wrong > 8 || known && silent > 100 {
				t.Errorf("%g of the packets lost, sent known %v: of 400 wrong %d, not told %d", share, known, wrong, silent)
			}
		}
	}
}

// Each way out of the rule, and that it says why.
func TestCongestionRule(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	link := linkOf(t, topo, "p0-t1-0>t2-1")
	const now = 200 * second
	single := []*Flow{lostSegments(1, now-second, 3, 20), lostSegments(2, now-second, 9)}
	apart := single
	for i := range 20 {
		apart = append(apart, lostSegments(10+i, now-second, i))
	}
	trained := []*Flow{lostSegments(1, now-second, 3, 4, 5, 6, 9, 10, 11), lostSegments(2, now-second, 7, 8, 9, 10)}
	young, old := [2]int64{now - 2*second, now}, [2]int64{now - 20*second, now}
	passed := [2]int64{now - 6*second, now - second/2}
	for _, c := range []struct {
		name   string
		flows  []*Flow
		class  string // as package blame says
		during [2]int64
		known  int64
		watch  bool
		drops  float64
		want   string
		why    string
	}{
		{"just begun, few losses", single, classNoBuffer, young, now, false, 0, "", "not known yet"},
		{"just begun, few losses, a device would tell", single, classNoBuffer, young, now, true, 0, "", "against congestion"},
		{"just begun, one by one", apart, classNoBuffer, young, now, false, 0, "", "one by one"},
		{"just begun, in trains", trained, classNoBuffer, young, now, false, 0, classNoBuffer, "a queue that overflows"},
		{"passed, few losses", single, classNoBuffer, passed, now + 2*second, false, 0, classNoBuffer, ""},
		{"passed, one by one, a device would tell", apart, classNoBuffer, passed, now + 2*second, true, 0, "", "one by one"},
		{"lasting, few losses", single, "", old, now, false, 0, "", ""},
		{"lasting, one by one", apart, "", old, now, false, 0, "", "one by one"},
		{"lasting, in trains", trained, "", old, now, false, 0, classNoBuffer, "a queue that overflows"},
		{"too much for a queue", trained, "", young, now, false, 0, "", ""},
		{"a device told", apart, classNoBuffer, young, now, false, 3, classNoBuffer, ""},
	} {
		w := &Window{Topo: topo, Start: now - 30*second, End: now, Current: now - 30*second, Known: c.known}
		if c.watch {
			w.Watching = []string{"p0-t1-0"}
		}
		x := Candidate{Component: Component{Link: link}, Class: c.class, Congested: c.class != "", Flows: c.flows, during: c.during}
		DefaultCongestionRule().judge(w, &x, blame.Blame{Class: c.class, Evidence: blame.Evidence{Drops: c.drops, Rate: .01}}, 20_000)
		if x.Class != c.want || x.Congested != (c.want != "") || x.undecided != (c.why == "not known yet") || !strings.Contains(strings.Join(x.Reasons, "\n"), c.why) {
			t.Errorf("%s: class %q, %v", c.name, x.Class, x.Reasons)
		}
	}
}
