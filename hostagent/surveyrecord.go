package hostagent

import (
	"cmp"
	"math"
	"net/netip"
	"time"

	"decaf/api/decafpb"
	"decaf/tracer"
)

// Bounds of a Survey record: with them one is some 100 kB at most, and of a
// fabric of four tiers it is whole.
const (
	maxSurveyWalks = 512
	maxSurveyNodes = 1024
	maxSurveyHops  = 64 // of a walk
	maxSurveyName  = 64 // bytes of an interface's name
)

// usualConfidence is how sure a tracer makes itself where it is not told.
const usualConfidence = 0.95

// surveyRecord is what a survey that ended at some time tells. Walks beyond the
// bounds are counted; those that go over links no other goes over come first.
func surveyRecord(r tracer.EnumerateRequest, fan *tracer.Fan, at time.Time) *decafpb.Survey {
	walks := fan.Walks(r.Flow)
	out := &decafpb.Survey{
		TimeNs: uint64(at.UnixNano()), TookNs: uint64(fan.Took),
		Src: r.Flow.Src.Addr().Unmap().AsSlice(), Dst: r.Flow.Dst.Addr().Unmap().AsSlice(), DstPort: uint32(r.Flow.Dst.Port()),
		Flows: uint32(fan.Flows), Probes: uint32(fan.Probes), Confidence: uint32(math.Round(cmp.Or(r.Confidence, usualConfidence) * 100)),
		Complete: fan.Complete, Why: fan.Why,
	}
	nodes := make(map[netip.Addr]uint32)
	steps := make(map[[2]netip.Addr]bool)
	taken := make([]bool, len(walks))
	take := func(onlyNews bool) {
		for i, w := range walks {
			if taken[i] || len(out.Walks) >= maxSurveyWalks || len(w.Hops) > maxSurveyHops {
				continue
			}
			news, room := false, len(nodes)
			var before netip.Addr
			for _, a := range w.Hops {
				if _, ok := nodes[a]; !ok && a.IsValid() {
					room++
				}
				news = news || !steps[[2]netip.Addr{before, a}]
				before = a
			}
			if room > maxSurveyNodes || onlyNews && !news {
				continue
			}
			taken[i] = true
			before = netip.Addr{}
			walk := &decafpb.SurveyWalk{Flows: uint32(len(fan.Paths[i].Flows)), Unreached: !w.Dst.IsValid()}
			for at, a := range w.Hops {
				steps[[2]netip.Addr{before, a}] = true
				before = a
				if a.IsValid() && nodes[a] == 0 {
					name := w.Names[at]
					if len(name) > maxSurveyName {
						name = ""
					}
					out.Nodes = append(out.Nodes, &decafpb.SurveyNode{Address: a.Unmap().AsSlice(), Interface: name})
					nodes[a] = uint32(len(out.Nodes))
				}
				walk.Hops = append(walk.Hops, nodes[a])
			}
			out.Walks = append(out.Walks, walk)
		}
	}
	take(true)
	take(false)
	out.LeftOut = uint32(len(walks) - len(out.Walks))
	return out
}
