package correlator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"decaf/api/decafpb"
	"decaf/api/packet"

	"google.golang.org/protobuf/proto"
)

// A retransmit that its host takes back leaves no trace: after every notice has
// come, before or after what it is about, the ranking is that of a stream in which
// those retransmits never were.
func TestWithdrawnRetransmitLeavesNoTrace(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, end = 100 * second, 130 * second
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 5))
		fb := newFabric(topo, seed,
			fault{link: linkOf(t, topo, "p0-t1-0>t2-1"), rate: .03, at: at, end: end},
			fault{device: "p1-t1-1", class: "policy/l3/acl", rate: .1, at: at + 10*second, end: end})
		fb.rtoNoise = 1
		with, without := NewStore(topo, DefaultStoreLimits()), NewStore(topo, DefaultStoreLimits())
		var notices []*decafpb.Retransmit
		taken, kept := 0, 0
		for _, a := range fb.run(at, end) {
			for _, d := range a.batch.GetDrops() {
				with.AddDrop(proto.CloneOf(d), a.at)
				without.AddDrop(proto.CloneOf(d), a.at)
			}
			for _, r := range a.batch.GetRetransmits() {
				if r.GetUndone() || rng.IntN(3) > 0 {
					kept++
					with.AddRetransmit(proto.CloneOf(r), a.at)
					without.AddRetransmit(proto.CloneOf(r), a.at)
					continue
				}
				taken++
				u := &decafpb.Retransmit{Origin: fb.origin(r.GetOrigin().GetProducer(), "retransmit"), TimeNs: r.GetTimeNs(),
					Flow: r.GetFlow(), Cookie: r.GetCookie(), Undone: true, UndoneSeq: r.GetOrigin().GetSeq()}
				if rng.IntN(2) == 0 {
					with.AddRetransmit(u, a.at)
				} else {
					notices = append(notices, u)
				}
				with.AddRetransmit(proto.CloneOf(r), a.at)
				// The probes of its trace were sent all the same.
				markOnly(without, r)
			}
		}
		for _, u := range notices {
			with.AddRetransmit(u, end)
		}
		if taken < 20 || kept < 50 {
			t.Fatalf("seed %d shows too little: %d taken back, %d kept", seed, taken, kept)
		}
		with.Settle(end + 10*second)
		without.Settle(end + 10*second)
		if n := with.Stats().UndoneUnknown; n != 0 {
			t.Errorf("seed %d: %d notices not heeded", seed, n)
		}
		for _, name := range Methods() {
			m, err := NewMethod(name, DefaultEngineConfig(), topo)
			if err != nil {
				t.Fatal(err)
			}
			rank := func(s *Store) string {
				w := s.span(at, end, end, nil, newPathSets(topo))
				order := func(a, b *Flow) int { return int(a.Key.Cookie) - int(b.Key.Cookie) }
				slices.SortFunc(w.Flows, order)
				slices.SortFunc(w.Pathless, order)
				slices.SortFunc(w.Joined, func(a, b JoinedFlow) int { return order(a.Flow, b.Flow) })
				matched := 0
				for _, d := range w.Drops {
					matched += btoi(d.Matched)
				}
				r := m.Rank(w)
				for i := range r.Candidates { // lists of flows are by pointer
					r.Candidates[i].own = nil
				}
				return fmt.Sprint(len(w.Flows), len(w.Pathless), len(w.Joined), len(w.Drops), matched, "\n", describeRanking(r))
			}
			if a, b := rank(with), rank(without); a != b {
				t.Errorf("seed %d, %s: with withdrawals\n%s\nwithout what they take back\n%s", seed, name, a, b)
			}
		}
	}
}

// markOnly lets a store know of a trace's probes alone.
func markOnly(s *Store, r *decafpb.Retransmit) {
	tuple, _ := packet.FlowFromPB(r.GetFlow())
	f := &Flow{}
	if p, ok := markOf(r.GetPath()); ok {
		f.probes = append(f.probes, p)
	}
	s.ofTuple[tuple] = append(s.ofTuple[tuple], f)
	for _, d := range s.dropsOf[tuple] {
		s.own(d, f)
	}
}

// Of a connection with more retransmits than are known one by one, the rest goes
// on counting, and what could not be heeded is counted.
func TestWithdrawalOfManyRetransmits(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	s := NewStore(topo, DefaultStoreLimits())
	src, _ := topo.Host("p0-tor0-h0")
	dst, _ := topo.Host("p1-tor1-h1")
	flow := packet.Flow{Src: addrPort(src, 1000), Dst: addrPort(dst, 5201), Proto: packet.TCP}
	const n = maxMarksPerFlow + 10
	send := func(seq uint64, undone uint64) {
		s.AddRetransmit(&decafpb.Retransmit{Origin: &decafpb.Origin{Producer: src.Name, BootId: 1, Seq: seq}, TimeNs: 1000 + seq,
			Flow: flow.PB(), Cookie: 9, Kind: kindRTO, Undone: undone != 0, UndoneSeq: undone}, 5000)
	}
	for seq := range uint64(n) {
		send(seq+1, 0)
	}
	f := s.order[0]
	for seq := uint64(1); seq <= maxMarksPerFlow; seq++ {
		send(n+seq, seq)
	}
	if f.Count != 10 || f.Undone() || f.kinds[kindRTO] != 10 || f.Last != 1000+n || s.Stats().UndoneUnknown != 0 {
		t.Errorf("%d left, undone %v, kinds %v, last %d, %d not heeded", f.Count, f.Undone(), f.kinds, f.Last, s.Stats().UndoneUnknown)
	}
	if len(s.undoneOne) != maxMarksPerFlow || len(s.undoneOrder) != maxMarksPerFlow {
		t.Errorf("%d notices held, %d in order", len(s.undoneOne), len(s.undoneOrder))
	}
	s.Prune(1 << 60)
	if len(s.undoneOne)+len(s.undoneOrder)+len(s.order) != 0 {
		t.Error("old notices are not forgotten")
	}
}
