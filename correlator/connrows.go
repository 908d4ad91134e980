package correlator

import (
	"context"
	"slices"

	"decaf/api"
	"decaf/api/decafpb"
)

// Connections implements api.Backend.
func (c *Correlator) Connections(ctx context.Context, r api.Range) (api.FlowRows, error) {
	return c.told(ctx, c.engine.store.connections(r))
}

// Services implements api.Backend.
func (c *Correlator) Services(ctx context.Context, r api.Range) (api.FlowRows, error) {
	return c.told(ctx, c.engine.store.services(r))
}

func (c *Correlator) told(ctx context.Context, q *connQuery) (api.FlowRows, error) {
	if c.cfg.Engine.Limits.TableBytes <= 0 {
		return api.FlowRows{}, api.NotFound("this service keeps neither connections nor services: tables.max_bytes is 0 in its configuration")
	}
	return q.answer(ctx, &c.mu)
}

func (s *Store) connections(r api.Range) *connQuery {
	component, _ := parseComponent(s.topo, r.Component)
	return newConnQuery(s, s.told.single, r, func(c *toldConn) bool {
		return (r.State == 0 || c.state == uint8(r.State)) && (r.Component == "" || s.concerns(c, component))
	})
}

func (s *Store) services(r api.Range) *connQuery {
	return newConnQuery(s, s.told.services, r, func(c *toldConn) bool {
		return !c.rows() || !s.told.summed(c.host, c.last)
	})
}

// concerns says whether the component is on the connection's way, as it was traced
// for a retransmit of it, or is the host at one of its ends.
func (s *Store) concerns(c *toldConn, component Component) bool {
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
func (s *Store) nameAt(c *toldConn) string {
	if h, ok := s.topo.HostAt(c.flow.Dst.Addr()); ok {
		return h.Name
	}
	return ""
}

// lossy gives what retransmits tell of a connection; of one without a cookie, of all
// that had its five-tuple.
func (s *Store) lossy(c *toldConn) []*Flow {
	if c.cookie == 0 {
		return s.ofTuple[c.flow]
	}
	if f := s.flows[FlowKey{Flow: c.flow, Cookie: c.cookie}]; f != nil {
		return []*Flow{f}
	}
	return nil
}

// traced gives the latest path of a connection that was traced, nil if none was.
func (s *Store) traced(c *toldConn) *decafpb.Path {
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

// during adds up what a connection did in the intervals that touch the range. last
// says that the newest is among them; false for none.
func (c *toldConn) during(r api.Range) (sum connPart, last, ok bool) {
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

// row gives what a connection did in the range; path is nil or one that was traced.
func (c *toldConn) row(host string, path *decafpb.Path, r api.Range) api.FlowRow {
	out := api.FlowRow{
		FlowRecord: &decafpb.FlowRecord{
			Origin: &decafpb.Origin{Producer: host},
			Flow:   c.flow.PB(), State: decafpb.FlowRecord_State(c.state), Error: c.err, Inbound: c.inbound,
			Process: c.process.Value(), Container: c.container.Value(), Cookie: c.cookie, Active: c.active, SampledOf: uint64(c.sampled),
			Path: path,
		},
		FirstNs: uint64(c.parts[0].start), Before: !c.born,
	}
	if c.owned {
		uid := c.uid
		out.Uid = &uid
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
