package device

import (
	"maps"
	"slices"
	"time"
)

// level is what the fuse allows.
type level uint8

const (
	full           level = iota
	sampled              // one event in sampleOf
	aggregatesOnly       // no events
	countersOnly         // nor aggregates
	off                  // nothing is counted by class
)

// sampleOf: while sampled, one drop in so many has its event.
const sampleOf = 16

func (l level) String() string {
	return [...]string{"full", "sampled", "aggregates", "counters", "off"}[l]
}

const (
	// tripAfter is how many looks in a row a budget must be exceeded: one is a
	// blip. A load of runaway times its budget is none.
	tripAfter = 2
	runaway   = 4.0
	// calmShare is the share of every budget that the load must stay under
	// before the fuse steps back.
	calmShare = 0.7
	// worthIt is how many drops, or events, a class must have made since the last
	// look to be what exceeds a budget.
	worthIt = 100
	// forgive: who held for so many times its back-off starts over with the
	// shortest.
	forgive = 4
)

// budget is what the agent may take.
type budget struct {
	cpu     float64       // cores
	memory  float64       // bytes
	events  float64       // per second
	queue   float64       // share of its room, 0 to 1
	backOff time.Duration // before the first step back
	longest time.Duration // the back-off doubles up to this
}

// load is what the agent took since the last look, in the units of budget.
type load struct {
	cpu, memory, events, queue float64
	drops                      map[string]uint64 // handled, by class
	told                       map[string]uint64 // events sent, by class
}

// step is one change of what the fuse allows.
type step struct {
	class    string // "" is the whole agent
	from, to level
	cause    string // of a step down: cpu, memory, events, queue; of one back: healed
	measured float64
	limit    float64
}

// fuse keeps the agent from harming what it watches: while the load is above a
// budget it allows less, step by step, and when it was well below for a while it
// allows more again. It steps down for the class that makes the most work, so
// that a flood in one does not silence the others; only when no class makes much,
// for the whole agent. A step back that fails soon doubles the time until the
// next. It does no I/O and is not safe for concurrent use.
type fuse struct {
	budget  budget
	wires   map[string]*wire // by class; "" is the whole agent. Bounded by the classes there are.
	over    int              // looks in a row above a budget
	calm    time.Time        // since when the load is low; zero when it is not
	tripped []string         // the order of the steps down: the last is the first to come back
}

// wire is the fuse of one class.
type wire struct {
	level   level
	backOff time.Duration
	moved   time.Time // its last step
	raised  bool      // which was one back
}

func newFuse(b budget) *fuse { return &fuse{budget: b, wires: map[string]*wire{}} }

// allows tells what is allowed of a class.
func (f *fuse) allows(class string) level {
	l := full
	for _, name := range [...]string{"", class} {
		if w := f.wires[name]; w != nil {
			l = max(l, w.level)
		}
	}
	return l
}

// blown tells whether somebody is allowed less than all.
func (f *fuse) blown() bool { return len(f.tripped) > 0 }

// look compares a load with the budgets and returns the step taken, nil for
// none.
func (f *fuse) look(now time.Time, l load) *step {
	f.stepped(now)
	cause, measured, limit, share := f.tightest(l)
	switch {
	case share > 1:
		f.calm = time.Time{}
		if f.over++; f.over < tripAfter && share < runaway {
			return nil
		}
		f.over = 0
		return f.down(now, f.victim(l, cause), cause, measured, limit)
	case share >= calmShare:
		f.over, f.calm = 0, time.Time{}
		return nil
	}
	f.over = 0
	if f.calm.IsZero() {
		f.calm = now
	}
	return f.back(now, share)
}

// stepped has waits begin anew when the clock stepped back, or they would last
// for as long as it did.
func (f *fuse) stepped(now time.Time) {
	if f.calm.After(now) {
		f.calm = now
	}
	for _, w := range f.wires {
		if w.moved.After(now) {
			w.moved = now
		}
	}
}

// tightest returns the budget of which the largest share is used.
func (f *fuse) tightest(l load) (cause string, measured, limit, share float64) {
	b := &f.budget
	for _, r := range [...]struct {
		cause           string
		measured, limit float64
	}{{"cpu", l.cpu, b.cpu}, {"memory", l.memory, b.memory}, {"events", l.events, b.events}, {"queue", l.queue, b.queue}} {
		if s := r.measured / r.limit; s > share || cause == "" {
			cause, measured, limit, share = r.cause, r.measured, r.limit, s
		}
	}
	return cause, measured, limit, share
}

// victim is the class that makes the most of such a load and can be allowed
// less; "" when no class makes enough of it to be worth it.
func (f *fuse) victim(l load, cause string) string {
	work, floor := l.drops, off
	if cause == "events" {
		work, floor = l.told, aggregatesOnly // to allow less than that makes no fewer events
	}
	best, most := "", uint64(worthIt-1)
	for _, class := range slices.Sorted(maps.Keys(work)) {
		if n := work[class]; n > most && f.allows(class) < floor {
			best, most = class, n
		}
	}
	return best
}

func (f *fuse) down(now time.Time, class, cause string, measured, limit float64) *step {
	w := f.wires[class]
	if w == nil {
		w = &wire{backOff: f.budget.backOff}
		f.wires[class] = w
	}
	if w.level == off {
		return nil // there is nothing left to save
	}
	switch held := now.Sub(w.moved); {
	case w.moved.IsZero() || held > forgive*w.backOff:
		w.backOff = f.budget.backOff
	case w.raised:
		w.backOff = min(2*w.backOff, f.budget.longest)
	}
	s := &step{class: class, from: w.level, to: w.level + 1, cause: cause, measured: measured, limit: limit}
	w.level, w.moved, w.raised = s.to, now, false
	f.tripped = append(slices.DeleteFunc(f.tripped, func(c string) bool { return c == class }), class)
	return s
}

// back allows more to who was last allowed less, when the load has been low for
// as long as its back-off.
func (f *fuse) back(now time.Time, share float64) *step {
	// The whole agent first: under it the classes show no load.
	order := []string{""}
	for _, class := range slices.Backward(f.tripped) {
		order = append(order, class)
	}
	for _, class := range order {
		w := f.wires[class]
		if w == nil || w.level == full || now.Sub(f.calm) < w.backOff || now.Sub(w.moved) < w.backOff {
			continue
		}
		s := &step{class: class, from: w.level, to: w.level - 1, cause: "healed", measured: share, limit: calmShare}
		w.level, w.moved, w.raised = s.to, now, true
		if w.level == full {
			f.tripped = slices.DeleteFunc(f.tripped, func(c string) bool { return c == class })
		}
		return s
	}
	return nil
}
