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

// pace is the times of one round of the demo: calm, then a fault, and after a while
// with it a user who complains.
type pace struct {
	calm, fault time.Duration
	report      time.Duration // after the fault began
}

var demoPace = pace{calm: 15 * time.Second, fault: 30 * time.Second, report: 12 * time.Second}

func (p pace) round() time.Duration { return p.calm + p.fault }

// demoFaults are what goes wrong, round after round.
var demoFaults = []scenario.Fault{
	{Kind: "silent-loss", On: "random fabric link", Rate: 0.05},
	{Kind: "acl", On: "random t2", Rate: 1},
	{Kind: "queue", On: "random fabric link", Rate: 1},
	{Kind: "silent-loss", On: "random link", Rate: 0.02},
	{Kind: "no-route", On: "random t2", Rate: 1},
}

// demoRounds is how many rounds there are, each with a component of its own, before
// they come again.
const demoRounds = 60

// demoScenario is the fabric, traffic and faults of the demo: a round each, and each
// again and again, without an end that anyone would see.
func demoScenario(p pace) *scenario.Scenario {
	s := &scenario.Scenario{
		Name:         "demo",
		Fabric:       scenario.Fabric{Kind: "clos", ClosSpec: topology.ClosSpec{Site: "demo", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2}},
		Traffic:      scenario.Traffic{ConnectionsPerHost: 10, PacketsMin: 1, PacketsMax: 100, Pattern: scenario.Pattern{Kind: "uniform"}},
		Duration:     10 * 365 * 24 * time.Hour,
		Instrumented: 1,
	}
	for i := range demoRounds {
		f := demoFaults[i%len(demoFaults)]
		f.At, f.For, f.Every = time.Duration(i)*p.round()+p.calm, p.fault, demoRounds*p.round()
		through := fmt.Sprintf("through fault %d", i)
		s.Faults = append(s.Faults, f)
		s.Reports = append(s.Reports, scenario.Report{At: f.At + p.report, Src: through, Dst: through, Says: "it froze"})
	}
	return s
}

// DemoOptions says how to run the demo.
type DemoOptions struct {
	Fabric   string // FabricKernel or FabricFlow
	Seed     uint64
	Listen   string // address of the page
	Keep     bool
	Log      *slog.Logger
	Progress func(format string, args ...any)
	pace     pace // zero: demoPace
}

// Demo runs a fabric whose faults come and go, a different one each round,
// until the context ends.
func Demo(ctx context.Context, o DemoOptions) (err error) {
	if o.pace == (pace{}) {
		o.pace = demoPace
	}
	o.Log = discard(o.Log)
	s := demoScenario(o.pace)
	t, err := s.Fabric.Topology()
	if err != nil {
		return err
	}
	if s, err = s.Draw(t, o.Seed); err != nil {
		return err
	}
	st, url, err := demoStage(ctx, o, t, s)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		o.Progress("taking the fabric down")
		if err := st.close(); err != nil {
			o.Progress("%v", err)
		}
	}()
	began, err := st.start(ctx)
	if err == nil {
		o.Progress("\n  open %s\n\n  decaf findings --server %s    what is wrong now\n  decaf report HOST HOST --server %s    say that something is slow\n  Ctrl-C ends it\n",
			url, url, url)
	}
	told := map[string]bool{}
	for round := 0; err == nil; round++ {
		r := &run{
			RunOptions: RunOptions{Scenario: s, Fabric: o.Fabric, Seed: o.Seed, Log: o.Log, Progress: o.Progress},
			stage:      st, began: began, told: told, reports: make([]string, len(s.Reports)),
		}
		err = r.demoRound(ctx, o.pace, round)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// demoStage brings up the fabric, and all of decaf watching it, for as long as one
// likes; url is the page's.
func demoStage(ctx context.Context, o DemoOptions, t *topology.Topology, s *scenario.Scenario) (_ stage, url string, err error) {
	lab := LabOptions{Topology: t, Seed: o.Seed, Listen: o.Listen, Keep: o.Keep, Log: o.Log, Progress: o.Progress}
	if o.Fabric == FabricFlow {
		l, err := newLive(ctx, t, s, lab)
		if err != nil {
			return nil, "", err
		}
		return l, l.url, nil
	}
	k, err := newKernelStage(ctx, s, lab, false)
	if err != nil {
		return nil, "", err
	}
	return k, k.lab.URL, nil
}

// demoRound plays one round and tells what the report was answered in the end.
func (r *run) demoRound(ctx context.Context, p pace, round int) (err error) {
	defer func() { err = errors.Join(err, r.stopFaults()) }()
	from, i := time.Duration(round)*p.round(), round%demoRounds
	all, rep := r.Scenario, r.Scenario.Reports[i]
	faults := *all
	faults.Reports = nil // they do not come again by themselves
	r.Scenario = &faults
	steps := append(r.plan(from, from+p.round()), step{from + p.calm + p.report, func(ctx context.Context) error { return r.fileReport(ctx, i, rep) }})
	r.Scenario = all
	if err := r.through(ctx, inOrder(steps)); err != nil {
		return err
	}
	v, err := r.report(ctx, r.reports[i])
	if err != nil {
		return err
	}
	r.say("the report's verdict now: %s (the fault was on %s)", verdictWords(v.Verdict), all.Faults[i].Component())
	return nil
}
