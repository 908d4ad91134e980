package serve

import (
	"time"

	"decaf/topology"
)

// settling decides when what surveys show takes the place of the topology in use. Pure.
type settling struct {
	Quiet   time.Duration // it must have been the same for so long
	Longest time.Duration // but is taken after this, though it changes on and on
	Pace    time.Duration // between two, at least; see rarest

	pending      *topology.Topology // what was shown last; nil: what is in use
	begun, since time.Time          // when something else was shown first, and when this
	taken        time.Time          // when one was taken last
	wait         time.Duration      // before the next
}

// rarest is how many times Pace lies between two at most. Each waits twice as long as
// the one before, until for twice that time none came: to take one up costs reading
// evidence anew, and hosts may come and go all day.
const rarest = 10

// see takes what is shown at a moment, and says whether it is now to be used.
func (s *settling) see(now time.Time, inUse, shown *topology.Topology) bool {
	switch {
	case shown.Equal(inUse):
		s.pending = nil
		return false
	case s.pending == nil:
		s.pending, s.begun, s.since = shown, now, now
	case !shown.Equal(s.pending):
		s.pending, s.since = shown, now
	}
	if now.Sub(s.since) < s.Quiet && now.Sub(s.begun) < s.Longest {
		return false
	}
	if !s.taken.IsZero() && now.Sub(s.taken) < s.wait {
		return false
	}
	s.wait = min(2*s.wait, rarest*s.Pace)
	if s.taken.IsZero() || now.Sub(s.taken) >= 2*rarest*s.Pace {
		s.wait = s.Pace
	}
	s.pending, s.taken = nil, now
	return true
}
