package hostagent

import (
	"time"

	"decaf/api/agentconfig"
)

// When the round-trip time of a connection is looked at between two samples, for
// the highest: Tables.Peaks of the configuration.
const (
	peaksAll        = "all"        // whenever it receives something: each measurement of TCP's counts
	peaksReductions = "reductions" // when its congestion state changes
)

// tableSettings say what the tables record. They may change while the agent
// runs, from one interval to the next.
type tableSettings struct {
	// Tracking: without it there are no tables, only the rows that blame needs.
	Tracking bool
	// Interval is how long telemetry is added up before it is sent.
	Interval time.Duration
	Sample   agentconfig.Sampling
	// Only and Ignore are filters by destination: a connection is tracked that
	// some of Only and none of Ignore takes; with no Only all are.
	Only, Ignore []agentconfig.Filter
}

// tracked says whether the filters let a connection through.
func (s *tableSettings) tracked(e *entryOfFlow) bool {
	to, port := e.dst.Addr(), e.service().port
	for _, f := range s.Ignore {
		if f.Takes(to, port) {
			return false
		}
	}
	for _, f := range s.Only {
		if f.Takes(to, port) {
			return true
		}
	}
	return len(s.Only) == 0
}

// with is s as far as settings from elsewhere do not say otherwise.
func (s tableSettings) with(o agentconfig.Settings) tableSettings {
	if o.Tracking != nil {
		s.Tracking = *o.Tracking
	}
	if o.Interval != nil {
		s.Interval = time.Duration(*o.Interval)
	}
	if o.Sample != nil {
		s.Sample = *o.Sample
	}
	if o.Only != nil {
		s.Only = *o.Only
	}
	if o.Ignore != nil {
		s.Ignore = *o.Ignore
	}
	return s
}
