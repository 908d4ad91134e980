package hostagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"

	"decaf/api/packet"

	"golang.org/x/sys/unix"
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

// ringOf is a buffer that holds records of a tracepoint, of 8 bytes each: when, and
// a number.
func ringOf(records ...[2]uint64) *perfRing {
	ne := binary.NativeEndian
	r := &perfRing{meta: new(unix.PerfEventMmapPage), data: make([]byte, 4096)}
	for _, x := range records {
		b := r.data[r.meta.Data_head:]
		ne.PutUint32(b, perfRecordSample)
		ne.PutUint16(b[6:], 32)
		ne.PutUint64(b[8:], x[0])
		ne.PutUint32(b[16:], 8)
		ne.PutUint64(b[20:], x[1])
		r.meta.Data_head += 32
	}
	return r
}

// A connect call times out on one CPU, and its socket is closed on another, whose
// buffer is read first: how it ended is known all the same. What was written since
// the reading began comes with the next.
func TestEndsComeInOrderOfTime(t *testing.T) {
	flow := endFlow(1)
	hints := []hint{
		{sort: hintClosed, flow: flow, sock: 7, state: tcpSynSent},
		{sort: hintError, flow: flow, err: int32(unix.ETIMEDOUT)},
		{sort: hintGone, sock: 7, cookie: 70},
	}
	for name, c := range map[string]struct {
		rings perfRings
		began []uint64
		known []bool // after each drain
	}{
		"all before":          {perfRings{ringOf([2]uint64{12, 2}), ringOf([2]uint64{10, 0}, [2]uint64{11, 1})}, []uint64{12}, []bool{true}},
		"at the same moment":  {perfRings{ringOf([2]uint64{10, 0}), ringOf([2]uint64{10, 1}, [2]uint64{10, 2})}, []uint64{10}, []bool{true}},
		"the end comes later": {perfRings{ringOf([2]uint64{12, 2}), ringOf([2]uint64{10, 0}, [2]uint64{11, 1})}, []uint64{11, 12}, []bool{false, true}},
		"all come later":      {perfRings{ringOf([2]uint64{12, 2}), ringOf([2]uint64{10, 0}, [2]uint64{11, 1})}, []uint64{9, 9, 13}, []bool{false, false, true}},
	} {
		var now uint64
		e := endRings{perfRings: c.rings, now: func() (uint64, error) { return now, nil }, take: func(at uint64, b []byte, each func(hint), _ func(error)) {
			h := hints[binary.NativeEndian.Uint64(b)]
			h.at = at
			each(h)
		}}
		n := newEndings(100)
		for i, began := range c.began {
			now = began
			e.drain(n.add, func(n uint64) { t.Errorf("%s: %d lost", name, n) }, func(err error) { t.Errorf("%s: %v", name, err) })
			if _, known := n.byCookie[70]; known != c.known[i] {
				t.Errorf("%s: known by its cookie %v after drain %d, want %v", name, known, i, c.known[i])
			}
		}
		// Its owner's connect call had the kernel wipe its addresses.
		s := flowSample{cookie: 70, state: tcpSynSent, ended: now}
		got := n.take(&s)
		if got == nil {
			t.Errorf("%s: nothing is known", name)
			continue
		}
		if got.tell(&s); s.flow() != flow || s.state != tcpSynSent || s.err != int32(unix.ETIMEDOUT) {
			t.Errorf("%s: %v in state %d with error %d", name, s.flow(), s.state, s.err)
		}
		if len(e.waiting) != 0 {
			t.Errorf("%s: %d wait", name, len(e.waiting))
		}
	}
}

// Without a clock what was read is handed on, and not kept.
func TestEndsWithoutAClock(t *testing.T) {
	var told, broken int
	e := endRings{
		perfRings: perfRings{ringOf([2]uint64{12, 0}, [2]uint64{10, 0})},
		now:       func() (uint64, error) { return 0, errors.New("no clock") },
		take:      func(at uint64, _ []byte, each func(hint), _ func(error)) { each(hint{at: at}) },
	}
	e.drain(func(hint) { told++ }, nil, func(error) { broken++ })
	if told != 2 || broken != 1 || len(e.waiting) != 0 {
		t.Errorf("%d told, %d errors, %d wait", told, broken, len(e.waiting))
	}
}

// What cannot be opened to the end gives nothing that would be closed once more: the
// descriptors are somebody else's by then.
func TestHalfOpenedIsClosedOnce(t *testing.T) {
	needKernel(t)
	none := []*classic{{sort: hintGone, id: math.MaxUint16, size: 16}}
	if h, err := newTracepointHints(none); err == nil || h != nil {
		t.Errorf("%v, %v, want an error and nothing else", h, err)
	}
	for name, open := range map[string]func([]*classic) (endsReader, error){sourceTracepoint: newTracepointEnds, sourcePerf: newPerfEnds} {
		if e, err := open(none); err == nil || e != nil {
			t.Errorf("%s: %v, %v, want an error and nothing else", name, e, err)
		}
	}
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
