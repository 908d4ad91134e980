package hostagent

import (
	"fmt"
	"sync"
	"testing"

	"decaf/api/packet"
)

// hintsOf runs a hinter until the test ends and counts what it tells, by flow.
func hintsOf(t *testing.T, open func() (hinter, error)) func(packet.Flow) int {
	t.Helper()
	h, err := open()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	of := map[packet.Flow]int{}
	done := make(chan error, 1)
	go func() {
		done <- h.run(func(x hint) {
			mu.Lock()
			defer mu.Unlock()
			of[x.flow]++
		}, func(n uint64) { t.Errorf("%d hints found no room", n) }, func(err error) { t.Error(err) })
	}()
	t.Cleanup(func() {
		h.stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		h.Close()
	})
	return func(f packet.Flow) int {
		mu.Lock()
		defer mu.Unlock()
		return of[f]
	}
}

// Each event of the tracepoint is seen, the first as soon as any other.
func TestPerfSeesEveryEvent(t *testing.T) {
	testHints(t, openPerf)
}

// A program on the tracepoint hides no event from perf: neither from this
// agent's, nor from that of others on the machine.
func TestProgramsHideNothingFromPerf(t *testing.T) {
	testHints(t, openPerf, openTracepoints)
}

// testHints has hinters watch a probe and a timeout of one connection after the
// other.
func testHints(t *testing.T, open ...func() (hinter, error)) {
	l := newLab(t)
	var seen []func(packet.Flow) int
	for _, o := range open {
		seen = append(seen, hintsOf(t, o))
	}
	for range 20 {
		p := l.connect(addrB, false)
		f := l.drop("eth1")
		before := l.a.retransSegs(t)
		if _, err := p.client.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		until(t, "probe and timeout", func() bool { return l.a.retransSegs(t) >= before+2 })
		f.remove()
		for i, of := range seen {
			until(t, fmt.Sprintf("hinter %d sees them", i), func() bool { return of(p.flow()) >= 2 })
		}
		// Or the next filter would have this connection send again as well.
		until(t, "everything is acknowledged", func() bool { return unacked(t, p.client) == 0 })
		p.client.Close()
		p.server.Close()
	}
}
