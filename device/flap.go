package device

import (
	"container/list"
	"net/netip"
	"time"
)

// flapKey names what changes: a prefix of a routing table, or a neighbour on an
// interface.
type flapKey struct {
	prefix netip.Prefix
	table  uint32
	index  uint32
}

// flaps finds prefixes that change again and again: times changes within window.
// One that flaps is told of once in each window for as long as it does, and flaps
// no more when a window has seen half as many changes or fewer. It does no I/O,
// the time is a parameter (a clock that steps back makes it forget what it knew of
// the prefix), and it is not safe for concurrent use.
type flaps struct {
	times  int
	window time.Duration
	most   int // prefixes remembered

	known     map[flapKey]*list.Element
	order     *list.List // of *flap, the one that changed last in front
	flapping  int
	forgotten uint64 // prefixes, for want of room
}

// flap is what is remembered of one prefix.
type flap struct {
	key      flapKey
	changes  []time.Time // the latest ones, oldest first; at most as many as make a flap
	flapping bool
	begun    time.Time // of the window that is counted while it flaps
	seen     int       // changes in it
}

// maxFlaps bounds the prefixes that are remembered.
const maxFlaps = 8192

func newFlaps(times int, window time.Duration, most int) *flaps {
	return &flaps{times: max(times, 2), window: window, most: max(most, 1), known: map[flapKey]*list.Element{}, order: list.New()}
}

// change takes in a change. It returns how many there were within the window when
// that is to be told, else 0.
func (f *flaps) change(now time.Time, key flapKey) int {
	e := f.known[key]
	if e == nil {
		if len(f.known) >= f.most {
			f.drop(f.order.Back())
			f.forgotten++
		}
		e = f.order.PushFront(&flap{key: key})
		f.known[key] = e
	}
	f.order.MoveToFront(e)
	p := e.Value.(*flap)
	if n := len(p.changes); n > 0 && now.Before(p.changes[n-1]) {
		p.changes, p.begun, p.seen = p.changes[:0], now, 0
	}
	if len(p.changes) == f.times {
		p.changes = append(p.changes[:0], p.changes[1:]...)
	}
	p.changes = append(p.changes, now)
	if p.flapping {
		p.seen++
		return 0 // tick tells
	}
	if len(p.changes) < f.times || now.Sub(p.changes[0]) > f.window {
		return 0
	}
	p.flapping, p.begun, p.seen = true, now, 0
	f.flapping++
	return len(p.changes)
}

// still is a prefix that a window of flapping has passed of.
type still struct {
	key     flapKey
	changes int  // in it
	ended   bool // it flaps no more
}

// tick lets time pass, and forgets prefixes that have not changed for a window.
func (f *flaps) tick(now time.Time) []still {
	var out []still
	for e := f.order.Back(); e != nil; {
		p, before := e.Value.(*flap), e.Prev()
		switch {
		case p.flapping && now.Before(p.begun): // the clock stepped back
			p.begun = now
		case p.flapping && now.Sub(p.begun) >= f.window:
			s := still{key: p.key, changes: p.seen, ended: 2*p.seen <= f.times}
			out = append(out, s)
			p.begun, p.seen = now, 0
			if s.ended {
				p.flapping, p.changes = false, p.changes[:0]
				f.flapping--
				f.drop(e)
			}
		case !p.flapping && now.Sub(p.changes[len(p.changes)-1]) > f.window:
			f.drop(e)
		}
		e = before
	}
	return out
}

func (f *flaps) drop(e *list.Element) {
	p := e.Value.(*flap)
	if p.flapping {
		f.flapping--
	}
	delete(f.known, p.key)
	f.order.Remove(e)
}
