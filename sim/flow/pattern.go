package flow

import (
	"fmt"
	"math"

	"decaf/sim/scenario"
)

// pattern draws the hosts that connections go to:
//
//   - uniform: any other host.
//   - skew(share, part): share of the connections go to the hosts of part of the
//     ToRs, drawn by the seed.
//   - hot(tor, share): share of the connections go to the hosts of one ToR.
//
// A share whose hosts are none but the sender goes to the others, as on the kernel
// fabric.
type pattern struct {
	share     float64 // of the connections that go to the chosen hosts
	perToR    int
	chosen    []int32 // ToRs by their number among ToRs, in the order drawn
	others    []int32
	hosts     int
	isChosen  []bool
	isUniform bool
}

func newPattern(g *Graph, p scenario.Pattern, seed uint64) (*pattern, error) {
	tors := g.spec.Pods * g.spec.ToRs
	out := &pattern{share: p.Share, perToR: g.spec.Hosts, hosts: g.hosts, isChosen: make([]bool, tors)}
	if p.Kind != "uniform" && p.Kind != "" && !(p.Share >= 0 && p.Share <= 1) {
		return nil, fmt.Errorf("pattern %s: a share is from 0 to 1", p)
	}
	switch p.Kind {
	case "uniform", "":
		out.isUniform = true
		return out, nil
	case "skew":
		n := int(math.Ceil(p.ToRs*float64(tors) - 1e-9)) // 0.1 of 10 is 1
		for _, i := range newDice(seed, "skew").rng.Perm(tors)[:min(max(n, 0), tors)] {
			out.isChosen[i] = true
		}
	case "hot":
		n, ok := g.Lookup(p.ToR)
		if !ok || !g.IsDevice(n) {
			return nil, fmt.Errorf("pattern %s: the fabric has no tor %q", p, p.ToR)
		}
		tier, pod, i := g.tier(n)
		if tier != "tor" {
			return nil, fmt.Errorf("pattern %s: %s is no tor", p, p.ToR)
		}
		out.isChosen[pod*g.spec.ToRs+i] = true
	default:
		return nil, fmt.Errorf("pattern %q is not known; use uniform, skew or hot", p.Kind)
	}
	for i, c := range out.isChosen {
		if c {
			out.chosen = append(out.chosen, int32(i))
		} else {
			out.others = append(out.others, int32(i))
		}
	}
	return out, nil
}

// to draws a destination for a host.
func (p *pattern) to(d *dice, src int) int {
	if p.isUniform {
		dst := d.below(p.hosts - 1)
		if dst >= src {
			dst++
		}
		return dst
	}
	mine := p.isChosen[src/p.perToR]
	chosen, others := len(p.chosen)*p.perToR, len(p.others)*p.perToR
	if mine {
		chosen--
	} else {
		others--
	}
	list := p.others
	if others == 0 || chosen > 0 && unit(d.src.Uint64()) < p.share {
		list = p.chosen
	}
	for {
		dst := int(list[d.below(len(list))])*p.perToR + d.below(p.perToR)
		if dst != src {
			return dst
		}
	}
}
