package hostagent

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// Each lesser source gives rows and tables too, by sock_diag: what was sent and
// received is what the sockets say, connections that come and go are counted once,
// and one that nobody answered, or that was refused, has failed.
func TestFlowsByLesserSources(t *testing.T) {
	for _, source := range lesser {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			flowsBy(t, source)
		})
	}
}

func flowsBy(t *testing.T, source string) {
	l := newLab(t)
	ln := l.sink(10)
	port := ln.Addr().(*net.TCPAddr).Port
	rec, a, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) {
		c.Source = source
		c.Flows.Interval, c.Tables.Interval = time.Second, 5*time.Minute
	})
	open := l.connect(addrB, false)
	for _, step := range []struct {
		from, to *net.TCPConn
		n        int
	}{{open.client, open.server, 50_000}, {open.server, open.client, 700}} {
		if _, err := step.from.Write(make([]byte, step.n)); err != nil {
			t.Fatal(err)
		}
		if err := read(step.to, step.n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open.server.Write(make([]byte, 300)); err != nil { // not read
		t.Fatal(err)
	}
	until(t, "it has come", func() bool { return tcpInfo(t, open.client).Bytes_received == 1000 })
	const conns = 50
	var want sum
	for range conns {
		want.add(l.talkTo(addrB, port, 3000))
	}
	f := l.drop("eth1")
	if c, err := l.dial(addrB, 2, false, 1500*time.Millisecond); err == nil {
		c.Close()
		t.Fatal("connected through a filter")
	}
	f.remove()
	if c, err := l.dial(addrB, 3, false, time.Second); err == nil {
		c.Close()
		t.Fatal("connected where nobody listens")
	}
	intervals := a.Counters()[countFlowIntervals]
	until(t, "an interval's end", func() bool { return a.Counters()[countFlowIntervals] > intervals+1 })
	info := tcpInfo(t, open.client)
	want.add(info)
	stop()

	r := recordOf(t, rec, open.flow())
	if r.GetBytesSent() != 50_000 || r.GetBytesPosted() != 50_000 || r.GetBytesReceived() != 1000 || r.GetBytesRead() != 700 ||
		r.GetCookie() != open.cookie(t) || r.GetState() != decafpb.FlowRecord_STATE_NEW || r.GetRttMeanNs() == 0 || r.GetCwndMeanBytes() == 0 || r.GetRwndMeanBytes() == 0 {
		t.Errorf("%v", r)
	}
	if r.GetOwnRwndMeanBytes() == 0 || r.GetRttVarNs() != uint64(info.Rttvar)*1000 || r.GetRttMinNs() != uint64(info.Min_rtt)*1000 || r.GetDurationMs() == 0 || r.Uid == nil {
		t.Errorf("%v, the socket says %+v", r, info)
	}
	s := serviceOf(t, rec, port, false)
	if s.GetFlows() != conns || s.GetClosedFlows() != conns || s.GetNewFlows() != conns || s.GetBytesSent() != conns*3000 {
		t.Errorf("%v", s)
	}
	if s := serviceOf(t, rec, 2, false); s.GetFailedFlows() != 1 || s.GetNewFlows() != 0 {
		t.Errorf("unanswered: %v", s)
	}
	if s := serviceOf(t, rec, 3, false); s.GetFailedFlows() != 1 || s.GetNewFlows() != 0 {
		t.Errorf("refused: %v", s)
	}
	// Rows are as with programs, but for the SYNs sent again.
	rows := sum{}
	for _, r := range rec.flows() {
		f, err := packet.FlowFromPB(r.GetFlow())
		if err != nil {
			t.Fatal(err)
		}
		if r.GetFlows() > 0 && f.Src.Port() == 0 && f.Dst.Port() == 0 && f.Dst.Addr() == netip.MustParseAddr(addrB) {
			rows.packets += r.GetPackets()
			rows.bytes += r.GetBytesSent()
		}
	}
	if want.retransmits == 0 && (rows.packets != want.packets || rows.bytes != want.bytes) {
		t.Errorf("rows %+v, the sockets say %+v", rows, want)
	}
	if n := a.Counters(); n[countFlowBroken]+n[countFlowLost]+n[countFlowDumpFailed] != 0 {
		t.Errorf("%v", n)
	}
}
