package device

import (
	"time"

	"decaf/api/packet"
)

// sighting names a packet, as far as its headers can.
type sighting struct {
	flow packet.Flow
	ipID uint32
	seq  uint32 // of TCP
}

func sightingOf(o observed) (sighting, bool) {
	p := o.event.GetPacket()
	f, err := packet.FlowFromPB(p.GetFlow())
	return sighting{flow: f, ipID: p.GetIpId(), seq: p.GetTcpSeq()}, err == nil
}

// part is what a source has to do with the event of a packet.
type part uint8

const (
	tells part = iota // makes an event at once
	waits             // makes an event, in a while: another source may name it
	names             // makes none, and names the one that waits
)

// duplicates makes one event of a packet that two sources saw. What one source
// tells twice are two packets (a retransmission, a burst of the same), so
// sightings are paired, each with one of the other source.
//
// A source may know less or more than the others. The firewall's log names the
// rule and cannot say whether the packet was dropped in the end; the kernel's
// drop is certain and does not know the rule. So the first never makes an event
// alone, and the second is held for a short while for its name, whichever comes
// first.
//
// It does no I/O and is not safe for concurrent use. Times are when events were
// received, of a clock that does not jump.
type duplicates struct {
	window   time.Duration // two sightings of one packet are no further apart
	patience time.Duration // how long an event is held; at most window
	most     int           // sightings that are remembered
	give     func(observed)

	order   []*sighted // oldest first; from first on
	first   int
	waiting int                 // in order: before it nothing is held
	byKey   map[sighting]*alike // those in order

	merged  uint64 // sightings of a packet seen before
	alone   uint64 // names whose packet no other source told of
	crowded uint64 // sightings forgotten early, for want of room
}

type sighted struct {
	key    sighting
	at     time.Time
	source uint8 // that told first
	part   part
	held   bool
	event  observed // while held
}

// alike are the sightings of one key. A source's are paired in order, so the
// next to pair only moves on: a flood of packets that cannot be told apart
// costs no more than any other.
type alike struct {
	list []*sighted // oldest first
	gone int        // that were in front of them
	next [8]int     // by source: the first it may be paired with, of all there were
}

// pair finds the oldest sighting of another source that this one has no part in
// yet.
func (a *alike) pair(source uint8) *sighted {
	at := max(a.next[source], a.gone)
	for ; at-a.gone < len(a.list); at++ {
		if s := a.list[at-a.gone]; s.source != source {
			a.next[source] = at + 1
			return s
		}
	}
	a.next[source] = at
	return nil
}

func newDuplicates(window, patience time.Duration, most int, give func(observed)) *duplicates {
	return &duplicates{window: window, patience: min(patience, window), most: max(1, most), give: give, byKey: map[sighting]*alike{}}
}

// take takes an event in and gives on what is due. source is 0 to 7.
func (d *duplicates) take(now time.Time, source uint8, o observed, p part) {
	d.due(now)
	key, ok := sightingOf(o)
	if !ok { // nothing to know it by
		if p == names {
			d.alone++
		} else {
			d.give(o)
		}
		return
	}
	source &= 7
	if a := d.byKey[key]; a != nil {
		if s := a.pair(source); s != nil {
			d.merged++
			switch {
			case s.held && s.part == waits && p == names:
				d.named(s, s.event, o)
			case s.held && s.part == names && p != names:
				d.named(s, o, s.event)
			}
			return
		}
	}
	if len(d.order)-d.first >= d.most {
		d.crowded++
		d.forget()
	}
	s := &sighted{key: key, at: now, source: source, part: p, held: p != tells}
	if s.held {
		s.event = o
	}
	d.order = append(d.order, s)
	a := d.byKey[key]
	if a == nil {
		a = &alike{}
		d.byKey[key] = a
	}
	a.list = append(a.list, s)
	if !s.held {
		d.give(o)
	}
}

// named gives on an event with the reason and class of its name.
func (d *duplicates) named(s *sighted, o, name observed) {
	s.held, s.event = false, observed{}
	o.event.Source, o.event.Reason, o.event.Class = name.event.Source, name.event.Reason, name.event.Class
	o.known = name.known
	d.give(o)
}

// due gives on what was held long enough, and forgets what no other source will
// tell of any more. Call it at the time that next says.
func (d *duplicates) due(now time.Time) {
	for d.first < len(d.order) && now.Sub(d.order[d.first].at) > d.window {
		d.forget()
	}
	for at, ok := d.next(); ok && !now.Before(at); at, ok = d.next() {
		d.release(d.order[d.waiting])
	}
}

// next says when an event that is held is due; false when none is.
func (d *duplicates) next() (time.Time, bool) {
	for d.waiting = max(d.waiting, d.first); d.waiting < len(d.order); d.waiting++ {
		if s := d.order[d.waiting]; s.held && s.part == waits {
			return s.at.Add(d.patience), true
		}
	}
	return time.Time{}, false
}

// flush gives on all that is held: no more comes.
func (d *duplicates) flush() {
	for d.first < len(d.order) {
		d.forget()
	}
}

// release ends the holding of a sighting.
func (d *duplicates) release(s *sighted) {
	if !s.held {
		return
	}
	o := s.event
	s.held, s.event = false, observed{}
	if s.part == names {
		d.alone++
	} else {
		d.give(o)
	}
}

// forget drops the oldest sighting.
func (d *duplicates) forget() {
	s := d.order[d.first]
	d.order[d.first] = nil
	d.first++
	// Among those of its key it is the oldest too.
	a := d.byKey[s.key]
	a.list[0] = nil
	a.list = a.list[1:]
	a.gone++
	if len(a.list) == 0 {
		delete(d.byKey, s.key)
	}
	if d.first*2 >= len(d.order) { // move down only as much as was dropped
		n := copy(d.order, d.order[d.first:])
		clear(d.order[n:])
		d.waiting = max(0, d.waiting-d.first)
		d.order, d.first = d.order[:n], 0
	}
	d.release(s)
}
