package hostagent

import (
	"slices"
	"time"

	"decaf/api/decafpb"
)

// What other ends' closed windows hold up is told before the tables' interval ends:
// a host whose processes do not read is named by it, and an interval may be long. The
// interval of such a service, or connection, is cut in two: what was told is in no
// later record, and the next one begins where it ended.
const (
	heldEvery = time.Second            // how often it is told
	heldLeast = 100 * time.Millisecond // of a service, or a connection that goes on, since it was last told of
	heldMost  = 256                    // of each sort at a time; more wait for the next
)

// tidings are what is told ahead, by tables.
type tidings struct {
	services []serviceKey   // to be told of
	conns    []*entryOfFlow // likewise, that go on, or went on when they were seen
	// Until when it was told of these in this interval, ns UTC.
	servicesUntil map[serviceKey]int64
	connsUntil    map[uint64]int64 // by cookie
}

// clear is after all was told of.
func (e *tidings) clear() {
	clear(e.conns)
	e.services, e.conns = e.services[:0], e.conns[:0]
	clear(e.servicesUntil)
	clear(e.connsUntil)
}

// serviceFrom is when that begins which is not told yet, of an interval.
func (e *tidings) serviceFrom(k serviceKey, start, end int64) int64 {
	if len(e.servicesUntil) == 0 {
		return start
	}
	return within(e.servicesUntil[k], start, end)
}

// connFrom is the same of a connection.
func (e *tidings) connFrom(cookie uint64, start, end int64) int64 {
	if len(e.connsUntil) == 0 {
		return start
	}
	return within(e.connsUntil[cookie], start, end)
}

// within is at, or start where that is not in the interval: the clock may have been
// set meanwhile.
func within(at, start, end int64) int64 {
	if at < start || at > end {
		return start
	}
	return at
}

// tellHeld hands out records of what was held up in the interval that began at start
// and goes on at now, both ns UTC. flows are those of the flow table. A record is
// publish's until that returns.
func (t *tables) tellHeld(start, now int64, flows map[uint64]flowState, publish func(*decafpb.FlowRecord)) {
	n, told := 0, 0
	for ; n < len(t.early.conns) && told < heldMost && t.left > 0; n++ {
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
	for ; n < min(len(t.early.services), heldMost) && len(t.early.servicesUntil) < t.limits.services; n++ {
		k := t.early.services[n]
		t.service(k, start, now, publish)
		delete(t.services, k)
		if t.early.servicesUntil == nil {
			t.early.servicesUntil = make(map[serviceKey]int64)
		}
		t.early.servicesUntil[k] = now
	}
	t.early.services = slices.Delete(t.early.services, 0, n)
}
