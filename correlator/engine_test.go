package correlator

import (
	"fmt"

	"decaf/api/decafpb"
	"decaf/topology"
)

const stepEvery = int64(250e6)

// play feeds arrivals to a fresh engine in steps.
func play(topo *topology.Topology, arrivals []arrival, until int64) *Engine {
	return playWith(nil, topo, arrivals, until)
}

// playWith does so with a method; nil for the default.
func playWith(m Method, topo *topology.Topology, arrivals []arrival, until int64) *Engine {
	n := 0
	e := NewEngine(DefaultEngineConfig(), topo, m, func() string { n++; return fmt.Sprintf("f%d", n) })
	next := 0
	for now := arrivals[0].at / stepEvery * stepEvery; now <= until; now += stepEvery {
		for next < len(arrivals) && arrivals[next].at <= now {
			e.Add(arrivals[next].batch, arrivals[next].at)
			next++
		}
		e.Step(now)
	}
	return e
}

// found gives the findings by component; the test fails on two of one
// component unless again is set.
func components(e *Engine) map[string]*decafpb.Finding {
	m := make(map[string]*decafpb.Finding)
	for _, f := range e.Findings() {
		m[f.GetComponent()] = f
	}
	return m
}
