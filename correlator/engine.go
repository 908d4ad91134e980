package correlator

import (
	"cmp"
	"slices"

	"decaf/api/decafpb"
	"decaf/topology"

	"google.golang.org/protobuf/proto"
)

// EngineConfig tunes the engine. Times in ns.
type EngineConfig struct {
	Epoch  int64 // length of the live window and of the tumbling epochs
	Recent int64 // length of its last part that is ranked once more
	Moment int64 // of the part that is ranked by itself when many flows prove losses there
	// SettleMin and SettleMax bound how long a retransmit waits before it votes,
	// so that a device's drop or an undone notice comes first; in between it is
	// twice the longest recent delay of drop events.
	SettleMin, SettleMax int64
	// ProbeHold and ProbeHoldMax bound how long a drop waits to be claimed as one
	// of our probes; in between it is twice the longest recent delay of traces.
	ProbeHold, ProbeHoldMax int64
	Limits                  StoreLimits
	Rule                    Rule      // of vote
	Fused                   FusedRule // of fused
	Device                  DeviceRule
	Host                    HostRule
	Down                    DownRule
	Handshake               HandshakeRule
	Find                    FindRule
	Report                  ReportRule
	Late                    LateRule
}

// DefaultEngineConfig is that of the design.
func DefaultEngineConfig() EngineConfig {
	return EngineConfig{
		Epoch: 30e9, Recent: 8e9, Moment: 3e9, SettleMin: 500e6, SettleMax: 2e9, ProbeHold: 1e9, ProbeHoldMax: 5e9,
		Limits: DefaultStoreLimits(), Rule: DefaultRule(), Fused: DefaultFusedRule(), Device: DefaultDeviceRule(), Host: DefaultHostRule(),
		Down: DefaultDownRule(), Handshake: DefaultHandshakeRule(),
		Find: DefaultFindRule(), Report: DefaultReportRule(), Late: DefaultLateRule(),
	}
}

// Engine is all of the correlator that does no I/O: evidence in, findings out.
// Not safe for concurrent use.
type Engine struct {
	cfg    EngineConfig
	topo   *topology.Topology
	method Method
	store  *Store
	finder *Finder
	paths  *pathSets
	epochs epochs
	// watching lists the devices heard all through a time; nil: none is known to be.
	watching func(start, end int64) []string
	// heard lists those that were heard, whatever they tell of; nil: as watching. blind
	// says why one did not tell of all that it dropped.
	heard func(start, end int64) []string
	blind func(device string, start, end int64) string

	late lateEvidence
	// past is of an engine that looks at a time that has passed: what came up to
	// ripeNow is all that there is.
	past    bool
	ripeNow int64

	live     *Ranking
	pastDue  int64 // when to look at history next, ns
	lookAt   hostLook
	downs    *downs
	shakes   *handshakes
	findings []*decafpb.Finding // by id's first appearance, bounded
	byID     map[string]int
}

// maxFindings bounds the findings held in memory; older resolved ones stay in
// the bucket.
const maxFindings = 2000

// NewEngine makes an engine that names components by the method given; nil for
// [Fused]. newID draws ids for findings.
func NewEngine(cfg EngineConfig, t *topology.Topology, m Method, newID func() string) *Engine {
	if m == nil {
		m = NewFused(t, cfg.Fused)
	}
	var ids *fabricIDs
	if f, ok := m.(*Fused); ok {
		ids = f.ids
	} else {
		ids = newFabricIDs(t)
	}
	return &Engine{
		cfg: cfg, topo: t, method: m, downs: newDowns(cfg.Down), shakes: newHandshakes(cfg.Handshake, ids),
		store: NewStore(t, cfg.Limits), finder: NewFinder(cfg.Find, newID), paths: newPathSets(t),
		epochs: epochs{length: cfg.Epoch}, live: &Ranking{Method: m.Name()}, byID: make(map[string]int),
	}
}

// Watch tells the engine how to ask which devices were heard all through a time and
// told of all that they dropped, so that their silence means something; without it no device's silence does.
func (e *Engine) Watch(watching func(start, end int64) []string) { e.watching = watching }

// Attend tells it beside how to ask which devices were heard, though their silence
// may mean nothing, and why it does not, "" if it does.
func (e *Engine) Attend(heard func(start, end int64) []string, blind func(device string, start, end int64) string) {
	e.heard, e.blind = heard, blind
}

// Restore takes a finding of an earlier run.
func (e *Engine) Restore(pb *decafpb.Finding) {
	e.finder.Restore(e.topo, pb)
	e.keep(pb)
}

// Add takes evidence; now is when it was received, ns. The records become the
// engine's own.
func (e *Engine) Add(b *decafpb.Batch, now int64) {
	e.lateBatch(b, now)
	for _, r := range b.GetRetransmits() {
		e.store.AddRetransmit(r, now)
	}
	for _, d := range b.GetDrops() {
		e.store.AddDrop(d, now)
	}
	for _, a := range b.GetAggregates() {
		e.store.AddAggregate(a, now)
	}
	for _, r := range b.GetRoutes() {
		e.store.AddRoute(r)
	}
	for _, f := range b.GetFlows() {
		e.store.AddFlow(f, now)
	}
}

// ripe is the time up to which retransmits received have waited long enough.
func (e *Engine) ripe(now int64) int64 {
	if e.past {
		return e.ripeNow
	}
	wait := 2 * e.store.lag.max(now)
	return now - min(max(wait, e.cfg.SettleMin), e.cfg.SettleMax)
}

// Step moves the engine to this moment and returns the findings that changed.
func (e *Engine) Step(now int64) []*decafpb.Finding {
	// Our own probes' drops are never evidence.
	e.store.Settle(now - min(max(2*e.store.trace.max(now), e.cfg.ProbeHold), e.cfg.ProbeHoldMax))
	e.store.started = true
	var changed []*decafpb.Finding
	if !e.late.pouring(now) {
		changed = e.look(now)
	}
	for _, f := range changed {
		e.keep(f)
	}
	e.closeEpoch(now)
	changed = append(changed, e.lookBack(now)...)
	e.store.connsFrom = e.late.looksFrom()
	e.store.Prune(now)
	return changed
}

// look looks at the window that ends at this moment and returns the findings that
// changed.
func (e *Engine) look(now int64) []*decafpb.Finding {
	// A loss that a device saw is the device's; the rest is put to the vote.
	w := e.window(now-e.cfg.Epoch, now+clockSlack, now)
	w.kind = viewLive
	// A device that is down explains what its neighbours drop at their ports to it.
	switch {
	case e.heard != nil:
		e.downs.fresh(e.heard(now, now), now)
	case e.watching != nil:
		e.downs.fresh(e.watching(now, now), now)
	}
	spoke := e.store.spoke
	if e.past {
		spoke = e.store.spokeUntil(now)
	}
	down := e.downs.accuse(w, now, spoke)
	gone := e.finder.OpenOf(classDown)
	for _, c := range down {
		if _, ok := gone[c.Component]; !ok {
			gone[c.Component] = c.First
		}
	}
	e.downs.take(w, gone)
	candidates := e.cfg.Device.accuse(w)
	named, since := e.finder.OpenByDevices()
	for _, c := range candidates {
		if c.Opens && !slices.Contains(named, c.Component) {
			named = append(named, c.Component)
			since[c.Component] = c.First
		}
	}
	believe(w, named, since)
	e.live = e.method.Rank(w)
	e.live.inform(candidates)
	candidates = append(candidates, e.live.Candidates...)
	// The last part of the window once more by itself, so that a fault that is
	// over does not stand in the light of one that has just begun.
	// Where nothing stands out there is no light to stand in.
	if e.method.History() == 0 || len(w.Open) > 0 || len(e.live.likely()) > 0 {
		recent := e.method.Rank(w.since(now-e.cfg.Recent, viewRecent))
		recent.besides(e.live)
		candidates = append(candidates, recent.Candidates...)
	}
	// A burst of congestion is lost among the noise of all the window.
	if e.method.History() > 0 && w.proved(now-e.cfg.Moment) {
		moment := e.method.Rank(w.since(now-e.cfg.Moment, viewMoment))
		moment.besides(e.live)
		candidates = append(candidates, moment.Candidates...)
	}
	candidates = append(candidates, e.history(now, named, since, gone)...)
	candidates = append(candidates, e.shakes.accuse(w)...)
	candidates = append(candidates, e.hosts(now, w, candidates)...)
	candidates = append(candidates, down...)
	e.downs.hold(candidates, w.Open, now)
	e.store.unsteady(w, candidates)
	classUnseen(w, candidates)
	return e.finder.Step(now, candidates)
}

// hostLook is when hosts were looked at last, and by how many records.
type hostLook struct {
	at   int64 // ns
	came uint64
}

// hostsEvery is how often hosts are looked at, at most, ns.
const hostsEvery = 1e9

// hosts looks at what connections came to, when there are new records of them. A
// host whose own links or device are under suspicion is not slow by itself.
func (e *Engine) hosts(now int64, w *Window, others []Candidate) []Candidate {
	if now-e.lookAt.at < hostsEvery || e.store.conns.came == e.lookAt.came && !e.past {
		return nil
	}
	e.lookAt = hostLook{now, e.store.conns.came}
	rows := e.store.conns.rows
	if e.past {
		rows = e.store.conns.until(now, now-slices.Max(e.cfg.Host.Spans))
	}
	return e.cfg.Host.accuse(e.topo, rows, now, func(host string) bool {
		suspect := func(c Component) bool {
			return !c.host && slices.ContainsFunc(e.topo.LinksFrom(host), func(l *topology.Link) bool {
				return c.touches(l) || c.touches(e.topo.Reverse(l))
			})
		}
		for c := range w.Open {
			if suspect(c) {
				return true
			}
		}
		return slices.ContainsFunc(others, func(c Candidate) bool { return c.Opens && suspect(c.Component) })
	})
}

// historyEvery is how often history is looked at, in parts of an epoch: what
// only many epochs show does not change from step to step.
const historyEvery = 6

// history looks once in a while at the epochs before the window as well: what
// loses so little that one window cannot show it.
func (e *Engine) history(now int64, named []Component, since, gone map[Component]int64) []Candidate {
	n := int64(e.method.History())
	if n == 0 || now < e.pastDue {
		return nil
	}
	e.pastDue = now + e.cfg.Epoch/historyEvery
	w := e.window(now-(n+1)*e.cfg.Epoch, now+clockSlack, now)
	w.kind = viewPast
	w.Current, w.Decay = now-e.cfg.Epoch, int64(e.cfg.Fused.Decay*float64(e.cfg.Epoch))
	e.downs.take(w, gone)
	believe(w, named, since)
	return e.method.Rank(w).Candidates
}

// window gathers and sorts the evidence of [start, end) as known at now.
func (e *Engine) window(start, end, now int64) *Window {
	w := e.store.span(start, end, e.ripe(now), e.finder.Past(start), e.paths)
	w.Open = e.finder.Open()
	if e.past {
		w.Known, w.Counted = end, end
		// As in their time traces are known before what devices dropped: it may have
		// been a probe's, or before a device that is down.
		w.Drops = slices.DeleteFunc(w.Drops, func(d *Drop) bool { return d.Time > now-e.cfg.ProbeHold })
	} else {
		w.onTime()
	}
	if e.watching != nil {
		w.Watching = e.watching(start, min(end, now))
		if e.blind != nil {
			w.blind = func(device string) string { return e.blind(device, start, min(end, now)) }
		}
	}
	return w
}

// closeEpoch records the epoch that closed, if one did.
func (e *Engine) closeEpoch(now int64) {
	if _, end, ok := e.epochs.due(e.ripe(now)); ok {
		e.record(end, now)
	}
}

// record records the epoch that closed at this moment, in the place of what was
// known of it before.
func (e *Engine) record(end, now int64) {
	start := end - e.cfg.Epoch
	w := e.store.span(start, end, now, nil, e.paths)
	w.Known, w.Counted = min(w.Known, end), min(w.Counted, end)
	x := Epoch{Ranking: e.method.Rank(w), Lossy: len(w.Flows), Joined: len(w.Joined), Drops: len(w.Drops)}
	for _, f := range e.findings {
		if int64(f.GetFromNs()) < end && (f.GetResolvedNs() == 0 || int64(f.GetResolvedNs()) >= start) {
			x.Blamed = append(x.Blamed, f.GetComponent())
		}
	}
	e.epochs.put(x)
}

// Rank ranks the links by the evidence of any span, without naming any.
func (e *Engine) Rank(start, end, now int64) *Ranking {
	return e.method.Rank(e.store.span(start, end, e.ripe(now), nil, e.paths))
}

// Live is the ranking of the latest step.
func (e *Engine) Live() *Ranking { return e.live }

// Epochs are the closed epochs that are remembered, oldest first.
func (e *Engine) Epochs() []Epoch { return slices.Clone(e.epochs.closed) }

// Findings are all that are held, in the order they were opened. Do not change them.
func (e *Engine) Findings() []*decafpb.Finding { return e.findings }

// keep remembers the latest state of a finding.
func (e *Engine) keep(f *decafpb.Finding) {
	if i, ok := e.byID[f.GetId()]; ok {
		e.findings[i] = f
		return
	}
	if len(e.findings) >= maxFindings {
		// Resolved ones go first, oldest first.
		slices.SortStableFunc(e.findings, func(a, b *decafpb.Finding) int {
			return cmp.Compare(btoi(a.GetResolvedNs() == 0), btoi(b.GetResolvedNs() == 0))
		})
		e.findings = slices.Delete(e.findings, 0, maxFindings/10)
		clear(e.byID)
		for i, g := range e.findings {
			e.byID[g.GetId()] = i
		}
	}
	e.byID[f.GetId()] = len(e.findings)
	e.findings = append(e.findings, proto.CloneOf(f))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
