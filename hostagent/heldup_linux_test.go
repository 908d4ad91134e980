package hostagent

import (
	"io"
	"testing"
	"time"

	"decaf/api/decafpb"
)

// What a closed window holds up is told long before the tables' interval ends, while
// the connection goes on and once it is over, and all of it once: in the records of
// the connection as in the sums of its service, as much as the socket says.
func TestHeldUpIsToldBeforeTheIntervalEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	rec, _, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) {
		c.Flows.Interval, c.Tables.Interval = time.Second, 5*time.Minute
	})
	const bytes = 3 << 20
	p := l.connect(addrB, false)
	p.server.SetReadBuffer(4096)
	done := make(chan error, 1)
	go func() {
		_, err := p.client.Write(make([]byte, bytes))
		done <- err
	}()
	// heldUp are the records that say so: of the connection, or of its service.
	heldUp := func(service bool) (list []*decafpb.FlowRecord, sent uint64, waited time.Duration) {
		for _, r := range rec.flows() {
			if (r.GetFlows() > 0) != service || r.GetFlow().GetDstPort() != uint32(p.flow().Dst.Port()) {
				continue
			}
			sent, waited = sent+r.GetBytesSent(), waited+time.Duration(r.GetZeroWindowNs())
			if r.GetZeroWindowNs() > 0 {
				list = append(list, r)
			}
		}
		return list, sent, waited
	}
	for _, service := range []bool{false, true} {
		until(t, "a record of what waits", func() bool { _, _, waited := heldUp(service); return waited >= heldLeast })
	}
	go io.Copy(io.Discard, p.server)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	until(t, "all arrived", func() bool { i := tcpInfo(t, p.client); return i.Unacked == 0 && i.Notsent_bytes == 0 })
	limited := rwndLimited(t, p.client)
	stop()
	for _, service := range []bool{false, true} {
		list, sent, waited := heldUp(service)
		if sent != bytes || max(waited-limited, limited-waited) > 20*time.Millisecond {
			t.Errorf("of services %v: %d bytes sent, held up for %v, want %d and %v", service, sent, waited, bytes, limited)
		}
		for i, r := range list {
			if r.GetEndNs() <= r.GetStartNs() {
				t.Errorf("%v ends before it begins", r)
			}
			if i > 0 && !service && r.GetStartNs() < list[i-1].GetEndNs() {
				t.Errorf("%v begins before the one before it ends: %v", r, list[i-1])
			}
		}
	}
}
