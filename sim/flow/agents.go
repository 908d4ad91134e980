package flow

import "math"

// A device's agent, if it has one, and what is wrong with it.
type agent uint8

const (
	agentNone   agent = iota
	agentTrue         // says what it saw
	agentAstray       // says it, but of another port
	agentSilent       // says nothing, and yet that it is alive
)

// drawAgents chooses the devices that run an agent, and those of them that lie:
// half of these name a wrong port, half say nothing.
func drawAgents(g *Graph, instrumented, lying float64, seed uint64) []agent {
	all := make([]agent, g.Devices())
	order := newDice(seed, "instrumented").rng.Perm(len(all))
	order = order[:share(instrumented, len(order))]
	for _, i := range order {
		all[i] = agentTrue
	}
	for k, i := range order[:share(lying, len(order))] {
		all[i] = agentAstray + agent(k%2)
	}
	return all
}

// share is a part of n things, to the nearest.
func share(part float64, n int) int {
	return min(max(int(math.Round(part*float64(n))), 0), n)
}

// tells says whether a node's agent speaks of drops at all.
func (f *Fabric) tells(n Node) bool {
	return f.graph.IsDevice(n) && f.agents[n] != agentNone && f.agents[n] != agentSilent
}

// stray is the link that a device which errs names instead of one of its own, seen
// from it as leaving; with a single port it cannot err.
func (f *Fabric) stray(l Link) Link {
	list := f.graph.linksFrom(f.graph.from[l])
	for i, m := range list {
		if m == l {
			return list[(i+1)%len(list)]
		}
	}
	return l
}

// Instrumented says whether a device runs an agent that is alive all through a
// span of the run, whatever it says.
func (f *Fabric) Instrumented(n Node, from, to timeNS) bool {
	if !f.graph.IsDevice(n) || f.agents[n] == agentNone || from < f.late {
		return false
	}
	for _, ft := range f.faults {
		if ft.name == "device-down" && ft.device == n && ft.times.touches(from, to) {
			return false
		}
	}
	return true
}
