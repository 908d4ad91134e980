package device

import (
	"maps"
	"slices"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"
)

// maxRepeated bounds the flows that are remembered of one de-duplicated class;
// a flow takes some 300 bytes.
const maxRepeated = 16384

// reporter decides what is told of each drop: it holds, per class, the threshold
// and the de-duplication, and the aggregates and the fuse over all. Transitions
// gather in it until they are taken out.
//
// It does no I/O and is not safe for concurrent use.
type reporter struct {
	settings   func(class string) classSettings
	classes    map[string]*classReport // bounded by the classes there are
	aggregates *aggregates
	fuse       *fuse

	only        func(now time.Time) bool // events are for drops that match a filter; nil is never
	source      repeating                // holds back drops of flows; nil is none
	transitions []transitionAt
	uncounted   uint64 // drops while the fuse was off for their class; what the source left out with the whole agent off is not known
}

// transitionAt is a transition and when it happened; sequence and boot id are
// still to come.
type transitionAt struct {
	at time.Time
	yang.Transition
}

// classReport is what is reported of one class.
type classReport struct {
	classSettings
	gate       *gate
	repetition *repetition // nil: not de-duplicated
	suppressed yang.Suppressed
	drops      uint64 // handled; the fuse samples by it
	forgotten  uint64 // flows, by de-duplication as it was set before
	// since the fuse last looked
	handled, told uint64
}

// decision is what is to be done about a drop.
type decision struct {
	count   bool   // in the counters of its class
	report  bool   // as an event
	repeats uint64 // packets of its flow before it that the event stands for too
}

func newReporter(settings func(string) classSettings, a *aggregates, f *fuse) *reporter {
	return &reporter{settings: settings, classes: map[string]*classReport{}, aggregates: a, fuse: f}
}

func (r *reporter) class(name string) *classReport {
	c := r.classes[name]
	if c == nil {
		s := r.settings(name)
		c = &classReport{classSettings: s, gate: &gate{threshold: s.Threshold, burst: s.Burst, hold: s.Hold}}
		if s.Deduplicate > 0 {
			c.repetition = r.newRepetition(name, s.Deduplicate)
		}
		r.classes[name] = c
	}
	return c
}

// newRepetition returns that of a class.
func (r *reporter) newRepetition(class string, every time.Duration) *repetition {
	out := newRepetition(every, maxRepeated)
	if r.source != nil {
		out.beyond = func(now time.Time, f packet.Flow) (time.Time, uint64, bool) { return r.source.repeated(now, class, f) }
		out.forget = func(f packet.Flow) { r.source.forget(class, f) }
	}
	return out
}

// take decides about a drop.
func (r *reporter) take(now time.Time, d *drop) decision {
	c := r.class(d.class)
	c.drops++
	c.handled++
	allowed := r.fuse.allows(d.class)
	switch {
	case allowed == off:
		r.uncounted++
		return decision{}
	case c.Ignore && d.filter == "":
		return decision{count: true}
	}
	o, repeats := r.outcome(now, c, d, allowed)
	if o == reported {
		c.told++
	} else {
		suppress(&c.suppressed, o, 1)
	}
	if allowed < countersOnly && !c.Ignore {
		r.aggregates.add(now, c.Interval, d, o)
	}
	return decision{count: true, report: o == reported, repeats: repeats}
}

// outcome tells what becomes of the event of a drop. The threshold is held
// against the events that there would be, so it comes after the de-duplication;
// the fuse comes last, so that what it holds back does not look like a lower
// rate.
func (r *reporter) outcome(now time.Time, c *classReport, d *drop, allowed level) (outcome, uint64) {
	fused := allowed >= aggregatesOnly || allowed == sampled && c.drops%sampleOf != 0
	if d.filter != "" { // a planned test asks for each of them
		if fused {
			return overFuse, 0
		}
		return reported, 0
	}
	deduplicated := c.repetition != nil && d.flow != (packet.Flow{})
	repeats := uint64(0)
	if deduplicated {
		var news bool
		if news, repeats = c.repetition.take(now, d.flow, d.packets); !news {
			return duplicate, 0
		}
	}
	pass, crossed := c.gate.take(now, 1)
	r.crossed(now, d.class, crossed)
	o := reported
	switch {
	case !pass:
		o = overThreshold
	case filterable(d) && r.only != nil && r.only(now):
		o = unfiltered
	case fused:
		o = overFuse
	}
	if deduplicated {
		if o == reported {
			c.repetition.tell(now, d.flow)
		} else {
			c.repetition.untold(d.flow, d.packets)
		}
	}
	return o, repeats
}

// unseen takes in drops that were only counted where they are seen; d holds
// their packets and bytes together. It reports whether they count.
func (r *reporter) unseen(now time.Time, d *drop, drops uint64, o outcome) bool {
	c := r.class(d.class)
	allowed := r.fuse.allows(d.class)
	switch {
	case allowed == off:
		r.uncounted += drops
		return false
	case c.Ignore:
		return true
	}
	suppress(&c.suppressed, o, drops)
	if c.repetition == nil { // else nobody knows which of them would have had an event
		_, crossed := c.gate.take(now, drops)
		r.crossed(now, d.class, crossed)
	}
	if allowed < countersOnly {
		r.aggregates.unseen(now, c.Interval, d, drops, o)
	}
	return true
}

func (r *reporter) crossed(now time.Time, class string, c *crossing) {
	if c == nil {
		return
	}
	t := yang.Transition{Kind: "threshold", Class: class, From: "events", To: "aggregates", Cause: "rate", Measured: uint64(c.measured), Limit: uint64(c.limit)}
	if !c.above {
		t.From, t.To = t.To, t.From
	}
	r.transitions = append(r.transitions, transitionAt{now, t})
}

// tick lets time pass: classes come back under their threshold, flows stop, and
// intervals end. It returns the aggregates that are due.
func (r *reporter) tick(now time.Time) []*aggregate {
	for _, name := range slices.Sorted(maps.Keys(r.classes)) {
		c := r.classes[name]
		r.crossed(now, name, c.gate.tick(now))
		if c.repetition == nil {
			continue
		}
		for _, f := range c.repetition.stopped(now) {
			r.transitions = append(r.transitions, transitionAt{now, yang.Transition{
				Kind: "flow", Class: name, To: "stopped", Cause: "packets", Measured: f.repeats, Flow: f.flow.PB(),
			}})
		}
	}
	return r.aggregates.due(now)
}

// handled counts the drops of all classes since the fuse last looked.
func (r *reporter) handled() (n uint64) {
	for _, c := range r.classes {
		n += c.handled
	}
	return n
}

// look lets the fuse judge what the agent took since it last did.
func (r *reporter) look(now time.Time, l load) {
	l.drops, l.told = map[string]uint64{}, map[string]uint64{}
	for name, c := range r.classes {
		l.drops[name], l.told[name] = c.handled, c.told
		c.handled, c.told = 0, 0
	}
	s := r.fuse.look(now, l)
	if s == nil {
		return
	}
	scale := map[string]float64{"cpu": 1000, "queue": 1000, "healed": 1000, "memory": 1, "events": 1}[s.cause]
	r.transitions = append(r.transitions, transitionAt{now, yang.Transition{
		Kind: "fuse", Class: s.class, From: s.from.String(), To: s.to.String(),
		Cause: s.cause, Measured: uint64(s.measured * scale), Limit: uint64(s.limit * scale),
	}})
}

// takeTransitions returns what gathered since the last call.
func (r *reporter) takeTransitions() []transitionAt {
	out := r.transitions
	r.transitions = nil
	return out
}

// reporting tells what is reported of each class seen, by name.
func (r *reporter) reporting() []yang.ClassReporting {
	var out []yang.ClassReporting
	for _, name := range slices.Sorted(maps.Keys(r.classes)) {
		c := r.classes[name]
		stream := "events"
		switch {
		case c.Ignore:
			stream = "ignored"
		case c.gate.above, c.Threshold == 0:
			stream = "aggregates"
		}
		out = append(out, yang.ClassReporting{
			Name: name, Stream: stream, Fuse: r.fuse.allows(name).String(),
			Threshold: uint64(c.Threshold), Settings: c.reportSettings(), Suppressed: c.suppressed,
		})
	}
	return out
}

// forgotten counts the flows of de-duplicated classes that had to go.
func (r *reporter) forgotten() (n uint64) {
	for _, c := range r.classes {
		n += c.forgotten
		if c.repetition != nil {
			n += c.repetition.forgotten
		}
	}
	return n
}
