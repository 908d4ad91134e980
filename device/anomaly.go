package device

import (
	"time"

	"decaf/api/decafpb"
	"decaf/api/yang"
)

// route publishes a route event.
func (a *Agent) route(ev *decafpb.RouteEvent) {
	if a.ignore[ev.Interface] {
		return
	}
	a.reporting.Lock()
	defer a.reporting.Unlock()
	if a.reporter.fuse.allows(AnomalyRouteFlap) >= aggregatesOnly {
		a.ledger.holdRoute()
		return
	}
	a.ledger.enterRoute(ev)
	a.target.Publish(yang.RouteUpdates(ev, ev.Origin.Seq%uint64(a.cfg.Ring), ev.Origin.BootId))
}

// anomaly enters an event that is no drop.
func (a *Agent) anomaly(o observed) { a.enterNow(o) }

// seen takes in a drop that the kernel told of, and the anomaly that it shows, if
// any.
func (a *Agent) seen(s *sources, o observed) {
	now := time.Now()
	a.enter(o, now)
	if why := s.looped(now, o.event); why != "" {
		a.anomaly(loopEvent(o.event, why))
	}
}

// Interfaces tells what the interfaces of this device counted, as the counters
// source last read; nil where it does not run.
func (a *Agent) Interfaces() []InterfaceCounters {
	a.mu.Lock()
	s := a.sources
	a.mu.Unlock()
	if s == nil || s.counters == nil {
		return nil
	}
	return s.counters.interfaces()
}

// describeWatched tells what came of counters and routes.
func (a *Agent) describeWatched(gauge func(name, more string, get func() uint64)) {
	// of is 0 while the source is not there.
	of := func(get func(*sources) uint64) func() uint64 {
		return func() uint64 {
			a.mu.Lock()
			s := a.sources
			a.mu.Unlock()
			if s == nil {
				return 0
			}
			return get(s)
		}
	}
	counters := func(get func(counterCounts) uint64) func() uint64 {
		return of(func(s *sources) uint64 {
			if s.counters == nil {
				return 0
			}
			return get(s.counters.left())
		})
	}
	gauge("counters_readings", "", counters(func(c counterCounts) uint64 { return c.readings }))
	gauge("counters_packets", "", counters(func(c counterCounts) uint64 { return c.told }))
	gauge("counters_failed", "", counters(func(c counterCounts) uint64 { return c.failed }))
	gauge("counters_not_followed", "", counters(func(c counterCounts) uint64 { return c.leftOut }))
	gauge("rules_not_followed", "", counters(func(c counterCounts) uint64 { return c.rulesLeftOut }))
	routes := func(get func(c routeCounts, flapping, leftOut uint64) uint64) func() uint64 {
		return of(func(s *sources) uint64 {
			if s.routes == nil {
				return 0
			}
			return get(s.routes.left())
		})
	}
	gauge("routes_changed", "", routes(func(c routeCounts, _, _ uint64) uint64 { return c.changes }))
	gauge("routes_suppressed", "", routes(func(c routeCounts, _, _ uint64) uint64 { return c.suppressed }))
	gauge("routes_flaps", "", routes(func(c routeCounts, _, _ uint64) uint64 { return c.flaps }))
	gauge("routes_flapping", "", routes(func(_ routeCounts, n, _ uint64) uint64 { return n }))
	gauge("routes_missed", "", routes(func(c routeCounts, _, _ uint64) uint64 { return c.missed }))
	gauge("routes_lists", "", routes(func(c routeCounts, _, _ uint64) uint64 { return c.lists }))
	gauge("routes_malformed", "", routes(func(c routeCounts, _, _ uint64) uint64 { return c.malformed }))
	gauge("routes_not_followed", "", routes(func(_ routeCounts, _, n uint64) uint64 { return n }))
	gauge("routes_held", "", func() uint64 { return a.ledger.totals().routesHeld })
	gauge("loops_forgotten", "", of((*sources).loopsForgotten))
}
