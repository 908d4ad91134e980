package correlator

import (
	"fmt"
	"testing"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// What the sending host dropped itself is no loss of the network: alone it neither
// votes nor explains a report, beside real losses it changes nothing of these, and
// no device's drop is taken for it. It is shown all the same.
func TestLocalCauseIsNoVote(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	src, _ := topo.Host("p0-tor0-h0")
	dst, _ := topo.Host("p1-tor1-h1")
	flow := packet.Flow{Src: addrPort(src, 1000), Dst: addrPort(dst, 5201), Proto: packet.TCP}
	path := topo.Paths(src.Name, dst.Name)[0]
	const at = 100 * second
	type sent struct {
		kind  decafpb.RetransmitKind
		local bool
		back  bool // and taken back later
	}
	for _, c := range []struct {
		name        string
		list        []sent
		count       uint64
		first, last int64 // of list
		counted     float64
	}{
		{"local alone", []sent{{kind: kindRTO, local: true}, {kind: kindFAST, local: true}}, 0, 0, 0, 0},
		{"local, then fast", []sent{{kind: kindRTO, local: true}, {kind: kindFAST}}, 1, 1, 1, 1},
		{"fast, then local", []sent{{kind: kindFAST}, {kind: kindRTO, local: true}}, 1, 0, 0, 1},
		{"fast between local ones", []sent{{kind: kindTLP, local: true}, {kind: kindFAST}, {kind: kindRTO}, {kind: kindRTO, local: true}}, 2, 1, 2, 1},
		{"a tail probe is as lone as before", []sent{{kind: kindRTO, local: true}, {kind: kindTLP}, {kind: kindSYN, local: true}}, 1, 1, 1, loneProbeCounts},
		{"the local one taken back", []sent{{kind: kindRTO, local: true, back: true}, {kind: kindFAST}}, 1, 1, 1, 1},
		{"the real one taken back", []sent{{kind: kindRTO, local: true}, {kind: kindFAST, back: true}}, 0, 0, 0, 0},
	} {
		e := NewEngine(DefaultEngineConfig(), topo, nil, counter("f"))
		s := e.store
		own, seq := 0, uint64(0)
		record := func() *decafpb.Retransmit {
			seq++
			return &decafpb.Retransmit{Origin: &decafpb.Origin{Producer: src.Name, BootId: 1, Seq: seq}, Flow: flow.PB(), Cookie: 9}
		}
		when := func(i int) int64 { return at + int64(i)*second }
		for i, x := range c.list {
			r := record()
			r.TimeNs, r.Kind, r.TcpFlags, r.TcpSeq, r.TcpEndSeq = uint64(when(i)), x.kind, flagACK, uint32(2000*i), uint32(2000*i+1000)
			if x.kind == kindSYN {
				r.TcpFlags = flagSYN
			}
			if x.local {
				r.LocalCause = "packet filter"
				own += btoi(!x.back)
			} else {
				r.Path = &decafpb.Path{Hops: hopsOf(path), Distance: uint32(len(path) - 1), ProbeSeq: 1, Status: decafpb.PathStatus_PATH_STATUS_COMPLETE}
			}
			s.AddRetransmit(r, when(i)+1)
			if x.back {
				u := record()
				u.Undone, u.UndoneSeq, u.TimeNs = true, r.GetOrigin().GetSeq(), r.GetTimeNs()
				s.AddRetransmit(u, when(i)+2)
			}
		}
		if n := s.Stats().UndoneUnknown; n != 0 {
			t.Errorf("%s: %d notices not heeded", c.name, n)
		}
		f := s.order[0]
		votes := c.count > 0
		if f.Count != c.count || f.votes() != votes || len(f.Own) != own || len(f.Retransmits) != int(c.count) {
			t.Errorf("%s: counts %d of %d and %d of its host's own, votes %v; want %d, %d, %v", c.name, f.Count, len(f.Retransmits), len(f.Own), f.votes(), c.count, own, votes)
		}
		w := s.span(at-second, at+60*second, at+60*second, nil, newPathSets(topo))
		if len(w.Flows) != btoi(votes) || len(w.Pathless) != 0 {
			t.Errorf("%s: %d flows vote, %d without a path", c.name, len(w.Flows), len(w.Pathless))
		}
		report := e.gather(src.Name, dst.Name, &decafpb.FaultReport{}, at-second, at+60*second)
		if len(report.flows) != btoi(votes) {
			t.Errorf("%s: %d lossy flows speak for a report", c.name, len(report.flows))
		}
		link, _ := parseComponent(topo, "link "+path[1].Name)
		_, others := e.evidenceFor(&suspect{pb: &decafpb.Finding{}, component: link}, &reportCase{}, at-second, at+60*second)
		if want := votes && c.counted == 1; len(others) != btoi(want) {
			t.Errorf("%s: %d flows are evidence", c.name, len(others))
		}
		if votes && (f.First != when(int(c.first)) || f.Last != when(int(c.last)) || f.counted() != c.counted) {
			t.Errorf("%s: from %d to %d, counts %g", c.name, f.First, f.Last, f.counted())
		}
		// A device that drops the segment of a local record drops another copy of it.
		for i, x := range c.list {
			d := &decafpb.DropEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: uint64(i + 1)}, TimeNs: uint64(when(i)), Class: "policy/l3/acl",
				Packet: &decafpb.Packet{Flow: flow.PB(), TcpSeq: uint32(2000 * i)}}
			s.AddDrop(d, when(i)+3)
			if got, want := s.drops[len(s.drops)-1].Matched, !x.local && !x.back; got != want {
				t.Errorf("%s: drop of the segment of record %d matched %v", c.name, i, got)
			}
		}
		s.Prune(at + int64(len(c.list))*second)
		if len(s.order) != 1 {
			t.Errorf("%s: forgotten at once", c.name)
		}
	}
}

// A host that drops all it sends on many connections names nothing, and the link
// that really loses packets is named though its flows have local drops too.
func TestLocalCausesNameNothing(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, end = 100 * second, 130 * second
	for _, every := range []bool{true, false} {
		fb := newFabric(topo, 4, fault{link: linkOf(t, topo, "p0-t1-0>t2-1"), rate: .05, at: at, end: end})
		list := fb.run(90*second, 160*second)
		for _, a := range list {
			var more []*decafpb.Retransmit
			for _, r := range a.batch.GetRetransmits() {
				if r.GetUndone() {
					continue
				}
				if every {
					r.LocalCause = "queue full"
					continue
				}
				x := &decafpb.Retransmit{Origin: fb.origin(r.GetOrigin().GetProducer(), "retransmit"), TimeNs: r.GetTimeNs() + 1, Flow: r.GetFlow(), Cookie: r.GetCookie(),
					Kind: kindRTO, TcpFlags: flagACK, TcpSeq: r.GetTcpSeq(), TcpEndSeq: r.GetTcpEndSeq(), LocalCause: "queue full"}
				more = append(more, x)
			}
			a.batch.Retransmits = append(a.batch.Retransmits, more...)
		}
		e := play(topo, list, 200*second)
		var named []string
		for _, f := range e.Findings() {
			named = append(named, f.GetComponent())
		}
		want := "[link p0-t1-0>t2-1]"
		if every {
			want = "[]"
		}
		if fmt.Sprint(named) != want {
			t.Errorf("all are local %v: named %v, want %s", every, named, want)
		}
	}
}
