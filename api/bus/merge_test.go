package bus

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"

	"google.golang.org/protobuf/proto"
)

// Ten minutes of a busy host while NATS is away: 2,000 connections, their
// services and rows, and retransmits, in a spool that could never hold them one
// by one. After the return on the same port everything counted is there: merged
// where it was old, nothing twice, and what is no aggregate untouched.
func TestOldestAggregatesAreMergedWhileNATSIsAway(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0", Dir: dir})
	c := inProcess(t, s)
	listen := strings.TrimPrefix(s.URL(), "nats://")
	agent := connect(t, ConnConfig{URL: s.URL(), Name: "host.a"})
	p := NewPublisher(agent, "a", PublisherOptions{SpoolBytes: 512 << 10})

	// Before: this is stored, and may not be sent merged again.
	begin := time.Unix(1_700_000_000, 0)
	const conns, services, hosts = 2000, 50, 20
	var sent [3]struct{ packets, flows, ended uint64 }
	publish := func(interval int) {
		start := uint64(begin.Add(time.Duration(interval) * 30 * time.Second).UnixNano())
		record := func(sort int, r *decafpb.FlowRecord) {
			r.StartNs, r.EndNs = start, start+30e9
			sent[sort].packets += r.Packets
			sent[sort].flows += r.Flows
			sent[sort].ended += r.ClosedFlows
			p.Publish(r)
		}
		for i := range conns {
			r := &decafpb.FlowRecord{
				Flow:   &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 1, 0, byte(i)}, SrcPort: uint32(30000 + i), DstPort: 443, Protocol: 6},
				Cookie: uint64(i + 1), State: decafpb.FlowRecord_STATE_OPEN, Packets: uint64(interval + i), RttMaxNs: uint64(interval),
				BytesSent: uint64(i*i*7919 + interval), CwndMeanBytes: 14480, RttMeanNs: uint64(100_000 + i*977),
			}
			if interval == 0 {
				r.State = decafpb.FlowRecord_STATE_NEW
			}
			record(0, r)
		}
		for i := range services {
			record(1, &decafpb.FlowRecord{
				Flow:  &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 1, 0, byte(i)}, DstPort: 443, Protocol: 6},
				Flows: 10, ClosedFlows: 3, NewFlows: 3, Packets: 7,
			})
		}
		for i := range hosts {
			record(2, &decafpb.FlowRecord{
				Flow: &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 2, 0, byte(i)}, Protocol: 6}, Flows: 5, Packets: 50,
			})
		}
		p.Publish(retransmit(uint32(interval + 1)))
	}
	publish(0)
	eventually(t, "the first interval is stored", func() bool { return p.Stats().Waiting == 0 })
	s.Stop()
	eventually(t, "the agent notices", func() bool { return agent.Ready() != nil })
	const intervals = 21 // ten minutes and a half
	for i := 1; i < intervals; i++ {
		publish(i)
		eventually(t, "the sender has seen to the spool", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.spool.toPack() == nil && p.spool.bytes < p.spool.limit*15/16
		})
	}
	away := p.Stats()
	if away.LeftOut != 0 || away.Merged == 0 {
		t.Errorf("after ten minutes: %+v", away)
	}
	c.Close()
	s = startServer(t, ServerConfig{Listen: listen, Dir: dir})
	c = inProcess(t, s)
	got := consume(t, c, begin)
	eventually(t, "all is stored", func() bool { return p.Stats().Waiting == 0 })
	closePublisher(t, p)
	stats := p.Stats()
	if stats.Records != stats.Stored+stats.Merged || stats.LeftOut+stats.Rejected != 0 {
		t.Errorf("%+v", stats)
	}
	eventually(t, "all came", func() bool { return uint64(got.records()) >= stats.Stored })

	var came [3]struct{ packets, flows, ended uint64 }
	seen := map[string]bool{}
	rttMax := uint64(0)
	longest := uint64(0)
	for _, b := range got.batches {
		for _, r := range b.GetFlows() {
			id := fmt.Sprint(r.GetOrigin().GetSeq())
			if seen[id] {
				continue // sent again after the reconnect
			}
			seen[id] = true
			sort := 0
			switch {
			case r.GetFlows() > 0 && r.GetFlow().GetDstPort() != 0:
				sort = 1
			case r.GetFlows() > 0:
				sort = 2
			}
			came[sort].packets += r.GetPackets()
			came[sort].flows += r.GetFlows()
			came[sort].ended += r.GetClosedFlows()
			rttMax = max(rttMax, r.GetRttMaxNs())
			longest = max(longest, r.GetEndNs()-r.GetStartNs())
		}
	}
	for i := range sent {
		if came[i].packets != sent[i].packets || came[i].ended != sent[i].ended {
			t.Errorf("sort %d: %+v came of %+v", i, came[i], sent[i])
		}
	}
	// A service's flows are not counted once more in each interval merged.
	if came[2].flows != sent[2].flows || came[1].flows >= sent[1].flows || rttMax != intervals-1 || longest < 120e9 {
		t.Errorf("came %+v, sent %+v, maximum %d, longest %d", came, sent, rttMax, longest)
	}
	if n := len(got.of("retransmit", "a")); n < intervals {
		t.Errorf("%d retransmits, want %d", n, intervals)
	}
	t.Logf("%d records became %d in a spool of %d KiB; longest time of one %v", stats.Records, stats.Stored, 512, time.Duration(longest))
}

func TestMergeFlow(t *testing.T) {
	f := func(name string, a, b, want *decafpb.FlowRecord) {
		t.Helper()
		a.Origin, b.Origin, want.Origin = &decafpb.Origin{Seq: 1}, &decafpb.Origin{Seq: 9}, &decafpb.Origin{Seq: 9}
		a.StartNs, a.EndNs, b.StartNs, b.EndNs, want.StartNs, want.EndNs = 10, 20, 20, 50, 10, 50
		if mergeFlow(a, b); !proto.Equal(a, want) {
			t.Errorf("%s:\n got %v\nwant %v", name, a, want)
		}
	}
	const isNew, open, closed = decafpb.FlowRecord_STATE_NEW, decafpb.FlowRecord_STATE_OPEN, decafpb.FlowRecord_STATE_CLOSED
	f("sums, maxima, means by time",
		&decafpb.FlowRecord{Packets: 1, RttMaxNs: 9, RttMeanNs: 4, CwndMeanBytes: 100, ZeroWindowNs: 3},
		&decafpb.FlowRecord{Packets: 2, RttMaxNs: 8, RttMeanNs: 8, RwndMeanBytes: 7, Retransmits: 1, Active: true},
		&decafpb.FlowRecord{Packets: 3, RttMaxNs: 9, RttMeanNs: 7, CwndMeanBytes: 100, RwndMeanBytes: 7, ZeroWindowNs: 3, Retransmits: 1, Active: true})
	f("the newest, the least, the most and sums of the rest",
		&decafpb.FlowRecord{OwnRwndMeanBytes: 5, RttVarNs: 1, DurationMs: 10, RttMinNs: 7, CwndDeltaBytes: -5, ShrunkFlows: 1, Reorderings: 2, ZeroWindowProbes: 3, Uid: proto.Uint32(7)},
		&decafpb.FlowRecord{RttVarNs: 2, DurationMs: 20, RttMinNs: 6, CwndDeltaBytes: 3, ShrunkFlows: 1, Reorderings: 1, ZeroWindowProbes: 1, Uid: proto.Uint32(0)},
		&decafpb.FlowRecord{OwnRwndMeanBytes: 5, RttVarNs: 2, DurationMs: 20, RttMinNs: 6, CwndDeltaBytes: -2, ShrunkFlows: 2, Reorderings: 3, ZeroWindowProbes: 3, Uid: proto.Uint32(0)})
	f("what a later one does not know stays",
		&decafpb.FlowRecord{RttVarNs: 1, DurationMs: 10, RttMinNs: 7, Uid: proto.Uint32(7)}, &decafpb.FlowRecord{},
		&decafpb.FlowRecord{RttVarNs: 1, DurationMs: 10, RttMinNs: 7, Uid: proto.Uint32(7)})
	f("new stays new while open", &decafpb.FlowRecord{State: isNew}, &decafpb.FlowRecord{State: open}, &decafpb.FlowRecord{State: isNew})
	f("and ends", &decafpb.FlowRecord{State: isNew}, &decafpb.FlowRecord{State: closed, Error: 104}, &decafpb.FlowRecord{State: closed, Error: 104})
	f("rows count on", &decafpb.FlowRecord{Flows: 5}, &decafpb.FlowRecord{Flows: 6}, &decafpb.FlowRecord{Flows: 11})
	service := func(flows, ended uint64) *decafpb.FlowRecord {
		return &decafpb.FlowRecord{Flow: &decafpb.Flow{DstPort: 443}, Flows: flows, ClosedFlows: ended}
	}
	f("services count those that ended, and those there are", service(10, 3), service(12, 1), service(15, 4))
}

// Batches that may be stored already are not merged, nor others than flow
// records; what is left out meanwhile is not brought back.
func TestCrowd(t *testing.T) {
	s := spool{limit: 1000}
	push := func(id uint64, kind, bytes int, sent bool) *parcel {
		p := &parcel{id: id, kind: kind, records: 10, data: make([]byte, bytes), packed: true, sent: sent}
		s.push(p)
		return p
	}
	push(1, flowKind, 100, true)
	push(2, 4, 100, false)
	a := push(3, flowKind, 100, false)
	b := push(4, flowKind, 100, false)
	if got := s.crowd(); got != nil {
		t.Errorf("crowded with room: %v", got)
	}
	c := push(5, flowKind, 300, false)
	got := s.crowd()
	if len(got) != 3 || got[0] != a || got[1] != b || got[2] != c {
		t.Fatalf("to merge: %v", got)
	}
	if fewer := s.replace(got, []parcel{{records: 12, data: make([]byte, 150)}}); fewer != 18 || s.bytes != 350 || s.records != 32 {
		t.Errorf("%d fewer, %d bytes, %d records", fewer, s.bytes, s.records)
	}
	if err := s.check(); err != nil {
		t.Error(err)
	}
	now := time.Unix(1000, 0)
	var order []uint64
	for p := s.send(now); p != nil; p = s.send(now) {
		order = append(order, p.id)
		s.ack(p.id, now)
	}
	if fmt.Sprint(order) != "[1 2 3]" || !s.settled() {
		t.Errorf("sent %v, settled %v", order, s.settled())
	}

	push(6, flowKind, 300, false)
	push(7, flowKind, 200, false)
	got = s.crowd()
	push(8, flowKind, 900, false) // leaves out all before
	if fewer := s.replace(got, []parcel{{records: 1, data: make([]byte, 1)}}); fewer != 0 || len(got) < 2 {
		t.Errorf("%d fewer of %d that were left out", fewer, len(got))
	}
	if err := s.check(); err != nil {
		t.Error(err)
	}
}
