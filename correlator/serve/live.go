package serve

import (
	"context"
	"sync"
	"sync/atomic"

	"decaf/api"
	"decaf/api/agentconfig"
	"decaf/api/decafpb"
	"decaf/correlator"
	"decaf/topology"
)

// live is the backend of the API while correlators follow one another, each with a
// newer topology. Until the next one has read all that the one before left, that one
// answers, by what it knew at its end; reports wait, so that none is filed with a
// correlator that has ended.
type live struct {
	now      atomic.Pointer[correlator.Correlator]
	settings atomic.Pointer[agentconfig.Store]
	about    atomic.Pointer[string] // the topology: where it comes from; nil: a file

	mu     sync.Mutex
	shut   chan struct{} // closed when reports are taken again; nil: they are
	filing sync.WaitGroup
}

// shutReports returns once no report is being filed; the next ones wait for openReports.
func (l *live) shutReports() {
	l.mu.Lock()
	if l.shut == nil {
		l.shut = make(chan struct{})
	}
	l.mu.Unlock()
	l.filing.Wait()
}

func (l *live) openReports() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut != nil {
		close(l.shut)
		l.shut = nil
	}
}

// enter waits until reports are taken; the error is that of ctx.
func (l *live) enter(ctx context.Context) error {
	for {
		l.mu.Lock()
		shut := l.shut
		if shut == nil {
			l.filing.Add(1)
			l.mu.Unlock()
			return nil
		}
		l.mu.Unlock()
		select {
		case <-shut:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// FileReport implements api.Backend.
func (l *live) FileReport(ctx context.Context, r *decafpb.FaultReport) (*decafpb.FaultReport, error) {
	if l.enter(ctx) != nil {
		if err := l.now.Load().Ready(); err != nil {
			return nil, api.Unavailable("%s; file the report again when that has changed", err)
		}
		return nil, api.Unavailable("the service is taking up a newly learned topology; file the report again in a moment")
	}
	defer l.filing.Done()
	return l.now.Load().FileReport(ctx, r)
}

// Report implements api.Backend.
func (l *live) Report(ctx context.Context, id string) (*decafpb.FaultReport, error) {
	return l.now.Load().Report(ctx, id)
}

// Reports implements api.Backend.
func (l *live) Reports(ctx context.Context, r api.Range) ([]*decafpb.FaultReport, error) {
	return l.now.Load().Reports(ctx, r)
}

// Findings implements api.Backend.
func (l *live) Findings(ctx context.Context, r api.Range) ([]*decafpb.Finding, error) {
	return l.now.Load().Findings(ctx, r)
}

// Links implements api.Backend. Where the topology comes from is said with what the
// ranking could not tell.
func (l *live) Links(ctx context.Context, r api.Range) (api.LinkRanking, error) {
	out, err := l.now.Load().Links(ctx, r)
	if about := l.about.Load(); about != nil {
		out.Abstained = append([]string{*about}, out.Abstained...)
	}
	return out, err
}

// Drops implements api.Backend.
func (l *live) Drops(ctx context.Context, r api.Range) ([]api.DropRow, error) {
	return l.now.Load().Drops(ctx, r)
}

// Paths implements api.Backend.
func (l *live) Paths(ctx context.Context, r api.Range) ([]*decafpb.Retransmit, error) {
	return l.now.Load().Paths(ctx, r)
}

// Connections implements api.Backend.
func (l *live) Connections(ctx context.Context, r api.Range) (api.FlowRows, error) {
	return l.now.Load().Connections(ctx, r)
}

// Services implements api.Backend.
func (l *live) Services(ctx context.Context, r api.Range) (api.FlowRows, error) {
	return l.now.Load().Services(ctx, r)
}

// Agents implements api.Backend.
func (l *live) Agents(ctx context.Context) ([]api.AgentRow, error) { return l.now.Load().Agents(ctx) }

// Topology implements api.Backend.
func (l *live) Topology() *topology.Topology { return l.now.Load().Topology() }

// Ready implements api.Backend.
func (l *live) Ready() error { return l.now.Load().Ready() }

// Learned implements api.Backend.
func (l *live) Learned(ctx context.Context, ip int) (api.Learned, error) {
	return l.now.Load().Learned(ctx, ip)
}

// Get implements api.AgentSettings.
func (l *live) Get(ctx context.Context, scope agentconfig.Scope) (agentconfig.View, error) {
	return l.settings.Load().Get(ctx, scope)
}

// Set implements api.AgentSettings.
func (l *live) Set(ctx context.Context, scope agentconfig.Scope, changes []agentconfig.Change) (agentconfig.View, error) {
	return l.settings.Load().Set(ctx, scope, changes)
}

var (
	_ api.Backend       = (*live)(nil)
	_ api.AgentSettings = (*live)(nil)
)
