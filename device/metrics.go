package device

import (
	"fmt"
	"time"

	"decaf/api/yang"

	"github.com/VictoriaMetrics/metrics"
)

// Describe adds the agent's metrics to a set. Those of several agents go
// together: each has the name of its device.
func (a *Agent) Describe(set *metrics.Set) {
	gauge := func(name, more string, get func() uint64) {
		set.NewGauge(fmt.Sprintf("decaf_device_%s{device=%q%s}", name, a.cfg.Name, more), func() float64 { return float64(get()) })
	}
	for _, class := range Classes() {
		gauge("dropped_packets", fmt.Sprintf(",class=%q", class), func() uint64 {
			for _, c := range a.ledger.totals().classes {
				if c.Name == class {
					return c.Packets
				}
			}
			return 0
		})
	}
	for name, get := range map[string]func(yang.AgentState) uint64{
		"events":             func(s yang.AgentState) uint64 { return s.Events },
		"events_lost":        func(s yang.AgentState) uint64 { return s.EventsLost },
		"drops_missed":       func(s yang.AgentState) uint64 { return s.DropsMissed },
		"events_lost_queue":  func(s yang.AgentState) uint64 { return s.EventsLostQueue },
		"drops_ignored":      func(s yang.AgentState) uint64 { return s.DropsIgnored },
		"drops_unclassified": func(s yang.AgentState) uint64 { return s.DropsUnclassified },
		"subscribers":        func(s yang.AgentState) uint64 { return s.Subscribers },
		"aggregates":         func(s yang.AgentState) uint64 { return s.Aggregates },
		"transitions":        func(s yang.AgentState) uint64 { return s.Transitions },
		"drops_uncounted":    func(s yang.AgentState) uint64 { return s.DropsUncounted },
		"aggregates_merged":  func(s yang.AgentState) uint64 { return s.AggregatesMerged },
	} {
		gauge(name, "", func() uint64 { return get(a.State()) })
	}
	gauge("subscribers_ended", "", func() uint64 { return a.target.Stats().Ended })
	gauge("settings", "", func() uint64 { return uint64(len(a.setNow().leaves)) })
	gauge("filters", "", func() uint64 { return uint64(len(a.setNow().filters.list)) })
	if len(a.cfg.NFLOG.Groups) > 0 {
		a.describeNFLOG(gauge)
	}
	a.describeWatched(gauge)
}

// describeNFLOG tells what came of firewall rules' logs.
func (a *Agent) describeNFLOG(gauge func(name, more string, get func() uint64)) {
	// of is 0 while the source is not there.
	of := func(get func(*sources) uint64) func() uint64 {
		return func() uint64 {
			a.mu.Lock()
			s := a.sources
			a.mu.Unlock()
			if s == nil || s.nflog == nil {
				return 0
			}
			return get(s)
		}
	}
	gauge("nflog_lost", "", of(func(s *sources) uint64 { lost, _, _ := s.nflog.left(); return lost }))
	gauge("nflog_overflows", "", of(func(s *sources) uint64 { _, overflows, _ := s.nflog.left(); return overflows }))
	gauge("nflog_malformed", "", of(func(s *sources) uint64 { _, _, malformed := s.nflog.left(); return malformed }))
	names := func(get func(named, alone, crowded uint64) uint64) func() uint64 {
		return of(func(s *sources) uint64 {
			if s.names == nil {
				return 0
			}
			return get(s.names.counts(time.Now()))
		})
	}
	shares := func(get func(unknown, crowded uint64) uint64) func() uint64 {
		return of(func(s *sources) uint64 {
			if s.shares == nil {
				return 0
			}
			return get(s.shares.counts())
		})
	}
	gauge("nflog_rule_unknown", "", shares(func(n, _ uint64) uint64 { return n }))
	gauge("nflog_rules_left_out", "", shares(func(_, n uint64) uint64 { return n }))
	gauge("nflog_named", "", names(func(n, _, _ uint64) uint64 { return n }))
	gauge("nflog_without_drop", "", names(func(_, n, _ uint64) uint64 { return n }))
	gauge("nflog_forgotten", "", names(func(_, _, n uint64) uint64 { return n }))
}

// describe adds the metrics of a switch's datagrams to a set.
func (s *sflowSwitch) describe(set *metrics.Set) {
	for name, get := range map[string]func(SFlowCounts) uint64{
		"datagrams":          func(c SFlowCounts) uint64 { return c.Datagrams },
		"datagrams_lost":     func(c SFlowCounts) uint64 { return c.DatagramsLost },
		"datagrams_twice":    func(c SFlowCounts) uint64 { return c.DatagramsTwice },
		"restarts":           func(c SFlowCounts) uint64 { return c.Restarts },
		"notifications":      func(c SFlowCounts) uint64 { return c.Notifications },
		"notifications_lost": func(c SFlowCounts) uint64 { return c.NotificationsLost },
		"suppressed":         func(c SFlowCounts) uint64 { return c.Suppressed },
		"no_loss":            func(c SFlowCounts) uint64 { return c.NoLoss },
		"nobody":             func(c SFlowCounts) uint64 { return c.Nobody },
		"malformed":          func(c SFlowCounts) uint64 { return c.Malformed },
		"samples_skipped":    func(c SFlowCounts) uint64 { return c.SamplesSkipped },
		"records_skipped":    func(c SFlowCounts) uint64 { return c.RecordsSkipped },
		"unknown_reasons":    func(c SFlowCounts) uint64 { return c.UnknownReasons },
		"no_ip":              func(c SFlowCounts) uint64 { return c.NoIP },
		"wrong_clock":        func(c SFlowCounts) uint64 { return c.WrongClock },
		"not_followed":       func(c SFlowCounts) uint64 { return c.NotFollowed },
	} {
		set.NewGauge(fmt.Sprintf("decaf_device_sflow_%s{device=%q}", name, s.name), func() float64 { return float64(get(s.Counts())) })
	}
}

// describe adds the metrics of what belongs to no switch to a set.
func (l *sflowListener) describe(set *metrics.Set) {
	for why, count := range map[string]func() uint64{"no_sflow": l.notSFlow.Load, "not_listed": l.strange.Load, "spoofed": l.spoofed.Load} {
		set.NewGauge(fmt.Sprintf("decaf_device_sflow_refused{why=%q}", why), func() float64 { return float64(count()) })
	}
}
