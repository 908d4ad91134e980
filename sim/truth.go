package sim

import (
	"strings"

	"decaf/api"
	"decaf/sim/kernel"
)

// lostData is a flow that lost a segment with data on a silently lossy link,
// as the program that dropped it recorded.
type lostData struct {
	link string
	flow api.FlowView
}

// lostOn lists the flows that a fault took data from. Only silent loss keeps
// them: for the others the devices themselves are the witnesses.
func lostOn(f PlayedFault, truth kernel.Truth) []lostData {
	link, ok := strings.CutPrefix(f.On, "link ")
	if !ok || f.Kind != "silent-loss" {
		return nil
	}
	var out []lostData
	for _, d := range truth.Drops {
		if d.Payload == 0 { // acknowledgements, and decaf's own probes
			continue
		}
		out = append(out, lostData{link, api.FlowView{
			Src: d.Src.Addr().String(), Dst: d.Dst.Addr().String(),
			SrcPort: uint32(d.Src.Port()), DstPort: uint32(d.Dst.Port()), Protocol: "tcp",
		}})
	}
	return out
}

// truth holds decaf's evidence against the fabric's own counters.
func (r *run) truth(drops []api.DropView, paths []api.RetransmitView) (Truth, error) {
	t := Truth{ProbeDrops: probeDrops(drops, paths)}
	counters, err := r.lab.Fabric.LinkCounters()
	if err != nil {
		return t, err
	}
	for name, c := range counters {
		t.LinksTotal++
		if used := c.Packets - r.before[name].Packets; used > 0 {
			t.LinksUsed++
		}
	}
	t.LossyFlows, t.TracedFlows = traced(r.lost, paths)
	return t, nil
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
