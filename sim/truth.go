package sim

import (
	"time"

	"decaf/api"
	"decaf/api/packet"
	"decaf/sim/scenario"
)

// lostData is a flow that lost a segment with data on a silently lossy link, as the
// fabric itself recorded.
type lostData struct {
	link string
	flow api.FlowView
}

// lostOn lists the flows that silent loss took data from while there were agents.
// For the other kinds the devices themselves are the witnesses.
func lostOn(s *scenario.Scenario, began time.Time, losses []loss) []lostData {
	first := uint64(began.Add(s.AgentsLate).UnixNano())
	var out []lostData
	for _, l := range losses {
		if l.fault < 0 || s.Faults[l.fault].Kind != "silent-loss" || !l.data || l.probe || l.atNS < first {
			continue // of the rest: acknowledgements, and decaf's own probes
		}
		out = append(out, lostData{l.link, viewOf(l.flow)})
	}
	return out
}

func viewOf(f packet.Flow) api.FlowView { return *api.NewViews(nil).Flow(f.PB()) }

// truthOf holds decaf's evidence against what the fabric itself knows.
func truthOf(s *scenario.Scenario, began time.Time, drops []api.DropView, said *testimony, f *fabricTruth) Truth {
	t := Truth{LinksUsed: f.linksUsed, LinksTotal: f.linksTotal, ProbeDrops: probeDrops(drops, said.retransmits)}
	t.LossyFlows, t.TracedFlows = traced(lostOn(s, began, f.losses), said.retransmits)
	return t
}

// traced counts the distinct flows that lost data on a link, and those of them
// that have a traced path through it.
func traced(lost []lostData, paths []api.RetransmitView) (flows, through int) {
	links := map[api.FlowView]map[string]bool{}
	for _, p := range paths {
		if p.Flow == nil || p.Path == nil {
			continue
		}
		if links[*p.Flow] == nil {
			links[*p.Flow] = map[string]bool{}
		}
		for _, l := range p.Path.Links {
			links[*p.Flow][l] = true
		}
	}
	seen := map[lostData]bool{}
	for _, l := range lost {
		if seen[l] {
			continue
		}
		seen[l] = true
		flows++
		if links[l.flow][l.link] {
			through++
		}
	}
	return flows, through
}
