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
	return feed(NewEngine(DefaultEngineConfig(), topo, m, counter("f")), arrivals, until, func() {})
}

// feed gives arrivals to an engine in steps, and calls after each.
func feed(e *Engine, arrivals []arrival, until int64, after func()) *Engine {
	for now := arrivals[0].at / stepEvery * stepEvery; now <= until; now += stepEvery {
		for len(arrivals) > 0 && arrivals[0].at <= now {
			e.Add(arrivals[0].batch, arrivals[0].at)
			arrivals = arrivals[1:]
		}
		e.Step(now)
		after()
	}
	return e
}

// counter draws ids that count up.
func counter(prefix string) func() string {
	n := 0
	return func() string { n++; return fmt.Sprint(prefix, n) }
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
