package correlator

import (
	"slices"
	"unique"
	"unsafe"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// connTable holds what hosts' flow and closed-connection tables say (US 10,778,507,
// tables 1 and 2): each connection by itself, for people to look at. Nothing is
// concluded from it. A second such table holds their sums per service. It knows no
// clock, and holds at most so many bytes: when there are more, those connections go
// first that are of the least interest.
type connTable struct {
	limit, bytes int

	ofCookie map[cookieKey]*heldConn
	ofFlow   map[connFlowKey]*heldConn // of those without a cookie
	lists    [interests]connList
	// slots hold each connection in the place that it was given when it came, so that
	// they can be looked at a part at a time, see [connQuery]; free are those of none.
	slots    []*heldConn
	free     []int32
	arrivals uint64 // how many connections ever came
	stats    connTableStats
}

// connTableStats count what a table did, above all what it left out.
type connTableStats struct {
	records         uint64 // that came
	forgotten       uint64 // connections that made room for others
	troubled        uint64 // of these, with trouble
	held, heldBytes int
}

// cookieKey names a connection: by the cookie of its socket on that host.
type cookieKey struct {
	host   int32 // index in Topology.Hosts
	cookie uint64
}

// connFlowKey names one without, or a service.
type connFlowKey struct {
	host    int32
	inbound bool
	flow    packet.Flow
}

// heldConn is a connection, or a service, and its places in the table.
type heldConn struct {
	toldConn
	prev, next *heldConn // of the same interest, by arrival
	at         interest
	slot       int32
	arrival    uint64 // it was the so-manieth that came, from 1
}

// toldConn is a connection, or a service, as one host tells of it. What is in its
// parts is never changed: a copy of it stays as it was.
type toldConn struct {
	flow    packet.Flow // away from the host
	host    int32
	sampled uint32 // one in so many is listed
	cookie  uint64
	err     int32
	uid     uint32 // whose socket it is, if owned
	owned   bool
	state   uint8 // decafpb.FlowRecord_State, by the newest record
	inbound bool
	active  bool
	over    bool
	born    bool // it was new in the first record that came

	process, container unique.Handle[string]

	last  int64      // the end of the newest part, ns
	parts []connPart // by start, at most maxParts
}

// maxParts bounds the parts of one connection: where there are more, neighbours
// become one. So all of its time is covered, and the latest in detail.
const maxParts = 16

// interest is for how long a connection stays when there are too many: the least
// goes first.
type interest uint8

const (
	interestEnded   interest = iota // quiet and over
	interestIdle                    // nothing moved lately
	interestActive                  // data moves
	interestTrouble                 // retransmits, resets, failures, closed windows
	interests
)

// connList is a list of connections, the one that was told of last at its end.
type connList struct{ first, last *heldConn }

func (l *connList) push(c *heldConn) {
	c.prev, c.next = l.last, nil
	if l.last != nil {
		l.last.next = c
	} else {
		l.first = c
	}
	l.last = c
}

func (l *connList) remove(c *heldConn) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.last = c.prev
	}
	c.prev, c.next = nil, nil
}

// keyBytes is about what a map takes for a connection's key, and its slot: maps are at
// most 7/8 full, half of that after they grew.
const keyBytes = int(unsafe.Sizeof(cookieKey{})+2*unsafe.Sizeof(uintptr(0))) * 3 / 2

// size is what a connection takes of memory, within a tenth.
func (c *heldConn) size() int {
	n := int(unsafe.Sizeof(*c)) + cap(c.parts)*int(unsafe.Sizeof(connPart{})) + keyBytes
	if c.cookie == 0 {
		n += int(unsafe.Sizeof(connFlowKey{})-unsafe.Sizeof(cookieKey{})) * 3 / 2
	}
	return n
}

func newConnTable(limit int) *connTable {
	return &connTable{limit: limit, ofCookie: make(map[cookieKey]*heldConn), ofFlow: make(map[connFlowKey]*heldConn)}
}

// add takes a record of a connection or a service of a host.
func (t *connTable) add(host int32, flow packet.Flow, r *decafpb.FlowRecord) {
	if t.limit <= 0 {
		return
	}
	t.stats.records++
	c := t.find(host, flow, r)
	switch {
	case c == nil:
		c = &heldConn{toldConn: toldConn{flow: flow, host: host, cookie: r.GetCookie(), inbound: r.GetInbound()}}
		c.born = r.GetState() == decafpb.FlowRecord_STATE_NEW || ended(r) && r.GetSampledOf() <= 1
		if c.cookie == 0 {
			t.ofFlow[connFlowKey{host, c.inbound, flow}] = c
		} else {
			t.ofCookie[cookieKey{host, c.cookie}] = c
			// What was told of it without its cookie, this tells again.
			if old := t.ofFlow[connFlowKey{host, c.inbound, flow}]; old != nil {
				t.forget(old)
			}
		}
		t.place(c)
	default:
		t.lists[c.at].remove(c)
		t.bytes -= c.size()
	}
	c.take(r)
	c.at = c.interest()
	t.lists[c.at].push(c)
	t.bytes += c.size()
	for i := 0; t.bytes > t.limit && i < len(t.lists); {
		old := t.lists[i].first
		if old == nil {
			i++
			continue
		}
		t.stats.forgotten++
		t.stats.troubled += uint64(btoi(old.at == interestTrouble))
		t.forget(old)
	}
}

// find gives the connection that a record is of. A cookie that has come to name
// another one, its host having been started anew, finds none.
func (t *connTable) find(host int32, flow packet.Flow, r *decafpb.FlowRecord) *heldConn {
	if r.GetCookie() == 0 {
		return t.ofFlow[connFlowKey{host, r.GetInbound(), flow}]
	}
	c := t.ofCookie[cookieKey{host, r.GetCookie()}]
	if c != nil && c.flow != flow {
		t.forget(c)
		return nil
	}
	return c
}

// place gives a connection that came its slot.
func (t *connTable) place(c *heldConn) {
	t.stats.held++
	t.arrivals++
	c.arrival = t.arrivals
	if n := len(t.free); n > 0 {
		c.slot = t.free[n-1]
		t.slots[c.slot], t.free = c, t.free[:n-1]
		return
	}
	c.slot = int32(len(t.slots))
	t.slots = append(t.slots, c)
}

func (t *connTable) forget(c *heldConn) {
	t.lists[c.at].remove(c)
	t.bytes -= c.size()
	t.stats.held--
	t.slots[c.slot], t.free = nil, append(t.free, c.slot)
	if t.stats.held == 0 {
		t.slots, t.free = nil, nil
	}
	if c.cookie == 0 {
		delete(t.ofFlow, connFlowKey{c.host, c.inbound, c.flow})
	} else {
		delete(t.ofCookie, cookieKey{c.host, c.cookie})
	}
}

// prune forgets what was last told of before a moment, ns. Old words that came late
// go with the newer ones that came before them.
func (t *connTable) prune(old int64) {
	for i := range t.lists {
		for c := t.lists[i].first; c != nil && c.last < old; c = t.lists[i].first {
			t.forget(c)
		}
	}
}

func (t *connTable) statistics() connTableStats {
	st := t.stats
	st.heldBytes = t.bytes
	return st
}

// take adds a record to the connection, and leaves copies of it as they are.
func (c *toldConn) take(r *decafpb.FlowRecord) {
	p := partOf(r)
	if p.end >= c.last || len(c.parts) == 0 {
		c.last = p.end
		c.state, c.err = uint8(r.GetState()), r.GetError()
		c.active, c.over = r.GetActive() || p.packets > 0, ended(r)
		c.sampled = clip32(r.GetSampledOf())
		c.uid, c.owned = r.GetUid(), r.Uid != nil
		c.process, c.container = unique.Make(r.GetProcess()), unique.Make(r.GetContainer())
	}
	if len(c.parts) == maxParts {
		folded := make([]connPart, maxParts/2, maxParts)
		for i := range folded {
			folded[i] = c.parts[2*i]
			folded[i].add(&c.parts[2*i+1], c.rows())
		}
		c.parts = folded
	}
	at := len(c.parts)
	for at > 0 && c.parts[at-1].start > p.start { // late
		at--
	}
	if at < len(c.parts) {
		c.parts = slices.Clip(c.parts) // to insert is to copy
	}
	c.parts = slices.Insert(c.parts, at, p)
}

// rows says that this is a row of loss-free flows to one host, not a service's sum.
func (c *toldConn) rows() bool { return c.flow.Src.Port() == 0 && c.flow.Dst.Port() == 0 }

// ended says of a record whether its connection is over; a service never is.
func ended(r *decafpb.FlowRecord) bool {
	switch r.GetState() {
	case decafpb.FlowRecord_STATE_CLOSED, decafpb.FlowRecord_STATE_TERMINATED, decafpb.FlowRecord_STATE_FAILED:
		return r.GetFlows() == 0
	}
	return false
}

// broken says whether it ended other than both ends wished.
func (c *toldConn) broken() bool {
	return c.state == uint8(decafpb.FlowRecord_STATE_TERMINATED) || c.state == uint8(decafpb.FlowRecord_STATE_FAILED)
}

func (c *toldConn) interest() interest {
	if c.broken() || slices.ContainsFunc(c.parts, func(p connPart) bool { return p.trouble() }) {
		return interestTrouble
	}
	switch {
	case c.over:
		return interestEnded
	case c.active:
		return interestActive
	}
	return interestIdle
}
