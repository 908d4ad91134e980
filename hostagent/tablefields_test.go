package hostagent

import (
	"testing"
	"time"

	"decaf/api/agentconfig"
	"decaf/api/decafpb"

	"google.golang.org/protobuf/proto"
)

// take is what an interval's end gives: records of single connections, by cookie, and
// the one sum of a service.
func (x *tableScript) take() (records map[uint64]*decafpb.FlowRecord, sum *decafpb.FlowRecord) {
	records = map[uint64]*decafpb.FlowRecord{}
	x.table.tables.take(1, 2, x.table.flows, func(r *decafpb.FlowRecord) {
		if r = proto.CloneOf(r); r.GetFlows() > 0 {
			sum = r
		} else {
			records[r.GetCookie()] = r
		}
	})
	return records, sum
}

// Each field that samples show as it is, and no count: the latest, the mean of all
// dumps, or the most.
func TestTableShows(t *testing.T) {
	x := newTableScript(t, 100, enough, trackAll)
	x.dump()
	at := func(own uint64, rttVar, rttMin time.Duration, reorderings uint32, probes uint8) *flowSample {
		return conn(20, func(s *flowSample) {
			s.opened, s.uid, s.ownRwnd, s.rttVar, s.rttMin, s.reorderings, s.probes = 1000, 33, own, rttVar, rttMin, reorderings, probes
		})
	}
	const us = time.Microsecond
	x.now = 5_000_000
	x.dump(at(1000, 30*us, 90*us, 1, 0))
	x.dump(at(3000, 50*us, 80*us, 4, 3))
	x.dump(at(2000, 40*us, 0, 5, 1)) // no lowest, as just after a restart
	x.now = 9_000_000
	x.dump() // nothing new
	records, sum := x.take()
	r := records[20]
	for _, row := range []struct {
		field     string
		got, want uint64
	}{
		{"own window, mean", r.GetOwnRwndMeanBytes(), (1000 + 3000 + 2*2000) / 4},
		{"round trips differ by, latest", r.GetRttVarNs(), 40_000},
		{"lowest round trip that is known", r.GetRttMinNs(), 80_000},
		{"reorderings", r.GetReorderings(), 5},
		{"probes of a closed window, most", r.GetZeroWindowProbes(), 3},
		{"owner", uint64(r.GetUid()), 33},
		{"duration, to the latest dump, ms", r.GetDurationMs(), 9},
		{"sum: own window", sum.GetOwnRwndMeanBytes(), 2000},
		{"sum: lowest round trip", sum.GetRttMinNs(), 80_000},
		{"sum: reorderings", sum.GetReorderings(), 5},
		{"sum: probes", sum.GetZeroWindowProbes(), 3},
	} {
		if row.got != row.want {
			t.Errorf("%s: %d, want %d", row.field, row.got, row.want)
		}
	}
	if r.Uid == nil || sum.Uid != nil {
		t.Errorf("owners %v and, of a sum, %v", r.Uid, sum.Uid)
	}
	// As it ends: by its own time, not by that of the last dump. Its owner is gone.
	x.table.closed(conn(20, func(s *flowSample) { s.opened, s.ended, s.reorderings = 1000, 30_000_000, 5 }))
	records, _ = x.take()
	if r := records[20]; r.GetDurationMs() != 29 || r.GetUid() != 33 || r.GetReorderings() != 0 {
		t.Errorf("ended: %v", r)
	}
	// Nobody knows since when, or not yet.
	x.dump(conn(40, func(s *flowSample) { s.opened = 0 }), conn(42, func(s *flowSample) { s.state, s.opened = tcpSynSent, 0 }))
	records, _ = x.take()
	if len(records) != 2 || records[40].GetDurationMs() != 0 || records[42].GetDurationMs() != 0 || records[40].Uid == nil || records[40].GetUid() != 0 {
		t.Errorf("%v", records)
	}
}

// Item 9 of the patent's table 2: how the congestion window changed from one interval
// to the next, and of a service how many of its connections have less than before.
func TestTableCwndDelta(t *testing.T) {
	x := newTableScript(t, 100, enough, trackAll)
	at := func(cookie, cwnd uint64) *flowSample {
		return conn(cookie, func(s *flowSample) { s.cwnd = cwnd })
	}
	want := func(what string, sum, shrunk int64, of map[uint64]int64) {
		t.Helper()
		records, service := x.take()
		for cookie, delta := range of {
			if got := records[cookie].GetCwndDeltaBytes(); got != delta {
				t.Errorf("%s: window of %d changed by %d, want %d", what, cookie, got, delta)
			}
		}
		if service.GetCwndDeltaBytes() != sum || service.GetShrunkFlows() != uint64(shrunk) || len(records) != len(of) {
			t.Errorf("%s: %v, want %d in all and %d less than before", what, service, sum, shrunk)
		}
	}
	x.dump()
	x.dump(at(20, 14480), at(22, 14480), conn(24, func(s *flowSample) { s.state, s.opened, s.cwnd = tcpSynSent, 0, 1448 }))
	x.dump(at(20, 28960), at(22, 10000), conn(24, func(s *flowSample) { s.cwnd = 14480 }))
	want("new, since they were first seen", 14480-4480, 1, map[uint64]int64{20: 14480, 22: -4480, 24: 0})
	x.dump(at(20, 60000), at(22, 1448), at(24, 14480))
	x.dump(at(20, 20000), at(22, 20000), at(24, 14480))
	want("since the interval before, whatever was between", 1040, 1, map[uint64]int64{20: -8960, 22: 10000, 24: 0})
	x.dump()
	x.table.closed(at(22, 5000))
	want("as one ended, and one without news", -15000, 1, map[uint64]int64{20: 0, 22: -15000, 24: 0})
}

// A record says of how many connections it is one: without it nobody could tell a
// sample from all there are.
func TestTableTellsTheSample(t *testing.T) {
	for _, of := range []agentconfig.Sampling{{}, {N: 1, M: 4}, {N: 2, M: 8}} {
		s := trackAll
		s.Sample = of
		x := newTableScript(t, 1000, tableLimits{records: 1000, services: 10}, s)
		x.dump()
		var all []*flowSample
		for cookie := range uint64(200) {
			all = append(all, conn(cookie+20, nil))
		}
		x.dump(all...)
		x.take() // new ones are listed all
		x.dump(all...)
		records, sum := x.take()
		want := max(1, of.M/max(1, of.N))
		if len(records) == 0 || want > 1 && len(records) > 100 || want == 1 && len(records) != 200 {
			t.Errorf("%v: %d of 200 listed", of, len(records))
		}
		for _, r := range records {
			if max(1, r.GetSampledOf()) != uint64(want) {
				t.Fatalf("%v: %v, want one of %d", of, r, want)
			}
		}
		if sum.GetSampledOf() != 0 {
			t.Errorf("%v: a sum is of all connections: %v", of, sum)
		}
	}
}
