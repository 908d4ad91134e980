package device

import (
	"context"
	"log/slog"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"
)

const (
	// beat is how often time passes for the reporter: an aggregate is late by
	// that much at most.
	beat = 50 * time.Millisecond
	// lookEvery is how often the fuse looks at the load, when nothing else is said.
	lookEvery = time.Second
)

// aggregate publishes loss aggregates and transitions, and lets the fuse look,
// until ctx ends; then it publishes what is left.
func (a *Agent) aggregate(ctx context.Context) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	looked := time.Now()
	a.look(looked) // what came before is not the load of this
	for {
		select {
		case <-ticker.C:
			now := time.Now()
			if now.Sub(looked) >= a.lookEvery {
				a.look(now)
				looked = now
			}
			a.takeHeld(now, false)
			a.tick(now)
			if a.overrides.expire(now) {
				a.target.Changed()
			}
		case <-ctx.Done():
			now := time.Now()
			a.takeHeld(now, true)
			a.tick(now)
			a.reporting.Lock()
			a.publish(a.reporter.aggregates.flush(now))
			a.reporting.Unlock()
			return
		}
	}
}

// takeHeld counts what the kernel source held back since the last time, and at an
// aggregate's end, or at last, says of which flows.
func (a *Agent) takeHeld(now time.Time, last bool) {
	a.mu.Lock()
	src := a.sources // stay open while this runs
	a.mu.Unlock()
	a.missedFilters(src)
	h, ok := src.kernel.(holder)
	if !ok {
		return
	}
	a.reporting.Lock()
	end, turn := a.reporter.aggregates.sketchedUntil(now)
	a.reporting.Unlock()
	at := now
	if turn { // what was held back before the end, but for a beat, is counted there
		at = end.Add(-1)
	}
	var list []held
	var rules bool // some of them are of the firewall's rules
	handle := func(h held) {
		list = append(list, h)
		rules = rules || src.shares != nil && src.kernel.reason(h.record.reason) == netfilterDrop
	}
	count := func() {
		var upTo ruleReadings
		if rules {
			upTo = src.catchUpWithRules() // what they say is of these drops, too, now
		}
		for _, h := range list {
			a.held(src, h, at, upTo)
		}
	}
	if !turn && !last {
		err := h.held(handle)
		count()
		if err != nil {
			a.log.Warn("drops that the source held back are counted later", "error", err)
			return
		}
		src.heldUntil(now)
		return
	}
	back, err := h.turn(handle)
	count()
	if err != nil {
		a.log.Warn("drops that the source held back are counted later, without their flows", "error", err)
		return
	}
	src.heldUntil(now)
	flows := a.heldFlows(src.kernel, back)
	a.reporting.Lock()
	defer a.reporting.Unlock()
	a.reporter.aggregates.attribute(flows)
}

// heldFlows sorts the flows of what was held back by aggregate.
func (a *Agent) heldFlows(src source, back *heldBack) *heldFlows {
	type place struct {
		key    aggregateKey
		others uint64 // packets of the cause that are in other classes
	}
	places := map[[causeKeySize]byte][]place{}
	causes := map[aggregateKey][][causeKeySize]byte{}
	least := map[aggregateKey]map[packet.Flow]uint64{}
	for _, c := range back.causes {
		function := src.function(c.record.location)
		in, out := direction(c.record, function)
		classes := a.divided[c.key]
		if len(classes) == 0 { // nothing of it was counted
			classes = map[string]uint64{a.classify(c.record, src.reason(c.record.reason), function).class: 0}
		}
		var all uint64
		for _, packets := range classes {
			all += packets
		}
		for class, packets := range classes {
			key := aggregateKey{class, src.ifname(in), src.ifname(out)}
			places[c.key] = append(places[c.key], place{key, all - packets})
			causes[key] = append(causes[key], c.key)
			if least[key] == nil {
				least[key] = map[packet.Flow]uint64{}
			}
		}
	}
	clear(a.divided)
	flows, rest := back.candidates(1)
	for _, f := range flows {
		for _, p := range places[f.cause] {
			// What the other classes have may all be of this flow.
			least[p.key][f.flow] += less(f.least, p.others)
		}
	}
	return &heldFlows{
		least: least,
		most: func(key aggregateKey, f packet.Flow) (n uint64) {
			for _, c := range causes[key] {
				n += back.most(c, f)
			}
			return n
		},
		rest: func(key aggregateKey) uint64 { return rest * uint64(len(causes[key])) },
	}
}

// tick publishes what is due.
func (a *Agent) tick(now time.Time) {
	a.reporting.Lock()
	defer a.reporting.Unlock()
	a.publish(a.reporter.tick(now))
	a.transitions()
}

// publish numbers and publishes aggregates. The caller holds a.reporting.
func (a *Agent) publish(list []*aggregate) {
	for _, g := range list {
		w := g.wire()
		a.ledger.enterAggregate(w.LossAggregate)
		a.target.Publish(yang.AggregateUpdates(w, w.Origin.Seq%uint64(a.cfg.Ring), w.Origin.BootId))
	}
}

// transitions publishes those that gathered. The caller holds a.reporting.
func (a *Agent) transitions() {
	again := false
	for _, t := range a.reporter.takeTransitions() {
		again = again || t.Kind == "threshold" && t.To == "events" || t.Kind == "fuse"
		t.TimeNs = uint64(t.at.UnixNano())
		a.ledger.enterTransition(&t.Transition)
		severity := slog.LevelInfo
		if t.Kind == "flow" {
			severity = slog.LevelDebug
		}
		a.log.Log(context.Background(), severity, "reports less or more than before", "kind", t.Kind, "class", t.Class, "from", t.From, "to", t.To, "cause", t.Cause, "measured", t.Measured, "limit", t.Limit)
		a.target.Publish(yang.TransitionUpdates(t.Transition, t.Sequence%uint64(a.cfg.Ring)))
	}
	if again {
		whileOpen{a}.anew() // flows that had no event for what is over now
	}
}

// backlogged is a source that can tell how full the room between it and the
// agent is, from 0 to 1.
type backlogged interface{ backlog() float64 }

// sized is a source that tells how much of the kernel's memory it keeps, which is
// not in what the process itself has.
type sized interface{ memory() uint64 }

// look measures what the agent took since the last time and lets the fuse judge.
func (a *Agent) look(now time.Time) {
	a.mu.Lock()
	src := a.sources // stay open while this runs
	a.mu.Unlock()
	queue := src.backlog()
	lost, _ := a.counts()
	events := a.ledger.totals().seq

	a.reporting.Lock()
	defer a.reporting.Unlock()
	before := a.usage
	a.usage = measureUsage(now)
	a.usage.events, a.usage.lost = events, lost
	if k, ok := src.kernel.(sized); ok {
		a.usage.memory += k.memory()
	}
	if before.at.IsZero() {
		return
	}
	if lost > before.lost && src.local() {
		queue = 1 // it ran over since
	}
	seconds := max(now.Sub(before.at), time.Millisecond).Seconds()
	part, less, budget := a.share.of(float64(a.reporter.handled())/seconds), a.reporter.fuse.blown(), &a.reporter.fuse.budget
	a.load = load{
		cpu:    heldTo(part, (a.usage.cpu-before.cpu).Seconds()/seconds, budget.cpu, less),
		memory: heldTo(part, float64(a.usage.memory), budget.memory, less),
		events: float64(events-before.events) / seconds,
		queue:  queue,
	}
	a.reporter.look(now, a.load)
	if p, ok := src.kernel.(pausable); ok {
		if err := p.pause(a.reporter.fuse.allows("") == off); err != nil { // the next look tries again
			a.log.Warn("the fuse cannot take the agent out of the kernel's drop program, or back in", "error", err)
		}
	}
	a.transitions()
}
