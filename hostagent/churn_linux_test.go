package hostagent

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
)

// totals of the sums per service, and how many connections were listed.
func totals(records []*decafpb.FlowRecord) (flows, created, closed, other, listed uint64) {
	for _, r := range records {
		switch {
		case r.GetCookie() != 0:
			listed++
		case r.GetFlow().GetSrcPort() != 0 || r.GetFlow().GetDstPort() != 0:
			flows += r.GetFlows()
			created += r.GetNewFlows()
			closed += r.GetClosedFlows()
			other += r.GetTerminatedFlows() + r.GetFailedFlows()
		}
	}
	return flows, created, closed, other, listed
}

// Thousands of connections a second, far above 50,000 a minute, opened and
// closed: at both ends each is opened and closed once, none is lost, and the
// tables are empty afterwards.
func TestTableChurn(t *testing.T) {
	l := newTableLab(t)
	ln := l.sink(10)
	port := ln.Addr().(*net.TCPAddr).Port
	const conns = 6000
	began := time.Now()
	var wg sync.WaitGroup
	work := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for range work {
				c, err := l.open(addrB, port)
				if err != nil {
					t.Error(err)
					continue
				}
				if _, err := talk(c, 100); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range conns {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	took := time.Since(began)
	until(t, "the server's ends are closed", func() bool {
		return l.established(t) == 0
	})
	l.stop()
	for _, end := range []struct {
		name string
		rec  *recorder
	}{{"client", l.a}, {"server", l.b}} {
		flows, created, closed, other, listed := totals(end.rec.flows())
		if flows != conns || created != conns || closed != conns || other != 0 || listed != conns {
			t.Errorf("%s: %d flows, %d new, %d closed, %d otherwise, %d listed; want %d each and none otherwise", end.name, flows, created, closed, other, listed, conns)
		}
	}
	t.Logf("%d connections in %v, %.0f a minute", conns, took, conns/took.Minutes())
}

// open connects from a; the caller closes.
func (l *lab) open(to string, port int) (*net.TCPConn, error) {
	var c net.Conn
	err := l.a.do(func() (err error) {
		c, err = net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(to), Port: port})
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// established counts the connections of b that are not closed at this end.
func (l *lab) established(t *testing.T) (n int) {
	t.Helper()
	if err := l.b.do(func() error {
		for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(b)) {
				// The fourth word is the state: 06 TIME_WAIT, 0A LISTEN.
				if w := strings.Fields(line); w[3] != "06" && w[3] != "0A" && w[3] != "st" {
					n++
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// Connections of a namespace named beside the agent's own are tracked too, from
// the time it is there; one that goes leaves nothing behind and stops nothing.
func TestTablesOfOtherNamespaces(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	name := filepath.Join(t.TempDir(), "web") // as ip netns add makes one
	rec, a, stop := l.watchWith(l.r, tracerFunc(complete), func(c *Config) {
		c.Namespaces = []string{name, "/run/netns/decaf-test-nowhere"}
		c.Flows.Interval, c.Tables.Interval, c.Heartbeat = 200*time.Millisecond, time.Second, 200*time.Millisecond
	})
	if err := os.Symlink(l.a.file(), name); err != nil {
		t.Fatal(err)
	}
	intervals := func(n uint64) {
		t.Helper()
		to := a.Counters()[countFlowIntervals] + n
		until(t, "intervals", func() bool { return a.Counters()[countFlowIntervals] >= to })
	}
	intervals(2) // it follows with the heartbeat
	until(t, "the namespace is followed", func() bool { return a.Counters()[countHeartbeats] >= 3 })
	p := l.connect(addrB, false)
	if _, err := p.client.Write(make([]byte, 1234)); err != nil {
		t.Fatal(err)
	}
	if err := read(p.server, 1234); err != nil {
		t.Fatal(err)
	}
	intervals(2)
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	until(t, "nothing shows the namespace any more", func() bool { return a.Counters()[countFlowsVanished] > 0 })
	n := a.Counters()
	stop()
	var sent uint64
	for _, r := range rec.flows() {
		if r.GetCookie() == p.cookie(t) {
			sent += r.GetBytesSent()
		}
	}
	if sent != 1234 || n[countFlowDumpFailed] != 0 {
		t.Errorf("%d bytes recorded, want 1234; %v", sent, n)
	}
}
