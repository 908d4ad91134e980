package correlator

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"decaf/api/decafpb"
	"decaf/correlator/blame"
	"decaf/topology"

	"google.golang.org/protobuf/proto"
)

// twice ranks every window as the engine does, with what it holds from earlier
// steps, and compares that with the same evidence put together anew.
type twice struct {
	*Fused
	t        *testing.T
	compared map[viewKind]int
	named    int
	// lossy flows that count half, and those of a known time
	half, dated int
	passing     int // named ones that were of a moment
}

func (m *twice) Rank(w *Window) *Ranking {
	r := m.Fused.Rank(w)
	if w.kind == viewOnce {
		return r
	}
	once := *w
	once.kind = viewOnce
	if fresh := m.Fused.Rank(&once); describeRanking(fresh) != describeRanking(r) {
		m.t.Errorf("at %.2f s, view %d: kept\n%s, anew\n%s", float64(w.End)/1e9, w.kind, describeRanking(r), describeRanking(fresh))
	}
	v := m.view(w.kind).take(w)
	if len(v.order) == 0 && len(v.drops) == 0 {
		return r
	}
	got, want := v.live.InferOrder(v.order), blame.Infer(m.ids.net, m.epoch(w), inference)
	if len(got.Components) != len(want.Components) || len(got.Suspects) != len(want.Suspects) {
		m.t.Errorf("at %.2f s, view %d: %d named and %d suspects, in one batch %d and %d",
			float64(w.End)/1e9, w.kind, len(got.Components), len(got.Suspects), len(want.Components), len(want.Suspects))
		return r
	}
	for i, b := range slices.Concat(want.Components, want.Suspects) {
		g := slices.Concat(got.Components, got.Suspects)[i]
		if g.Component != b.Component || g.Class != b.Class || g.During != b.During || math.Abs(g.Probability-b.Probability) > 1e-9 || math.Abs(g.Evidence.HostNats-b.Evidence.HostNats) > 1e-9*math.Abs(b.Evidence.HostNats) {
			m.t.Errorf("at %.2f s, view %d: %s %v, in one batch %s %v", float64(w.End)/1e9, w.kind,
				m.ids.net.Name(g.Component), g.Probability, m.ids.net.Name(b.Component), b.Probability)
		}
	}
	m.compared[w.kind]++
	m.named += len(want.Components)
	for _, b := range want.Components {
		m.passing += btoi(b.During.Known())
	}
	return r
}

// describeRanking is all of a ranking that is shown or decided by.
func describeRanking(r *Ranking) string {
	s := fmt.Sprintln(r.Unexplained, r.Total, len(r.Links), r.Abstained)
	for _, c := range r.Candidates {
		s += fmt.Sprintln(c.Component, c.Class, c.Probability, c.Opens, c.Votes, c.Equivalent, len(c.Flows), len(c.Drops), c.First, c.Last, c.Doubt, c.Reasons)
	}
	return s
}

// epoch puts a window's evidence together for package blame with nothing kept.
func (m *twice) epoch(w *Window) *blame.Epoch {
	ep := &blame.Epoch{}
	length := w.End - w.Current
	part := length / trafficParts
	from, to := (w.Start-length)/part*part, (w.End+part-1)/part*part
	flows, packets := 0.0, 0.0
	counted, parts := make(map[int64]float64), int64(0)
	for i := range w.Traffic {
		row := &w.Traffic[i]
		if share := row.within(from, to); share > 0 {
			flows += row.Flows * share
			packets += row.Packets * share
			ep.Clean = append(ep.Clean, blame.Flow{
				Src: m.ids.host[row.Src], Dst: m.ids.host[row.Dst],
				Packets: row.Packets * share * w.weight(row.End) * float64(w.End-w.Start) / float64(to-from),
			})
			for at := from; at < to; at += part {
				counted[at] += row.Packets * row.within(at, at+part) * w.weight(row.End)
			}
		}
	}
	known, weights := 0.0, 0.0
	for at := from; at+part <= min(to, w.Counted) && len(ep.Clean) > 0; at += part {
		known, weights = known+counted[at], weights+w.weight(at+part/2)
		parts++
	}
	for at := from; at < to; at += part {
		l := blame.Load{Span: spanOf(at, at+part), Packets: counted[at]}
		if parts == 0 || at+part > w.Counted {
			l.Packets = w.weight(at + part/2)
			if known > 0 {
				l.Packets *= known / weights
			}
		}
		ep.Load = append(ep.Load, l)
	}
	second := func(ns int64) float64 { return float64(ns / 1e9) }
	ep.During = blame.Span{From: second(w.Start + 1e9 - 1), To: second(w.Known)}
	mean := 1.0
	if flows > 0 {
		mean = max(1, packets/flows)
	}
	v := newView(m.ids, (*Flow).tells)
	for _, f := range slices.Concat(w.Pathless, w.Flows) {
		if f.tells() && f.Src != "" && f.Dst != "" {
			b := v.flow(w, f, sight{}, mean)
			v.links(&b, f, sight{})
			ep.Lossy = append(ep.Lossy, b)
			m.half += btoi(b.Lost < w.weight(f.Last))
			m.dated += btoi(b.When.Known())
		}
	}
	valid := make(map[*Drop]bool)
	for _, d := range w.Drops {
		valid[d] = true
	}
	for _, j := range w.Joined {
		if s := v.seen(w, j, valid); s.way != wayNone {
			b := v.flow(w, j.Flow, s, mean)
			v.links(&b, j.Flow, s)
			ep.Lossy = append(ep.Lossy, b)
		}
	}
	ep.Drops = v.dropped(w)
	for _, name := range w.Watching {
		if id, ok := m.ids.net.Device(name); ok {
			ep.Instrumented = append(ep.Instrumented, id)
		}
	}
	return ep
}

// cleanRowsOf are what hosts count of loss-free traffic every 5 s, some of them late.
func cleanRowsOf(topo *topology.Topology, rng *rand.Rand, from, to int64) (out []arrival) {
	seq := map[string]uint64{}
	for t := from; t < to; t += 5 * second {
		for _, src := range topo.Hosts {
			for _, dst := range topo.Hosts {
				if src == dst || rng.IntN(3) == 0 {
					continue
				}
				seq[src.Name]++
				out = append(out, arrival{t + 5*second + rng.Int64N(8*second), &decafpb.Batch{Flows: []*decafpb.FlowRecord{{
					Origin:  &decafpb.Origin{Producer: src.Name, BootId: 1, Seq: seq[src.Name]},
					StartNs: uint64(t), EndNs: uint64(t + 5*second), Flows: 1 + rng.Uint64N(20), Packets: 20 + rng.Uint64N(1000),
					Flow: &decafpb.Flow{Src: src.Addresses[0].AsSlice(), Dst: dst.Addresses[0].AsSlice(), Protocol: 6},
				}}}})
			}
		}
	}
	return out
}

// Evidence comes and goes in every way there is: retransmits with and without
// paths, notices that they were spurious, one by one or all, drops that devices
// saw, agents that fall silent, loss-free counts that come late and grow old, rows
// that have to make room. The ranking kept from step to step is that of a fresh
// batch, at each of hundreds of steps.
func TestLiveRankingEqualsBatch(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 11))
		at := 100 * second
		l := func() *topology.Link { return topo.Links[rng.IntN(len(topo.Links))] }
		fb := newFabric(topo, seed,
			fault{link: l(), rate: .03, at: at, end: at + 20*second},
			fault{link: l(), rate: .002, at: at, end: 1 << 62},
			fault{device: "t2-0", class: "policy/l3/acl", rate: .2, at: at + 15*second, end: at + 30*second},
			fault{link: linkOf(t, topo, "p0-t1-1>t2-1"), class: classNoBuffer, rate: .05, at: at + 35*second, end: at + 45*second})
		fb.rtoNoise, fb.tlpNoise = .5, 1
		end := at + 65*second
		list := append(fb.run(at-20*second, end), cleanRowsOf(topo, rng, at-20*second, end)...)
		for _, a := range list[:len(list):len(list)] {
			for _, r := range a.batch.GetRetransmits() {
				if rng.IntN(12) == 0 { // taken back later, or before it came
					u := proto.CloneOf(r)
					u.Origin = fb.origin(r.GetOrigin().GetProducer(), "retransmit")
					u.Undone, u.UndoneSeq, u.TimeNs = true, r.GetOrigin().GetSeq(), r.GetTimeNs()+1e6
					list = append(list, arrival{a.at - second/2 + rng.Int64N(3*second), &decafpb.Batch{Retransmits: []*decafpb.Retransmit{u}}})
				}
			}
		}
		sort.SliceStable(list, func(i, j int) bool { return list[i].at < list[j].at })
		cfg := DefaultEngineConfig()
		cfg.Limits.Traffic = 400
		m := &twice{Fused: NewFused(topo, cfg.Fused), t: t, compared: map[viewKind]int{}}
		e := NewEngine(cfg, topo, m, counter("f"))
		e.Watch(func(from, to int64) (on []string) {
			for i, d := range topo.Devices {
				if (to/(7*second)+int64(i))%3 != 0 {
					on = append(on, d.Name)
				}
			}
			return on
		})
		for now := at - 20*second; now < end; now += second / 4 {
			for len(list) > 0 && list[0].at <= now {
				e.Add(list[0].batch, list[0].at)
				list = list[1:]
			}
			e.Step(now)
		}
		st := e.store.Stats()
		t.Logf("seed %d: compared %v times, %d named, %d of a moment, %d flows that count half; %+v", seed, m.compared, m.named, m.passing, m.half, st)
		if m.compared[viewLive] < 250 || m.compared[viewRecent] < 250 || m.compared[viewPast] < 10 || m.named < 100 ||
			m.half < 100 || m.dated < 1000 || m.passing < 20 || st.Undone < 20 || st.EvictedTraffic == 0 || st.Drops == 0 {
			t.Errorf("seed %d shows too little", seed)
		}
	}
}
