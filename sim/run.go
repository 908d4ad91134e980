package sim

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"decaf/api"
	"decaf/sim/kernel"
	"decaf/sim/scenario"
	"decaf/topology"
)

// settle is how long a run goes on watching after its last event: the last
// evidence has to travel, and a finding that ought not to be has time to show.
const settle = 4 * time.Second

// RunOptions says how to play a scenario.
type RunOptions struct {
	Scenario *scenario.Scenario
	Seed     uint64 // 0: the scenario's own
	Listen   string // address of the page while it runs
	Keep     bool   // keep the run's directory: configurations, logs, evidence
	Log      *slog.Logger
	Progress func(format string, args ...any)
}

// step is one thing that happens at a time after the beginning.
type step struct {
	at time.Duration
	do func(ctx context.Context) error
}

// run is a scenario being played.
type run struct {
	RunOptions
	lab     *Lab
	began   time.Time
	faults  []PlayedFault
	active  []*kernel.Active // by index of faults; nil once stopped
	lost    []lostData
	reports []string                   // ids, by number in the scenario
	told    map[string]bool            // what tell has said
	before  map[string]kernel.Counters // per link, at the beginning
}

// Run plays a scenario on the kernel fabric and judges what decaf made of it.
// An error means that it could not be played; broken expectations are no error.
func Run(ctx context.Context, o RunOptions) (*Result, error) {
	if o.Seed == 0 {
		o.Seed = o.Scenario.Seed
	}
	t, err := o.Scenario.Fabric.Topology()
	if err != nil {
		return nil, err
	}
	if o.Scenario, err = o.Scenario.Draw(t, o.Seed); err != nil {
		return nil, err
	}
	if err := checkRunnable(t, o.Scenario); err != nil {
		return nil, fmt.Errorf("scenario %s: %w", o.Scenario.Name, err)
	}
	lab, err := NewLab(ctx, LabOptions{Topology: t, Seed: o.Seed, TraceBudget: o.Scenario.TraceBudget,
		Listen: o.Listen, Keep: o.Keep, Log: o.Log, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	defer lab.Close()
	r := &run{RunOptions: o, lab: lab, reports: make([]string, len(o.Scenario.Reports)), told: map[string]bool{}}
	return r.play(ctx)
}

// checkRunnable refuses keys that this fabric cannot honour. Noise alone is
// let pass: the kernel loses what it loses.
func checkRunnable(t *topology.Topology, s *scenario.Scenario) error {
	for _, key := range []struct {
		name  string
		given bool
	}{
		{"instrumented", s.Instrumented != 1},
		{"lying", s.Lying != 0},
		{"agents_late", s.AgentsLate != 0},
	} {
		if key.given {
			return fmt.Errorf("%s: the kernel fabric cannot do this; leave it out", key.name)
		}
	}
	for i, f := range s.Faults {
		if err := kernel.CheckFault(t, f); err != nil {
			return fmt.Errorf("faults[%d]: %w", i, err)
		}
	}
	return nil
}

func (r *run) play(ctx context.Context) (*Result, error) {
	defer r.stopFaults()
	s := r.Scenario
	if s.Noise > 0 {
		r.Progress("noise %g is ignored: the kernel fabric loses only what its faults lose", s.Noise)
	}
	var err error
	if r.before, err = r.lab.Fabric.LinkCounters(); err != nil {
		return nil, err
	}
	if err := r.lab.StartTraffic(s, r.Seed); err != nil {
		return nil, err
	}
	r.began = time.Now()
	for _, st := range r.steps() {
		if err := r.wait(ctx, r.began.Add(st.at)); err != nil {
			return nil, err
		}
		if err := st.do(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.wait(ctx, r.began.Add(s.Duration+settle)); err != nil {
		return nil, err
	}
	if err := r.stopFaults(); err != nil {
		return nil, err
	}
	return r.result(ctx)
}

// steps lists all that happens, in time order.
func (r *run) steps() []step {
	s := r.Scenario
	var steps []step
	for _, f := range s.Faults {
		for _, w := range f.Windows(s.Duration) {
			n := len(r.faults)
			r.faults = append(r.faults, PlayedFault{Kind: f.Kind, On: f.On, Component: f.Component()})
			r.active = append(r.active, nil)
			steps = append(steps,
				step{w.Start, func(context.Context) error { return r.startFault(n, f) }},
				step{w.End, func(context.Context) error { return r.stopFault(n) }})
		}
	}
	for i, rep := range s.Reports {
		steps = append(steps, step{rep.At, func(ctx context.Context) error { return r.report(ctx, i, rep) }})
	}
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	return steps
}

// wait lets time pass until t, telling findings as they come.
func (r *run) wait(ctx context.Context, t time.Time) error {
	end := time.NewTimer(time.Until(t))
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-r.lab.Died():
			return err
		case <-end.C:
			return nil
		case <-tick.C:
			r.tell(ctx)
		}
	}
}

// tell reports findings that opened or were resolved since the last call.
func (r *run) tell(ctx context.Context) {
	findings, err := r.lab.client.findings(ctx, r.began)
	if err != nil {
		return // the next tick asks again; the end of the run insists
	}
	for _, f := range findings {
		if state := f.ID + f.State; !r.told[state] {
			r.told[state] = true
			r.say("finding %s: %s", f.State, strings.TrimSpace(f.Component+" "+f.Class))
		}
	}
}

func (r *run) say(format string, args ...any) {
	r.Progress("%5.1fs  "+format, append([]any{time.Since(r.began).Seconds()}, args...)...)
}

func (r *run) startFault(n int, f scenario.Fault) error {
	a, err := r.lab.Fabric.Apply(f)
	if err != nil {
		return fmt.Errorf("fault %s on %s: %w", f.Kind, f.On, err)
	}
	r.active[n] = a
	r.faults[n].StartNS = uint64(time.Now().UnixNano())
	r.say("fault on:  %s on %s", f.Kind, f.On)
	return nil
}

func (r *run) stopFault(n int) error {
	a := r.active[n]
	if a == nil {
		return nil
	}
	r.active[n] = nil
	err := a.Stop()
	truth := a.Truth()
	f := &r.faults[n]
	f.EndNS = uint64(time.Now().UnixNano())
	f.Dropped = truth.Packets
	r.lost = append(r.lost, lostOn(*f, truth)...)
	r.say("fault off: %s on %s, %d packets lost", f.Kind, f.On, f.Dropped)
	if err != nil {
		return fmt.Errorf("end fault %s on %s: %w", f.Kind, f.On, err)
	}
	// Without the whole truth there is nothing to hold decaf against.
	if truth.Err != nil {
		return fmt.Errorf("count what %s on %s lost: %w", f.Kind, f.On, truth.Err)
	}
	if truth.LeftOut > 0 {
		return fmt.Errorf("%s on %s lost %d packets more than are listed: make the fault shorter or rarer", f.Kind, f.On, truth.LeftOut)
	}
	return nil
}

func (r *run) stopFaults() error {
	for n := range r.active {
		if err := r.stopFault(n); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) report(ctx context.Context, i int, rep scenario.Report) error {
	filed, err := r.lab.client.file(ctx, rep, r.began)
	if err != nil {
		return fmt.Errorf("report %d: %w", i, err)
	}
	r.reports[i] = filed.ID
	r.say("report %d: %s > %s %q: %s", i, rep.Src, rep.Dst, rep.Says, verdictWords(filed.Verdict))
	return nil
}

func verdictWords(v *api.VerdictView) string {
	switch {
	case v == nil:
		return "no verdict yet"
	case v.Component == "":
		return v.Verdict
	}
	return v.Verdict + ", " + v.Component
}

// result asks the service for all it found, and the fabric for the truth.
func (r *run) result(ctx context.Context) (*Result, error) {
	findings, err := r.lab.client.findings(ctx, r.began)
	if err != nil {
		return nil, err
	}
	paths, err := r.lab.client.paths(ctx, r.began)
	if err != nil {
		return nil, err
	}
	drops, err := r.lab.client.drops(ctx, r.began)
	if err != nil {
		return nil, err
	}
	reports := make([]api.ReportView, len(r.reports))
	verdicts := []ReportVerdict{}
	for i, id := range r.reports {
		if reports[i], err = r.lab.client.report(ctx, id); err != nil {
			return nil, err
		}
		drops = append(drops, evidenceDrops(reports[i])...)
		if v := reports[i].Verdict; v != nil {
			verdicts = append(verdicts, ReportVerdict{Report: i, VerdictView: *v})
		}
	}
	for _, f := range findings {
		drops = append(drops, f.Evidence.Drops...)
	}
	truth, err := r.truth(drops, paths)
	if err != nil {
		return nil, err
	}
	out := &Result{
		Scenario: r.Scenario.Name, Fabric: "kernel", Seed: r.Seed, BeganNS: uint64(r.began.UnixNano()),
		Faults: r.faults, Findings: findings, Verdicts: verdicts, Truth: truth,
	}
	out.Expectations = judge(seen{scenario: r.Scenario, began: r.began, faults: r.faults, findings: findings, reports: reports, truth: truth})
	out.Passed = !slices.ContainsFunc(out.Expectations, func(e Expectation) bool { return !e.Held })
	return out, nil
}

func evidenceDrops(r api.ReportView) []api.DropView {
	if r.Verdict == nil {
		return nil
	}
	return r.Verdict.Evidence.Drops
}
