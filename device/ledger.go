package device

import (
	"maps"
	"slices"
	"sync"

	"decaf/api/decafpb"
	"decaf/api/yang"
)

// ledger numbers what is reported, each kind by itself, and counts the drops by
// class. It does no I/O.
type ledger struct {
	mu           sync.Mutex
	producer     string
	bootID       uint64
	seq          uint64 // of events
	aggregates   uint64
	transitions  uint64
	routes       uint64 // route events, and those that the fuse did not let through
	routesHeld   uint64
	classes      map[string]*yang.ClassCounters // bounded: by the classes there are
	queued       uint64                         // packets of no-buffer that counters of interfaces and queues show
	ignored      uint64                         // seen here, and no loss
	unclassified uint64
}

func newLedger(producer string, bootID uint64) *ledger {
	return &ledger{producer: producer, bootID: bootID, classes: map[string]*yang.ClassCounters{}}
}

// count counts drops that have all that d says in common, and its packets and bytes
// together.
func (l *ledger) count(d *drop, drops uint64, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.class(d.class)
	c.Packets += d.packets
	c.Bytes += d.bytes
	if d.class == NoBuffer && shownByCounters(d.reason) {
		l.queued += d.packets
	}
	if !known {
		l.unclassified += drops
	}
}

// enter gives an event its origin, and counts it.
func (l *ledger) enter(ev *decafpb.DropEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	ev.Origin = l.origin(l.seq)
	l.class(ev.Class).Events++
}

// enterAggregate gives a loss aggregate its origin.
func (l *ledger) enterAggregate(a *decafpb.LossAggregate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.aggregates++
	a.Origin = l.origin(l.aggregates)
}

// enterRoute gives a route event its origin.
func (l *ledger) enterRoute(ev *decafpb.RouteEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.routes++
	ev.Origin = l.origin(l.routes)
}

// holdRoute counts a route event that the fuse did not let through.
func (l *ledger) holdRoute() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.routesHeld++
}

// enterTransition numbers a transition.
func (l *ledger) enterTransition(t *yang.Transition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.transitions++
	t.Sequence, t.BootID = l.transitions, l.bootID
}

func (l *ledger) origin(seq uint64) *decafpb.Origin {
	return &decafpb.Origin{Producer: l.producer, BootId: l.bootID, Seq: seq}
}

func (l *ledger) class(name string) *yang.ClassCounters {
	c := l.classes[name]
	if c == nil {
		c = &yang.ClassCounters{Name: name}
		l.classes[name] = c
	}
	return c
}

// ignore counts what was freed and is no loss.
func (l *ledger) ignore(drops uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ignored += drops
}

// totals are the ledger's counters at one moment.
type totals struct {
	classes                    []yang.ClassCounters // by name
	seq, ignored, unclassified uint64
	queued                     uint64
	aggregates, transitions    uint64
	routes, routesHeld         uint64
}

func (l *ledger) totals() totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := totals{seq: l.seq, queued: l.queued, ignored: l.ignored, unclassified: l.unclassified, aggregates: l.aggregates, transitions: l.transitions, routes: l.routes, routesHeld: l.routesHeld}
	for _, name := range slices.Sorted(maps.Keys(l.classes)) {
		t.classes = append(t.classes, *l.classes[name])
	}
	return t
}
