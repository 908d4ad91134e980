package flow_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"decaf/correlator"
	"decaf/sim/flow"
	"decaf/sim/scenario"
	"decaf/sim/scenarios"
)

// The correlator cannot tell this fabric's records from the agents': every built-in
// scenario's findings come in time, and no others.
func TestCorrelatorFindsFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("plays every scenario several times")
	}
	for _, name := range []string{"silent-loss-1", "silent-loss-5", "acl", "no-route", "queue"} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) { playAndJudge(t, name, seed) })
		}
	}
}

func playAndJudge(t *testing.T, name string, seed uint64) {
	data, ok := scenarios.Get(name)
	if !ok {
		t.Fatalf("no scenario %s", name)
	}
	s, err := scenario.Parse(name, data)
	if err != nil {
		t.Fatal(err)
	}
	topo, err := s.Fabric.Topology()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = s.Draw(topo, seed); err != nil {
		t.Fatal(err)
	}
	f, err := flow.New(s, seed, flow.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ids := 0
	e := correlator.NewEngine(correlator.DefaultEngineConfig(), topo, nil, func() string { ids++; return fmt.Sprint(ids) })
	start := f.Start().UnixNano()
	step := time.Second
	for {
		at, b, ok := f.Next()
		for ; step <= at || !ok && step <= s.Duration; step += time.Second {
			e.Step(start + int64(step))
		}
		if !ok {
			break
		}
		e.Add(b, start+int64(at))
	}
	truth := f.Truth()
	for _, want := range s.Expect.Findings {
		held := false
		for _, got := range e.Findings() {
			at := time.Duration(int64(got.GetDetectedNs()) - start)
			if got.GetComponent() == want.Component && (want.Class == "" || want.Class == got.GetClass()) && at >= want.From && at <= want.By {
				held = true
			}
		}
		if !held {
			t.Errorf("%s is not found in time; the fault took %d packets; findings: %v", want.Component, truth.Faults[0].Packets, e.Findings())
		}
	}
	for _, got := range e.Findings() {
		if !slices.ContainsFunc(s.Faults, func(x scenario.Fault) bool { return x.Component() == got.GetComponent() }) {
			t.Errorf("false finding: %s", got.GetComponent())
		}
	}
}
