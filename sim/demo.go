package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"decaf/sim/scenario"
	"decaf/topology"
)

// The times of one round of the demo: calm, then a fault, and after a while
// with it a user who complains.
const (
	demoCalm   = 15 * time.Second
	demoFault  = 30 * time.Second
	demoReport = 12 * time.Second // after the fault began
)

// demoFaults are what goes wrong, round after round.
var demoFaults = []scenario.Fault{
	{Kind: "silent-loss", On: "random fabric link", Rate: 0.05},
	{Kind: "acl", On: "random t2", Rate: 1},
	{Kind: "queue", On: "random fabric link", Rate: 1},
	{Kind: "silent-loss", On: "random link", Rate: 0.02},
	{Kind: "no-route", On: "random t2", Rate: 1},
}

// demoScenario is the fabric and traffic of the demo, with the fault of one
// round.
func demoScenario(round int) *scenario.Scenario {
	f := demoFaults[round%len(demoFaults)]
	f.At, f.For = demoCalm, demoFault
	return &scenario.Scenario{
		Name:         fmt.Sprintf("demo round %d", round+1),
		Fabric:       scenario.Fabric{Kind: "clos", ClosSpec: topology.ClosSpec{Site: "demo", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2}},
		Traffic:      scenario.Traffic{ConnectionsPerHost: 10, PacketsMin: 1, PacketsMax: 100, Pattern: scenario.Pattern{Kind: "uniform"}},
		Duration:     demoCalm + demoFault,
		Instrumented: 1,
		Faults:       []scenario.Fault{f},
		Reports:      []scenario.Report{{At: demoCalm + demoReport, Src: "through fault 0", Dst: "through fault 0", Says: "it froze"}},
	}
}

// Demo runs a fabric whose faults come and go, a different one each round,
// until the context ends. Needs root.
func Demo(ctx context.Context, o DemoOptions) error {
	first := demoScenario(0)
	t, err := first.Fabric.Topology()
	if err != nil {
		return err
	}
	lab, err := NewLab(ctx, LabOptions{Topology: t, Seed: o.Seed, Listen: o.Listen, Keep: o.Keep, Log: o.Log, Progress: o.Progress})
	if err != nil {
		return err
	}
	defer func() {
		o.Progress("taking the fabric down")
		if err := lab.Close(); err != nil {
			o.Progress("%v", err)
		}
	}()
	if err := lab.StartTraffic(first, o.Seed); err != nil {
		return err
	}
	o.Progress("\n  open %s\n\n  decaf findings --server %s    what is wrong now\n  decaf report HOST HOST --server %s    say that something is slow\n  Ctrl-C ends it\n",
		lab.URL, lab.URL, lab.URL)
	began := time.Now()
	told := map[string]bool{}
	for round := 0; ; round++ {
		err := demoRound(ctx, o, lab, round, began, told)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// DemoOptions says how to run the demo.
type DemoOptions struct {
	Seed     uint64
	Listen   string // address of the page
	Keep     bool
	Log      *slog.Logger
	Progress func(format string, args ...any)
}

func demoRound(ctx context.Context, o DemoOptions, lab *Lab, round int, began time.Time, told map[string]bool) error {
	s, err := demoScenario(round).Draw(lab.Topology, o.Seed+uint64(round))
	if err != nil {
		return err
	}
	r := &run{
		RunOptions: RunOptions{Scenario: s, Seed: o.Seed, Log: o.Log, Progress: o.Progress},
		lab:        lab, began: began, told: told, reports: make([]string, 1),
	}
	defer r.stopFaults()
	start := time.Now()
	for _, st := range r.steps() {
		if err := r.wait(ctx, start.Add(st.at)); err != nil {
			return err
		}
		if err := st.do(ctx); err != nil {
			return err
		}
	}
	return r.tellVerdict(ctx)
}

// tellVerdict says what the round's report was answered in the end.
func (r *run) tellVerdict(ctx context.Context) error {
	v, err := r.lab.client.report(ctx, r.reports[0])
	if err != nil {
		return err
	}
	r.say("the report's verdict now: %s (the fault was on %s)", verdictWords(v.Verdict), r.faults[0].Component)
	return nil
}
