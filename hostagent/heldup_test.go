package hostagent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"decaf/api/decafpb"
)

// heldRecord is a record as far as it tells of closed windows: "20 open 10..40 300ms",
// and of a service "80 10..40 3 flows 1 new 2 closed 300ms".
func heldRecord(r *decafpb.FlowRecord) string {
	span, held := fmt.Sprintf("%d..%d", r.GetStartNs(), r.GetEndNs()), time.Duration(r.GetZeroWindowNs())
	if r.GetFlows() > 0 {
		return fmt.Sprintf("%d %s %d flows %d new %d closed %v", r.GetFlow().GetDstPort(), span, r.GetFlows(), r.GetNewFlows(), r.GetClosedFlows(), held)
	}
	return fmt.Sprintf("%d %s %s %v", r.GetCookie(), r.GetState(), span, held)
}

// What is held up is told before the interval's end, and in one record only; what is
// not held up, or hardly, waits.
func TestHeldUpIsToldEarly(t *testing.T) {
	x := newTableScript(t, 100, enough, trackAll)
	tables := x.table.tables
	held := func(cookie uint64, by time.Duration, packets uint32) *flowSample {
		return conn(cookie, func(s *flowSample) { s.held, s.packets, s.bytes = by, packets, uint64(packets) })
	}
	var packets uint64 // of services
	told := func(f func(publish func(*decafpb.FlowRecord)), want ...string) {
		t.Helper()
		var got []string
		f(func(r *decafpb.FlowRecord) {
			got = append(got, heldRecord(r))
			if r.GetFlows() > 0 {
				packets += r.GetPackets()
			}
		})
		if !slices.Equal(got, want) {
			t.Errorf("told\n%q, want\n%q", got, want)
		}
	}
	early := func(now int64, want ...string) {
		t.Helper()
		told(func(publish func(*decafpb.FlowRecord)) { tables.tellHeld(10, now, x.table.flows, publish) }, want...)
	}
	end := func(start, now int64, want ...string) {
		t.Helper()
		told(func(publish func(*decafpb.FlowRecord)) { tables.take(start, now, x.table.flows, publish) }, want...)
	}
	x.dump()
	x.now = 5000
	x.table.closed(held(60, 40*time.Millisecond, 1))
	x.table.closed(held(61, 90*time.Millisecond, 1))
	early(20)
	x.table.closed(held(62, 70*time.Millisecond, 1))
	early(30, "80 10..30 2 flows 2 new 2 closed 110ms")
	early(40)
	x.table.closed(held(64, 0, 1))
	x.table.closed(held(66, 200*time.Millisecond, 1))
	early(50, "80 10..50 2 flows 2 new 2 closed 200ms")
	x.table.closed(held(68, 99*time.Millisecond, 1))
	x.dump(held(70, 150*time.Millisecond, 1), held(72, 50*time.Millisecond, 1), held(74, 300*time.Millisecond, 1))
	x.table.closed(held(74, 310*time.Millisecond, 2)) // is in its service's sum
	early(60, "70 STATE_NEW 10..60 150ms", "80 10..60 3 flows 3 new 2 closed 559ms")
	early(70)
	x.dump(held(70, 400*time.Millisecond, 3), held(72, 60*time.Millisecond, 1))
	early(80) // a connection that goes on once: it is in flows of the end's sum too
	end(10, 100,
		"60 STATE_CLOSED 10..100 40ms", "61 STATE_CLOSED 10..100 90ms", "62 STATE_CLOSED 10..100 70ms", "64 STATE_CLOSED 10..100 0s",
		"66 STATE_CLOSED 10..100 200ms", "68 STATE_CLOSED 10..100 99ms", "74 STATE_CLOSED 10..100 310ms",
		"72 STATE_NEW 10..100 60ms", "70 STATE_OPEN 60..100 250ms",
		"80 10..100 2 flows 1 new 0 closed 310ms", "81 10..100 1 flows 1 new 1 closed 90ms")
	if packets != 12 {
		t.Errorf("%d packets in sums, want all 12 once", packets)
	}
	// The next interval begins with nothing told; in it the clock is set back.
	x.table.closed(held(70, 550*time.Millisecond, 3))
	told(func(publish func(*decafpb.FlowRecord)) { tables.tellHeld(100, 120, x.table.flows, publish) }, "80 100..120 1 flows 0 new 1 closed 150ms")
	x.table.closed(held(72, 160*time.Millisecond, 1))
	end(50, 70, "70 STATE_CLOSED 50..70 150ms", "72 STATE_CLOSED 50..70 100ms", "80 50..70 1 flows 0 new 1 closed 100ms")
}

// However much is held up: so many records at a time, none twice, half of all there is
// room for, and the rest is told of at the interval's end.
func TestHeldUpIsBounded(t *testing.T) {
	const n = heldMost + 50
	x := newTableScript(t, 2*n, tableLimits{records: 2 * (heldMost + 20), services: heldMost + 30}, trackAll)
	x.dump()
	var samples []*flowSample
	for i := range uint64(n) {
		samples = append(samples, conn(20+i, func(s *flowSample) {
			s.held, s.packets, s.dst = time.Second, 1, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(1000+i))
		}))
	}
	x.dump(samples...)
	var records, services uint64
	look := func(wantRecords, wantServices uint64) {
		t.Helper()
		records, services = 0, 0
		x.table.tables.tellHeld(1, 2, x.table.flows, func(r *decafpb.FlowRecord) {
			records += uint64(btoi(r.GetFlows() == 0))
			services += uint64(btoi(r.GetFlows() > 0))
		})
		if records != wantRecords || services != wantServices {
			t.Errorf("%d records, %d services, want %d and %d", records, services, wantRecords, wantServices)
		}
	}
	look(heldMost, heldMost)
	look(20, 20)
	look(0, 0)
	s := x.table.tables.stats
	if s.records != heldMost+20 || s.services != heldMost+20 {
		t.Errorf("%+v", s)
	}
	flows := uint64(0)
	x.table.tables.take(1, 3, x.table.flows, func(r *decafpb.FlowRecord) {
		if r.GetFlows() > 0 && r.GetZeroWindowNs() > 0 {
			flows += r.GetFlows()
		}
	})
	if flows != n-heldMost-20 {
		t.Errorf("%d flows told of as held up at the end, want the other %d", flows, n-heldMost-20)
	}
}

// However often a service is held up: so many sums ahead, and all of it in one.
func TestHeldUpServicesAreBounded(t *testing.T) {
	const limit = 3
	x := newTableScript(t, 100, tableLimits{records: 100, services: limit}, trackAll)
	x.dump()
	x.now = 5000
	var early, flows uint64
	count := func(r *decafpb.FlowRecord) { flows += r.GetFlows() }
	for i := range uint64(2 * limit) {
		x.table.closed(conn(60+2*i, func(s *flowSample) { s.held = time.Second }))
		x.table.tables.tellHeld(10, int64(20+i), x.table.flows, func(r *decafpb.FlowRecord) { early++; count(r) })
	}
	x.table.tables.take(10, 100, x.table.flows, count)
	if early != limit || flows != 2*limit {
		t.Errorf("%d sums told ahead, %d connections in all of them, want %d and %d", early, flows, limit, 2*limit)
	}
}

// Connections that wait to be told of, while there is no room for any, are bounded.
func TestHeldUpConnectionsThatWaitAreBounded(t *testing.T) {
	const limit = 10
	x := newTableScript(t, 100, tableLimits{records: limit, services: 100}, trackAll)
	x.dump()
	var samples []*flowSample
	for i := range uint64(3) {
		for k := range uint64(limit) {
			samples = append(samples, conn(20+limit*i+k, func(s *flowSample) { s.held = time.Second }))
		}
		x.dump(samples...)
		if n := len(x.table.tables.early.conns); n > limit {
			t.Fatalf("%d wait, with room for %d", n, limit)
		}
	}
	told := 0
	x.table.tables.tellHeld(10, 20, x.table.flows, func(r *decafpb.FlowRecord) { told += btoi(r.GetFlows() == 0) })
	if told != limit/2 {
		t.Errorf("told of %d, want half of the %d there is room for", told, limit)
	}
}
