package device

import (
	"maps"
	"slices"
	"sync"

	"decaf/api/decafpb"
	"decaf/api/yang"
)

// ledger numbers the events and counts the drops by class. It does no I/O.
type ledger struct {
	mu           sync.Mutex
	producer     string
	bootID       uint64
	seq          uint64
	classes      map[string]*yang.ClassCounters // bounded: by the classes there are
	ignored      uint64                         // seen here, and no loss
	unclassified uint64
}

func newLedger(producer string, bootID uint64) *ledger {
	return &ledger{producer: producer, bootID: bootID, classes: map[string]*yang.ClassCounters{}}
}

// enter counts an event, which stands for so many packets on the wire of so
// many bytes together, and gives it its origin.
func (l *ledger) enter(ev *decafpb.DropEvent, packets, bytes uint64, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	ev.Origin = &decafpb.Origin{Producer: l.producer, BootId: l.bootID, Seq: l.seq}
	c := l.classes[ev.Class]
	if c == nil {
		c = &yang.ClassCounters{Name: ev.Class}
		l.classes[ev.Class] = c
	}
	c.Packets += packets
	c.Bytes += bytes
	c.Events++
	if !known {
		l.unclassified++
	}
}

// ignore counts what was freed and is no loss.
func (l *ledger) ignore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ignored++
}

// totals are the ledger's counters at one moment.
type totals struct {
	classes                    []yang.ClassCounters // by name
	seq, ignored, unclassified uint64
}

func (l *ledger) totals() totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := totals{seq: l.seq, ignored: l.ignored, unclassified: l.unclassified}
	for _, name := range slices.Sorted(maps.Keys(l.classes)) {
		t.classes = append(t.classes, *l.classes[name])
	}
	return t
}
