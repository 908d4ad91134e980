package hostagent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api/agentconfig"
	"decaf/api/decafpb"

	"google.golang.org/protobuf/proto"

	"golang.org/x/sys/unix"
)

// tableScript plays samples to a flowTable with tables and shows what an
// interval's end gives.
type tableScript struct {
	t     *testing.T
	table *flowTable
	now   uint64
}

func newTableScript(t *testing.T, flows int, l tableLimits, s tableSettings) *tableScript {
	tables := newTables(l, s)
	return &tableScript{t: t, table: newFlowTable(flowLimits{flows: flows, rows: 100}, tables)}
}

var trackAll = tableSettings{Tracking: true, Interval: 30 * time.Second}

var enough = tableLimits{records: 100, services: 100}

// conn is an outbound connection to port 80+cookie%2 of 10.0.0.2, opened at the
// time its cookie says.
func conn(cookie uint64, change func(*flowSample)) *flowSample {
	s := &flowSample{
		cookie: cookie, state: tcpEstablished,
		connStory: connStory{opened: cookie * 100, process: "curl"},
		src:       netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(40000+cookie)),
		dst:       netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(80+cookie%2)),
		cwnd:      10, rwnd: 20, rtt: 100,
	}
	if change != nil {
		change(s)
	}
	return s
}

func (x *tableScript) dump(samples ...*flowSample) {
	x.now += 1000
	x.table.beginDump(x.now)
	for _, s := range samples {
		x.table.live(s)
	}
	x.table.endDump(dumpAll)
}

// end is an interval's end: "7 new", "7 closed 104", and sums as
// "10.0.0.2:80 3 flows 1 new 1 closed 1 terminated 0 failed".
func (x *tableScript) end() (out []string) {
	x.table.tables.take(1, 2, x.table.flows, func(r *decafpb.FlowRecord) {
		if r.GetFlows() > 0 {
			f := r.GetFlow()
			out = append(out, fmt.Sprintf("service %d>%d: %d flows %d new %d closed %d terminated %d failed", f.GetSrcPort(), f.GetDstPort(),
				r.GetFlows(), r.GetNewFlows(), r.GetClosedFlows(), r.GetTerminatedFlows(), r.GetFailedFlows()))
			return
		}
		text := fmt.Sprintf("%d %s", r.GetCookie(), strings.ToLower(strings.TrimPrefix(r.GetState().String(), "STATE_")))
		if r.GetError() != 0 {
			text += fmt.Sprintf(" %d", r.GetError())
		}
		if !r.GetActive() {
			text += " inactive"
		}
		out = append(out, text)
	})
	return out
}

func (x *tableScript) want(what string, want ...string) {
	x.t.Helper()
	if got := x.end(); !slices.Equal(got, want) {
		x.t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// The states of a connection, interval by interval; keep-alives alone leave it
// inactive; the closed table is empty after it was sent.
func TestTableStates(t *testing.T) {
	x := newTableScript(t, 100, enough, trackAll)
	x.dump() // the agent begins
	sent := func(n uint64) func(*flowSample) {
		return func(s *flowSample) { s.packets, s.bytes, s.posted = uint32(n), n*100, n*100 }
	}
	x.dump(conn(20, sent(1)))
	x.want("opened", "20 new", "service 0>80: 1 flows 1 new 0 closed 0 terminated 0 failed")
	x.dump(conn(20, sent(2)))
	x.want("sends", "20 open", "service 0>80: 1 flows 0 new 0 closed 0 terminated 0 failed")
	x.dump(conn(20, sent(2))) // a keep-alive is no data
	x.want("kept alive", "20 open inactive", "service 0>80: 1 flows 0 new 0 closed 0 terminated 0 failed")
	x.table.closed(conn(20, sent(3)))
	x.table.closed(conn(31, func(s *flowSample) { s.err, s.resetsReceived = int32(unix.ECONNRESET), 1 })) // came and went
	x.table.closed(conn(33, func(s *flowSample) { s.state, s.opened, s.err = tcpSynSent, 0, int32(unix.ETIMEDOUT) }))
	x.table.closed(conn(35, func(s *flowSample) { s.state, s.opened = tcpSynSent, 0 }))
	x.table.closed(conn(37, func(s *flowSample) { s.state, s.opened, s.retransmits = tcpSynSent, 0, 1 }))
	x.dump(conn(39, func(s *flowSample) { s.state, s.opened = tcpSynSent, 0 }))
	x.want("ends", "20 closed", "31 terminated 104 inactive", "33 failed 110 inactive", "35 closed inactive", "37 failed inactive",
		"39 new inactive",
		"service 0>80: 1 flows 0 new 1 closed 0 terminated 0 failed", "service 0>81: 5 flows 1 new 1 closed 1 terminated 2 failed")
	x.dump(conn(39, nil))
	x.want("the attempt succeeds", "39 new inactive", "service 0>81: 1 flows 1 new 0 closed 0 terminated 0 failed")
	x.dump()
	x.dump()
	x.want("gone without a word", "39 unspecified inactive", "service 0>81: 1 flows 0 new 0 closed 0 terminated 0 failed")
	x.want("nothing")
}

// A connection that was open before the agent began counts from then on, and is
// one that came in where somebody listens.
func TestTableBefore(t *testing.T) {
	x := newTableScript(t, 100, enough, trackAll)
	listen := conn(1, func(s *flowSample) {
		s.state, s.src = tcpListen, netip.MustParseAddrPort("0.0.0.0:443")
		s.dst = netip.MustParseAddrPort("0.0.0.0:0")
	})
	old := func(n uint64) *flowSample {
		return conn(2, func(s *flowSample) {
			s.opened, s.received, s.read = 0, n, n/2
			s.src = netip.MustParseAddrPort("10.0.0.1:443")
		})
	}
	x.dump(listen, old(5000))
	x.dump(listen, old(5100))
	var r *decafpb.FlowRecord
	var sum *decafpb.FlowRecord
	x.table.tables.take(1, 2, x.table.flows, func(m *decafpb.FlowRecord) {
		if m.GetFlows() == 0 {
			r = proto.CloneOf(m)
		} else {
			sum = proto.CloneOf(m)
		}
	})
	if r.GetBytesReceived() != 100 || r.GetBytesRead() != 50 || !r.GetInbound() || r.GetState() != decafpb.FlowRecord_STATE_OPEN || !r.GetActive() {
		t.Errorf("%v", r)
	}
	if sum.GetFlow().GetSrcPort() != 443 || sum.GetFlow().GetDstPort() != 0 || !sum.GetInbound() || sum.GetNewFlows() != 0 {
		t.Errorf("%v", sum)
	}
}

// A full table moves inactive connections out first, to the closed table; with
// none, a new one is ignored and counted.
func TestTableEviction(t *testing.T) {
	x := newTableScript(t, 2, enough, trackAll)
	x.dump()
	busy := func(cookie, n uint64) *flowSample {
		return conn(cookie, func(s *flowSample) { s.packets, s.bytes = uint32(n), n*10 })
	}
	x.dump(busy(20, 1), busy(21, 1))
	x.dump(busy(20, 2), busy(21, 2), busy(30, 1))
	if n := x.table.stats.ignored; n != 1 {
		t.Errorf("%d ignored with all active, want the new one", n)
	}
	x.end()
	x.dump(busy(20, 3), busy(21, 2))
	// It receives, though it sends nothing: it is active.
	reads := func(n uint64) *flowSample { s := busy(20, 3); s.received = n; return s }
	x.dump(reads(10), busy(21, 2), busy(40, 1))
	x.want("one made room", "21 open inactive", "40 new", "20 open",
		"service 0>80: 2 flows 1 new 0 closed 0 terminated 0 failed", "service 0>81: 1 flows 0 new 0 closed 0 terminated 0 failed")
	if x.table.stats.evicted != 1 || x.table.stats.ignored != 1 {
		t.Errorf("%+v", x.table.stats)
	}
}

// Sampling leaves out connections of which there is nothing to say but that they
// go on; new, closed, terminated and failed ones are listed whatever it says,
// and sums count all.
func TestTableSamplingKeepsStateChanges(t *testing.T) {
	s := trackAll
	s.Sample = agentconfig.Sampling{N: 1, M: 1_000_000}
	x := newTableScript(t, 1000, tableLimits{records: 10_000, services: 10}, s)
	x.dump()
	var all []*flowSample
	for i := range uint64(200) {
		all = append(all, conn(100+i, nil))
	}
	x.now = 10_000
	x.dump(all...)
	if got := x.end(); len(got) != 202 || !strings.HasSuffix(got[0], "new inactive") {
		t.Errorf("%d records, first %q: want all new ones and two sums", len(got), got[0])
	}
	x.dump(all...)
	x.want("they go on", "service 0>80: 100 flows 0 new 0 closed 0 terminated 0 failed", "service 0>81: 100 flows 0 new 0 closed 0 terminated 0 failed")
	for i, c := range all {
		if i%2 == 0 {
			c.err = int32(unix.ECONNRESET)
		}
		x.table.closed(c)
	}
	got := x.end()
	if len(got) != 202 || !strings.Contains(got[0], "terminated") || !strings.Contains(got[1], "closed") {
		t.Errorf("%d records: %q…", len(got), got[:2])
	}
	if x.table.tables.stats.unsampled != 200 {
		t.Errorf("%+v", x.table.tables.stats)
	}
}

// What filters leave out is in no record and no sum, but in the rows; settings
// change from one interval to the next.
func TestTableFiltersAndSettings(t *testing.T) {
	x := newTableScript(t, 100, enough, trackAll)
	x.dump()
	send := func(n uint64) []*flowSample {
		return []*flowSample{
			conn(20, func(s *flowSample) { s.packets, s.bytes = uint32(n), n }),
			conn(21, func(s *flowSample) { s.packets, s.bytes = uint32(n), n }),
		}
	}
	adopt := func(only, ignore string, tracking bool) {
		t.Helper()
		var o agentconfig.Settings
		o.Tracking = &tracking
		for key, v := range map[string]string{"only": only, "ignore": ignore} {
			if err := o.Set(key, v); err != nil {
				t.Fatal(err)
			}
		}
		x.table.tables.adopt(trackAll.with(o), x.table.flows)
	}
	adopt("", ":81", true)
	x.dump(send(1)...)
	x.want("ignored", "20 new", "service 0>80: 1 flows 1 new 0 closed 0 terminated 0 failed")
	adopt("10.0.0.0/24:81", "", true)
	x.dump(send(2)...)
	x.want("only", "21 open", "service 0>81: 1 flows 0 new 0 closed 0 terminated 0 failed")
	adopt("", "", false)
	x.dump(send(3)...)
	x.want("off")
	adopt("", "", true)
	x.dump(send(4)...)
	var packets uint64
	x.table.tables.take(1, 2, x.table.flows, func(r *decafpb.FlowRecord) { packets += r.GetPackets() })
	if packets != 0 {
		t.Errorf("%d packets of before it tracked again", packets)
	}
	x.dump(send(6)...)
	x.want("on again", "20 open", "21 open",
		"service 0>80: 1 flows 0 new 0 closed 0 terminated 0 failed", "service 0>81: 1 flows 0 new 0 closed 0 terminated 0 failed")
	rows := uint64(0)
	x.table.take(1, 2, func(r *decafpb.FlowRecord) { rows += r.GetPackets() })
	if rows != 12 {
		t.Errorf("%d packets in rows, want all 12", rows)
	}
}

// What finds no room is counted, and in the sums all the same.
func TestTableBounds(t *testing.T) {
	x := newTableScript(t, 100, tableLimits{records: 3, services: 1}, trackAll)
	x.dump()
	x.now = 5000
	for i := range uint64(5) {
		x.table.closed(conn(60+2*i, nil))
	}
	x.dump(conn(80, nil), conn(81, nil))
	x.want("full", "60 closed inactive", "62 closed inactive", "64 closed inactive", "service 0>80: 6 flows 6 new 5 closed 0 terminated 0 failed")
	if s := x.table.tables.stats; s.closedLeftOut != 2 || s.recordsLeftOut != 2 || s.servicesLeftOut != 1 || s.records != 3 {
		t.Errorf("%+v", s)
	}
}

// The mean is of all samples, the maximum also of what events showed in between;
// a window that closed counts as long as it did; counts that begin anew do not
// go backwards.
func TestTableTelemetry(t *testing.T) {
	x := newTableScript(t, 100, enough, trackAll)
	x.dump()
	at := func(rtt, peak time.Duration, cwnd uint64, held time.Duration, reductions uint32, sent uint64) *flowSample {
		return conn(20, func(s *flowSample) {
			s.rtt, s.peakRTT, s.cwnd, s.held, s.reductions, s.bytes, s.packets = rtt, peak, cwnd, held, reductions, sent, uint32(sent)
		})
	}
	x.dump(at(100, 0, 1000, 0, 0, 10))
	x.dump(at(300, 900, 3000, 50, 2, 20))
	x.dump(at(200, 0, 2000, 70, 3, 5)) // its owner connected it anew
	var r *decafpb.FlowRecord
	x.table.tables.take(1, 2, x.table.flows, func(m *decafpb.FlowRecord) {
		if m.GetFlows() == 0 {
			r = proto.CloneOf(m)
		}
	})
	if r.GetRttMeanNs() != 200 || r.GetRttMaxNs() != 900 || r.GetCwndMeanBytes() != 2000 || r.GetZeroWindowNs() != 120 ||
		r.GetCwndReductions() != 5 || r.GetBytesSent() != 25 || r.GetPackets() != 25 || r.GetProcess() != "curl" {
		t.Errorf("%v", r)
	}
}

// In the sums of a service are the round trips of connections that sent nothing again
// lately: until a loss is repaired one takes as long as that does.
func TestServiceRTTLeavesOutRepairs(t *testing.T) {
	x := newTableScript(t, 100, enough, trackAll)
	x.dump()
	at := func(cookie uint64, rtt time.Duration, retransmits uint32) *flowSample {
		return conn(cookie, func(s *flowSample) { s.rtt, s.retransmits = rtt, retransmits })
	}
	want := func(what string, mean uint64, flows uint64) {
		t.Helper()
		x.table.tables.take(1, 2, x.table.flows, func(r *decafpb.FlowRecord) {
			if r.GetFlows() > 0 && (r.GetRttMeanNs() != mean || r.GetFlows() != flows) {
				t.Errorf("%s: mean %d of %d, want %d of %d", what, r.GetRttMeanNs(), r.GetFlows(), mean, flows)
			}
		})
	}
	x.dump(at(20, 100, 0), at(22, 200, 0))
	want("nothing lost", 150, 2)
	x.dump(at(20, 100, 0), at(22, 9000, 1))
	want("one repaired", 100, 2)
	x.dump(at(20, 100, 0), at(22, 5000, 1))
	want("one repaired in the interval before", 100, 2)
	x.dump(at(20, 100, 0), at(22, 200, 1))
	want("repaired long ago", 150, 2)
}

// Dumps that do not show a connection would have shown it as it was: they count in
// the means, until it is shown again, ends, or the interval does.
func TestTableQuiet(t *testing.T) {
	x := newTableScript(t, 100, enough, trackAll)
	x.dump()
	news := func(samples ...*flowSample) {
		x.now += 1000
		x.table.beginDump(x.now)
		for _, s := range samples {
			x.table.live(s)
		}
		x.table.endDump(dumpListed)
	}
	at := func(rtt, peak time.Duration, cwnd, rwnd uint64) *flowSample {
		return conn(20, func(s *flowSample) { s.rtt, s.peakRTT, s.cwnd, s.rwnd = rtt, peak, cwnd, rwnd })
	}
	want := func(what string, mean, highest, cwnd, rwnd uint64) {
		t.Helper()
		var r *decafpb.FlowRecord
		x.table.tables.take(1, 2, x.table.flows, func(m *decafpb.FlowRecord) {
			if m.GetFlows() == 0 {
				r = proto.CloneOf(m)
			}
		})
		if r.GetRttMeanNs() != mean || r.GetRttMaxNs() != highest || r.GetCwndMeanBytes() != cwnd || r.GetRwndMeanBytes() != rwnd {
			t.Errorf("%s: %v, want RTT %d and %d, windows %d and %d", what, r, mean, highest, cwnd, rwnd)
		}
	}
	x.dump(at(100, 0, 1000, 500))
	news()
	news()
	news(at(500, 700, 2000, 1500))
	want("shown first and last of four", 200, 700, 1250, 750)
	news()
	news()
	want("not shown at all", 500, 500, 2000, 1500)
	news()
	x.dump(at(200, 0, 2000, 1500))
	news()
	x.table.closed(at(600, 0, 4000, 1500))
	want("ends", (500+200+200+600)/4, 600, 2500, 1500)
}

// An interval is as long as it was, whatever the wall clock did meanwhile.
func TestStartOf(t *testing.T) {
	const s = int64(time.Second)
	f := func(start, end int64, took time.Duration, want int64) {
		t.Helper()
		if got := startOf(start, end, took); got != want || end-got < 0 {
			t.Errorf("%d to %d, took %v: began at %d, want %d", start, end, took, got, want)
		}
	}
	f(100*s, 105*s, 5*time.Second, 100*s)
	f(100*s, 105*s, 5*time.Second+time.Microsecond, 100*s) // slewed: no hole
	f(100*s, 40*s, 5*time.Second, 35*s)                    // set back
	f(100*s, 3705*s, 5*time.Second, 3700*s)                // set forward an hour
}
