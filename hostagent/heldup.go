package hostagent

import (
	"slices"
	"time"

	"decaf/api/decafpb"
)

// What other ends' closed windows hold up is told before the tables' interval ends:
// a host whose processes do not read is named by it, and an interval may be long. What
// was told is in no later record. A connection that goes on is told of once: its
// interval is cut in two, and what follows waits for the end. Sums of a service may be
// several. All of them begin with the interval, since of a connection that ends they
// have what it did from then on; their times overlap, what they tell does not. A
// connection that goes on is in flows of two of them at most: that which told it, and
// that in which it ends or that of the interval's end.
const (
	heldEvery = time.Second            // how often it is told; of connections that go on after each dump
	heldLeast = 100 * time.Millisecond // of a service since it was last told of, or a connection that goes on
	heldMost  = 256                    // of each sort at a time; more wait for the next
)

// tidings are what is told ahead, by tables.
type tidings struct {
	services []serviceKey   // to be told of
	conns    []*entryOfFlow // likewise, that go on, or went on when they were seen
	sums     int            // told of in this interval
	// connsUntil says until when it was told of connections in this interval, ns UTC,
	// by cookie.
	connsUntil map[uint64]int64
}

// clear is after all was told of.
func (e *tidings) clear() {
	clear(e.conns)
	e.services, e.conns = e.services[:0], e.conns[:0]
	clear(e.connsUntil)
	e.sums = 0
}

// waits takes a connection that goes on and was held up, unless it was told of or there
// are enough of them.
func (e *tidings) waits(c *entryOfFlow, l tableLimits) {
	if _, told := e.connsUntil[c.cookie]; !told && len(e.conns) < l.records {
		e.conns = append(e.conns, c)
	}
}

// connFrom is when that begins which is not told yet, of an interval of a connection:
// its start where that is not in the interval, for the clock may have been set
// meanwhile.
func (e *tidings) connFrom(cookie uint64, start, end int64) int64 {
	if at, told := e.connsUntil[cookie]; told && at >= start && at <= end {
		return at
	}
	return start
}

// tellHeld hands out records of what was held up in the interval that began at start
// and goes on at now, both ns UTC. flows are those of the flow table. Half of the
// connections for which there is room, and as many sums as are kept, may be told of
// ahead. A record is publish's until that returns.
func (t *tables) tellHeld(start, now int64, flows map[uint64]flowState, publish func(*decafpb.FlowRecord)) {
	n, told := 0, 0
	for ; n < len(t.early.conns) && told < heldMost && 2*len(t.early.connsUntil) < t.limits.records; n++ {
		e := t.early.conns[n]
		if flows[e.cookie].entry != e || e.untracked {
			continue // it has ended, and is in its service's sum
		}
		told++
		t.open(e, start, now, publish)
		if t.early.connsUntil == nil {
			t.early.connsUntil = make(map[uint64]int64)
		}
		t.early.connsUntil[e.cookie] = now
	}
	t.early.conns = slices.Delete(t.early.conns, 0, n)

	n = 0
	for ; n < min(len(t.early.services), heldMost) && t.early.sums < t.limits.services; n++ {
		k := t.early.services[n]
		t.service(k, start, now, publish)
		delete(t.services, k)
		t.early.sums++
	}
	t.early.services = slices.Delete(t.early.services, 0, n)
}
