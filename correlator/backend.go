package correlator

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"decaf/api"
	"decaf/api/decafpb"
	"decaf/topology"

	"google.golang.org/protobuf/proto"
)

// Topology implements api.Backend.
func (c *Correlator) Topology() *topology.Topology { return c.cfg.Topology }

// Ready implements api.Backend.
func (c *Correlator) Ready() error {
	c.mu.Lock()
	started, unread := c.store.reports != nil, c.unread
	c.mu.Unlock()
	switch {
	case !started:
		return errors.New("findings and reports are not read yet")
	case unread:
		return errors.New("the evidence of before the start is still being read")
	}
	return c.conn.Ready()
}

// FileReport implements api.Backend: the report is on disk when it returns.
func (c *Correlator) FileReport(ctx context.Context, in *decafpb.FaultReport) (*decafpb.FaultReport, error) {
	now := c.now().UnixNano()
	r := proto.CloneOf(in)
	if r == nil {
		return nil, api.BadRequest("no report given")
	}
	if err := c.cfg.Engine.Report.Check(r, now); err != nil {
		return nil, err
	}
	r.Id, r.FiledNs = newID("r"), uint64(now)
	c.mu.Lock()
	kv := c.store.reports
	v, err := c.engine.Answer(r, c.agents.freshAll, now)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if kv == nil {
		return nil, api.Unavailable("the service is still starting; file the report again in a moment")
	}
	v.Revision = 1
	r.Verdict = v
	if err := write(ctx, kv, r.Id, r); err != nil {
		c.log.Warn("a fault report was not stored and is refused", "err", err)
		return nil, api.Unavailable("the report could not be stored: %s; file it again when NATS is back", err)
	}
	c.mu.Lock()
	c.hold(r)
	c.mu.Unlock()
	return r, nil
}

// Report implements api.Backend.
func (c *Correlator) Report(_ context.Context, id string) (*decafpb.FaultReport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.reports[id]; ok {
		return r, nil
	}
	return nil, api.NotFound("no report %q; list them with `decaf reports`", id)
}

// Reports implements api.Backend.
func (c *Correlator) Reports(_ context.Context, r api.Range) ([]*decafpb.FaultReport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*decafpb.FaultReport
	for _, id := range slices.Backward(c.order) {
		f := c.reports[id]
		if r.Overlaps(f.GetFromNs(), f.GetToNs()) && r.MatchComponent(f.GetVerdict().GetComponent()) && r.MatchClass(f.GetVerdict().GetClass()) {
			list = append(list, f)
		}
	}
	return limited(list, r), nil
}

// Findings implements api.Backend.
func (c *Correlator) Findings(_ context.Context, r api.Range) ([]*decafpb.Finding, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*decafpb.Finding
	for _, f := range c.engine.Findings() {
		if r.Overlaps(f.GetFromNs(), f.GetResolvedNs()) && r.MatchComponent(f.GetComponent()) && r.MatchClass(f.GetClass()) {
			list = append(list, f)
		}
	}
	slices.SortStableFunc(list, func(a, b *decafpb.Finding) int {
		return cmp.Or(cmp.Compare(btoi(a.GetResolvedNs() != 0), btoi(b.GetResolvedNs() != 0)), -cmp.Compare(a.GetFromNs(), b.GetFromNs()))
	})
	return limited(list, r), nil
}

// Links implements api.Backend. Evidence is held for the retention only: a
// range before it is empty.
func (c *Correlator) Links(_ context.Context, r api.Range) (api.LinkRanking, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.present()
	ranking := c.engine.Live()
	start, end := ranking.Start, ranking.End
	if !r.From.IsZero() || !r.To.IsZero() {
		start, end = bounds(r, now)
		ranking = c.engine.Rank(start, end, now)
	}
	drops := make(map[*topology.Link]uint64)
	for _, d := range c.engine.store.drops {
		if l := d.Component.Link; l != nil && d.evidence() && d.Time >= start && d.Time < end {
			drops[l]++
		}
	}
	blamed := make(map[string]bool)
	for _, f := range c.engine.Findings() {
		if f.GetResolvedNs() == 0 {
			blamed[f.GetComponent()] = true
		}
	}
	var rows []api.LinkRow
	seen := make(map[*topology.Link]bool)
	add := func(s LinkScore) {
		name := Component{Link: s.Link}.String()
		seen[s.Link] = true
		if r.MatchComponent(name) {
			rows = append(rows, api.LinkRow{
				Link: s.Link.Name, Votes: s.Votes, Share: s.Share, Flows: s.Flows, Weak: s.Weak, Drops: drops[s.Link],
				Sources: s.Sources, Destinations: s.Destinations, Probability: s.Probability, Blamed: blamed[name],
			})
		}
	}
	for _, s := range ranking.Links {
		add(s)
	}
	// Links without votes that devices or findings speak of come last.
	for _, l := range c.cfg.Topology.Links {
		if !seen[l] && (drops[l] > 0 || blamed[Component{Link: l}.String()]) {
			add(LinkScore{Link: l})
		}
	}
	return api.LinkRanking{Method: ranking.Method, Rows: limited(rows, r), Abstained: ranking.Abstained}, nil
}

// bounds gives a range in ns, open sides closed.
func bounds(r api.Range, now int64) (start, end int64) {
	end = now + 1
	if !r.From.IsZero() {
		start = max(r.From.UnixNano(), 0)
	}
	if !r.To.IsZero() {
		end = min(max(r.To.UnixNano(), 0), math.MaxInt64)
	}
	return start, end
}

// Drops implements api.Backend.
func (c *Correlator) Drops(_ context.Context, r api.Range) ([]api.DropRow, error) {
	rows := c.drops(r)
	slices.SortStableFunc(rows, func(a, b api.DropRow) int { return -cmp.Compare(a.GetTimeNs(), b.GetTimeNs()) })
	return limited(rows, r), nil
}

func (c *Correlator) drops(r api.Range) (rows []api.DropRow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.engine.store.drops {
		if !d.evidence() || !r.Holds(d.Event.GetTimeNs()) || !r.MatchComponent(d.Component.String(), "device "+d.Device) ||
			!r.MatchClass(d.Event.GetClass()) || !r.Flow.Match(d.Event.GetPacket().GetFlow()) && !r.Flow.Match(sentPacket(d.Event).GetFlow()) {
			continue
		}
		rows = append(rows, api.DropRow{DropEvent: d.Event, Device: d.Device, Component: d.Component.String(), Matched: d.Matched})
	}
	return rows
}

// Paths implements api.Backend.
func (c *Correlator) Paths(_ context.Context, r api.Range) ([]*decafpb.Retransmit, error) {
	list := c.paths(r)
	slices.SortStableFunc(list, func(a, b *decafpb.Retransmit) int { return -cmp.Compare(a.GetTimeNs(), b.GetTimeNs()) })
	return limited(list, r), nil
}

func (c *Correlator) paths(r api.Range) (list []*decafpb.Retransmit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var component Component
	if r.Component != "" {
		component, _ = parseComponent(c.cfg.Topology, r.Component)
	}
	for _, f := range c.engine.store.order {
		if r.Component != "" && !component.on(f) {
			continue
		}
		for _, sent := range [...][]*decafpb.Retransmit{f.Retransmits, f.Own} {
			for _, rt := range sent {
				if r.Holds(rt.GetTimeNs()) && r.Flow.Match(rt.GetFlow()) {
					list = append(list, rt)
				}
			}
		}
	}
	return list
}

// Agents implements api.Backend.
func (c *Correlator) Agents(context.Context) ([]api.AgentRow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.present()
	var rows []api.AgentRow
	for _, p := range c.agents.byName {
		row := api.AgentRow{
			Name: p.name, Role: p.role, Version: p.version, Source: p.source,
			Fresh: c.agents.fresh(p.name, now) && p.err == "", BootID: p.boot, Error: p.err,
			Reports: p.reports(), Fuse: p.fuse, Unreported: p.unreported, Suppressed: c.engine.store.untold[p.name].byReason(),
			Revision: p.revision, Gaps: c.engine.store.Gaps(p.name, p.boot), Counters: maps.Clone(p.counters),
		}
		// What a spool merged was not lost, only its number.
		row.Gaps -= min(row.Gaps, row.Counters[counterMerged])
		delete(row.Counters, counterBoot)
		if p.last > 0 {
			row.LastSeen = time.Unix(0, p.last)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b api.AgentRow) int { return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name)) })
	return rows, nil
}

// limited cuts a list to the range's limit and tells what it left out.
func limited[T any](list []T, r api.Range) []T {
	if r.Limit > 0 && len(list) > r.Limit {
		r.Omit(len(list) - r.Limit)
		return list[:r.Limit]
	}
	return list
}

func sortBy[T any](list []T, key func(T) uint64) {
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}

// Stats counts the evidence that came in and what was left out.
func (c *Correlator) Stats() StoreStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.engine.store.Stats()
	st.Late = c.engine.late.stats
	return st
}
