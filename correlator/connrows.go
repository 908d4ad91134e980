package correlator

import (
	"cmp"
	"context"
	"slices"

	"decaf/api"
	"decaf/api/decafpb"
)

// Connections implements api.Backend.
func (c *Correlator) Connections(_ context.Context, r api.Range) (api.FlowRows, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.engine.store.connections(r), nil
}

// Services implements api.Backend.
func (c *Correlator) Services(_ context.Context, r api.Range) (api.FlowRows, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.engine.store.services(r), nil
}

func (s *Store) connections(r api.Range) api.FlowRows {
	component, _ := parseComponent(s.topo, r.Component)
	return s.told.single.rows(s, r, func(c *heldConn) bool {
		return (r.State == 0 || c.state == uint8(r.State)) && (r.Component == "" || s.concerns(c, component))
	})
}

func (s *Store) services(r api.Range) api.FlowRows {
	return s.told.services.rows(s, r, func(c *heldConn) bool {
		return !c.rows() || !s.told.summed(c.host, c.last)
	})
}

// concerns says whether the component is on the connection's way, as it was traced
// for a retransmit of it, or is the host at one of its ends.
func (s *Store) concerns(c *heldConn, component Component) bool {
	if component.host {
		for _, a := range [...]string{s.topo.Hosts[c.host].Name, s.nameAt(c)} {
			if a == component.Node {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(s.lossy(c), component.on)
}

// nameAt names the host at the other end, "" for one outside.
func (s *Store) nameAt(c *heldConn) string {
	if h, ok := s.topo.HostAt(c.flow.Dst.Addr()); ok {
		return h.Name
	}
	return ""
}

// lossy gives what retransmits tell of a connection; of one without a cookie, of all
// that had its five-tuple.
func (s *Store) lossy(c *heldConn) []*Flow {
	if c.cookie == 0 {
		return s.ofTuple[c.flow]
	}
	if f := s.flows[FlowKey{Flow: c.flow, Cookie: c.cookie}]; f != nil {
		return []*Flow{f}
	}
	return nil
}

// traced gives the latest path of a connection that was traced, nil if none was.
func (s *Store) traced(c *heldConn) *decafpb.Path {
	var best *decafpb.Path
	for _, f := range s.lossy(c) {
		for _, rt := range f.Retransmits {
			if p := rt.GetPath(); len(p.GetHops()) > 0 && (best == nil || p.GetStartNs() >= best.GetStartNs()) {
				best = p
			}
		}
	}
	return best
}

// chosen is a connection that is asked for, and what it is sorted by.
type chosen struct {
	*heldConn
	key float64
	end int64 // of what it did in the time asked for
}

// before says which of two is shown first.
func (a chosen) before(b chosen) int {
	return cmp.Or(cmp.Compare(b.key, a.key), cmp.Compare(b.end, a.end), cmp.Compare(a.host, b.host),
		a.flow.Src.Compare(b.flow.Src), a.flow.Dst.Compare(b.flow.Dst), cmp.Compare(a.cookie, b.cookie))
}

// shortlist keeps the first of what it is given, at most limit of them, 0 all. To
// sort all would hold the evidence up while it goes on.
type shortlist struct {
	limit, given int
	list         []chosen // never more than twice the limit
	full         bool     // the limit-th of list is the last that may stay
}

func (l *shortlist) add(c chosen) {
	l.given++
	if l.full && c.before(l.list[l.limit-1]) > 0 {
		return
	}
	l.list = append(l.list, c)
	if l.limit > 0 && len(l.list) == 2*l.limit {
		l.cut()
		l.full = true
	}
}

// cut sorts what is left and cuts it at the limit.
func (l *shortlist) cut() []chosen {
	slices.SortFunc(l.list, chosen.before)
	if l.limit > 0 && len(l.list) > l.limit {
		l.list = l.list[:l.limit]
	}
	return l.list
}

// rows gives those of a table that are asked for, the first of their order first.
func (t *connTable) rows(s *Store, r api.Range, admits func(*heldConn) bool) api.FlowRows {
	host := int32(-1)
	if r.Host != "" {
		if host = s.traffic.known(r.Host); host < 0 {
			return api.FlowRows{}
		}
	}
	short := shortlist{limit: r.Limit}
	t.each(func(c *heldConn) {
		if r.Host != "" && c.host != host ||
			r.Port != 0 && c.flow.Src.Port() != r.Port && c.flow.Dst.Port() != r.Port ||
			!r.Flow.IsZero() && !r.Flow.MatchEnds(c.flow.Src, c.flow.Dst) {
			return
		}
		sum, last, ok := c.during(r)
		if !ok || r.Trouble && !sum.trouble() && !(last && c.broken()) || !admits(c) {
			return
		}
		short.add(chosen{c, sum.by(r.Sort), sum.end})
	})
	out := api.FlowRows{Forgotten: t.stats.forgotten, Troubled: t.stats.troubled}
	for _, c := range short.cut() {
		out.Rows = append(out.Rows, c.row(s, r))
	}
	r.Omit(short.given - len(out.Rows))
	return out
}

// during adds up what a connection did in the intervals that touch the range. last
// says that the newest is among them; false for none.
func (c *heldConn) during(r api.Range) (sum connPart, last, ok bool) {
	for i := range c.parts {
		p := &c.parts[i]
		if !r.Overlaps(uint64(p.start), uint64(max(p.end, 1))) {
			continue
		}
		last = last || p.end == c.last
		if !ok {
			sum, ok = *p, true
			continue
		}
		sum.add(p, c.rows())
	}
	return sum, last, ok
}

// by is what a connection is sorted by, the most first.
func (p *connPart) by(order api.Order) float64 {
	switch order {
	case api.ByLoss:
		return p.share()
	case api.ByRTT:
		return float64(p.rttMean)
	case api.ByBytes:
		return float64(p.sent + p.received)
	case api.ByZeroWindow:
		return float64(p.zero)
	case api.ByNewest:
		return float64(p.end)
	}
	return float64(p.retransmits)
}

func (c *heldConn) row(s *Store, r api.Range) api.FlowRow {
	out := api.FlowRow{
		FlowRecord: &decafpb.FlowRecord{
			Origin: &decafpb.Origin{Producer: s.topo.Hosts[c.host].Name},
			Flow:   c.flow.PB(), State: decafpb.FlowRecord_State(c.state), Error: c.err, Inbound: c.inbound,
			Process: c.process.Value(), Container: c.container.Value(), Cookie: c.cookie, Active: c.active, SampledOf: uint64(c.sampled),
			Path: s.traced(c),
		},
		FirstNs: uint64(c.parts[0].start), Before: !c.born,
	}
	sum, _, _ := c.during(r)
	sum.into(out.FlowRecord)
	for i := range c.parts {
		if p := &c.parts[i]; r.Overlaps(uint64(p.start), uint64(max(p.end, 1))) {
			out.Parts = append(out.Parts, api.FlowPart{
				StartNs: uint64(p.start), EndNs: uint64(p.end), Packets: p.packets, Retransmits: uint64(p.retransmits),
				Bytes: p.sent + p.received, RTTMeanNs: p.rttMean, RTTMaxNs: p.rttMax, ZeroWindowNs: p.zero,
			})
		}
	}
	return out
}
