package hostagent

import (
	"fmt"
	"sync"
	"testing"

	"decaf/api/packet"
)

// hintsOf runs a hinter until the test ends and counts what it tells, by flow, and
// with it what it says it lost.
func hintsOf(t *testing.T, open func() (hinter, error)) (of func(packet.Flow) int, lost func() int) {
	t.Helper()
	h, err := open()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	told, missed := map[packet.Flow]int{}, 0
	done := make(chan error, 1)
	go func() {
		done <- h.run(func(x hint) {
			mu.Lock()
			defer mu.Unlock()
			told[x.flow]++
		}, func(n uint64) {
			mu.Lock()
			defer mu.Unlock()
			missed += int(n)
		}, func(err error) { t.Error(err) })
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
			return told[f]
		}, func() int {
			mu.Lock()
			defer mu.Unlock()
			return missed
		}
}

// Each event of the tracepoint is seen, or counted as lost.
func TestPerfMissesNothingUncounted(t *testing.T) {
	testHints(t, openPerf)
}

// A program on the tracepoint hides no event from perf: neither from this
// agent's, nor from that of others on the machine.
func TestProgramsHideNothingFromPerf(t *testing.T) {
	testHints(t, openPerf, openTracepoints)
}

// testHints has hinters watch a probe and a timeout of one connection after the
// other. Only perf may lose any.
func testHints(t *testing.T, open ...func() (hinter, error)) {
	l := newLab(t)
	type watch struct {
		of     func(packet.Flow) int
		lost   func() int
		before int // lost
	}
	var watches []watch
	for _, o := range open {
		of, lost := hintsOf(t, o)
		watches = append(watches, watch{of: of, lost: lost})
	}
	lost := 0
	for range 5 {
		p := l.connect(addrB, false)
		f := l.drop("eth1")
		before := l.a.retransSegs(t)
		if _, err := p.client.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		until(t, "probe and timeout", func() bool { return l.a.retransSegs(t) >= before+2 })
		f.remove()
		for i := range watches {
			w := &watches[i]
			until(t, fmt.Sprintf("hinter %d tells of them", i), func() bool { return w.of(p.flow())+w.lost()-w.before >= 2 })
		}
		// Or the next filter would have this connection send again as well.
		until(t, "everything is acknowledged", func() bool { return unacked(t, p.client) == 0 })
		p.client.Close()
		p.server.Close()
		for i := range watches {
			w := &watches[i]
			if lost, w.before = lost+w.lost()-w.before, w.lost(); i > 0 && w.before > 0 {
				t.Errorf("programs lost %d events", w.before)
			}
		}
	}
	t.Logf("%d of 10 events and more were counted and not written to perf's buffers", lost)
}
