package hostagent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"decaf/api/agentconfig"
)

// SettingsSource is where an agent asks what it is told to do. bus.Conn is one.
type SettingsSource interface {
	// AgentConfig returns the settings of an agent and their revision; revision
	// 0 if it was never told any.
	AgentConfig(ctx context.Context, name string) (value []byte, revision uint64, err error)
	// WatchAgentConfig calls changed whenever they are written, until stop.
	WatchAgentConfig(name string, changed func()) (stop func(), err error)
}

// remote follows what the agent is told: it asks at the start, with each
// heartbeat, and when it hears that something was written. What it is told goes
// before what its file says, key by key, and ends when it is taken back.
type remote struct {
	a        *Agent
	from     SettingsSource
	ask      chan struct{}
	revision atomic.Uint64 // of what is in force
	refused  atomic.Uint64 // revision that could not be put in force; 0: none
	failing  bool          // the latest question
	seen     uint64        // latest revision, in force or refused
}

// Whoever hears of a change may be faster than the store: it asks so often and
// waits so long in between.
const (
	pushTries = 5
	pushPause = 50 * time.Millisecond
)

func newRemote(a *Agent, from SettingsSource) *remote {
	return &remote{a: a, from: from, ask: make(chan struct{}, 1)}
}

// wake makes run ask soon; it never blocks.
func (r *remote) wake() {
	select {
	case r.ask <- struct{}{}:
	default:
	}
}

// run asks whenever it is woken or told of a change, until ctx is done.
func (r *remote) run(ctx context.Context) {
	pushed := make(chan struct{}, 1)
	stop, err := r.from.WatchAgentConfig(r.a.cfg.Name, func() {
		select {
		case pushed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		r.a.log.Warn("changes of settings are noticed with heartbeats only", "err", err)
	} else {
		defer stop()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.ask:
			r.pull(ctx)
		case <-pushed:
			before := r.seen
			for range pushTries {
				if r.pull(ctx); r.seen != before {
					break
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(pushPause):
				}
			}
		}
	}
}

// pull asks once and does as it is told.
func (r *remote) pull(ctx context.Context) {
	value, revision, err := r.from.AgentConfig(ctx, r.a.cfg.Name)
	if err != nil {
		if ctx.Err() == nil && !r.failing {
			r.a.log.Warn("cannot ask for settings: going on with those in force", "err", err)
		}
		r.failing = true
		return
	}
	r.failing = false
	if revision == r.seen {
		return
	}
	r.seen = revision
	told, err := agentconfig.DecodeTold(value)
	if err == nil {
		err = r.a.adopt(told)
	}
	if err != nil {
		r.refused.Store(revision)
		r.a.log.Warn("settings refused: those before stay in force", "revision", revision, "err", err)
		return
	}
	r.refused.Store(0)
	r.revision.Store(revision)
	r.a.log.Info("settings in force", "revision", revision, "settings", string(value))
}

// adopt puts settings in force: the tables' from their next interval on. Keys
// that are not told are as the agent's own file says. An error changes nothing.
func (a *Agent) adopt(s agentconfig.Told) error {
	tables := a.cfg.tableSettings().with(s.Settings)
	if tables.Tracking && !a.cfg.Flows.Enabled {
		return errors.New("tracking: this host's own configuration has flows.enabled: false")
	}
	if s.TraceRate != nil && a.deps.SetTraceRate == nil {
		return errors.New("trace_rate: that of this agent's tracer cannot be changed")
	}
	if s.Survey != nil && a.deps.SetSurvey == nil {
		return errors.New("survey: this agent's tracer makes none")
	}
	balancer := a.cfg.Trace.Balancer.told()
	if s.Balancer != nil {
		balancer = *s.Balancer
		if a.deps.SetBalancer == nil {
			return errors.New("balancer: this agent's tracer asks none")
		}
	}
	if a.deps.SetBalancer != nil {
		if err := a.deps.SetBalancer(balancer); err != nil {
			return fmt.Errorf("balancer: %w", err)
		}
	}
	rate := a.cfg.Trace.rate(s.TraceBound)
	if s.TraceRate != nil {
		rate = *s.TraceRate
	}
	if a.deps.SetTraceRate != nil {
		a.deps.SetTraceRate(rate)
	}
	survey := a.cfg.Survey.told()
	if s.Survey != nil {
		survey = *s.Survey
	}
	if a.deps.SetSurvey != nil {
		a.deps.SetSurvey(survey)
	}
	a.tableSettings.Store(&tables)
	return nil
}
