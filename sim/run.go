package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"decaf/api"
	"decaf/sim/scenario"
	"decaf/topology"
)

// settle is how long a run goes on watching after its last event: the last
// evidence has to travel, and a finding that ought not to be has time to show.
const settle = 4 * time.Second

// RunOptions says how to play a scenario.
type RunOptions struct {
	Scenario *scenario.Scenario
	Fabric   string // FabricKernel or FabricFlow
	Seed     uint64 // 0: the scenario's own
	Record   string // file for the run's evidence and truth; "" none
	// Of the kernel fabric only: the address of the page while it runs, "" for any
	// port, and whether to keep the run's directory (configurations, logs, evidence).
	Listen   string
	Keep     bool
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
	stage
	began   time.Time
	faults  []PlayedFault
	windows []faultWindow   // by index of faults
	on      []bool          // by index of faults
	reports []string        // ids, by number in the scenario
	told    map[string]bool // what tell has said
}

// Run plays a scenario and judges what decaf made of it. An error means that it
// could not be played; broken expectations are no error.
func Run(ctx context.Context, o RunOptions) (_ *Result, err error) {
	if o.Seed == 0 {
		o.Seed = o.Scenario.Seed
	}
	o.Log = discard(o.Log)
	t, err := o.Scenario.Fabric.Topology()
	if err != nil {
		return nil, err
	}
	if o.Scenario, err = o.Scenario.Draw(t, o.Seed); err != nil {
		return nil, err
	}
	var file *newFile
	if o.Record != "" { // before minutes of playing, not after
		if file, err = createFile(o.Record); err != nil {
			return nil, fmt.Errorf("--record: %w", err)
		}
		defer file.abandon()
	}
	c, err := newJudgeable(ctx, t, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	r := &run{RunOptions: o, stage: c, reports: make([]string, len(o.Scenario.Reports)), told: map[string]bool{}}
	return r.play(ctx, c, t, file)
}

func (r *run) play(ctx context.Context, c judgeable, t *topology.Topology, file *newFile) (_ *Result, err error) {
	defer func() { err = errors.Join(err, r.stopFaults()) }()
	if r.began, err = r.start(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := r.through(ctx, r.plan(0, r.Scenario.Duration)); err != nil {
		return nil, err
	}
	if err := r.wait(ctx, r.Scenario.Duration+settle, func() { r.tell(ctx) }); err != nil {
		return nil, err
	}
	if err := r.stopFaults(); err != nil {
		return nil, err
	}
	r.Progress("%v played in %.1f s", r.Scenario.Duration, time.Since(began).Seconds())
	said, err := c.testimony(ctx)
	if err != nil {
		return nil, err
	}
	truth, err := c.truth()
	if err != nil {
		return nil, err
	}
	if file != nil {
		leftOut, err := record(file, t, r.Scenario, r.began, said, truth)
		if err != nil {
			return nil, fmt.Errorf("--record: %w", err)
		}
		if err := file.commit(); err != nil {
			return nil, fmt.Errorf("--record: %w", err)
		}
		r.Progress("evidence and truth are in %s (%d connections left out, whose acknowledgements may have been lost); try: decaf sim replay %s", r.Record, leftOut, r.Record)
	}
	return r.result(ctx, said, truth)
}

// through lets steps happen.
func (r *run) through(ctx context.Context, steps []step) error {
	for _, st := range steps {
		if err := r.wait(ctx, st.at, func() { r.tell(ctx) }); err != nil {
			return err
		}
		if err := st.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// plan lists the faults and reports of the scenario that begin in [from, to), in order
// of time; a fault ends with it at the latest.
func (r *run) plan(from, to time.Duration) []step {
	var steps []step
	for i, f := range r.Scenario.Faults {
		for k, w := range f.Windows(to) {
			if w.Start < from {
				continue
			}
			n := len(r.faults)
			r.faults = append(r.faults, PlayedFault{Kind: f.Kind, On: f.On, Component: f.Component()})
			r.windows = append(r.windows, faultWindow{w, f, i, k})
			r.on = append(r.on, false)
			steps = append(steps,
				step{w.Start, func(context.Context) error { return r.startFault(n) }},
				step{w.End, func(context.Context) error { return r.stopFault(n) }})
		}
	}
	for i, rep := range r.Scenario.Reports {
		if rep.At >= from && rep.At < to {
			steps = append(steps, step{rep.At, func(ctx context.Context) error { return r.fileReport(ctx, i, rep) }})
		}
	}
	return inOrder(steps)
}

func inOrder(steps []step) []step {
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return steps
}

// tell reports findings that opened or were resolved since the last call.
func (r *run) tell(ctx context.Context) {
	findings, err := r.findings(ctx, r.began)
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
	r.Progress("%5.1fs  "+format, append([]any{r.now().Seconds()}, args...)...)
}

func (r *run) timeNS() uint64 { return uint64(r.began.Add(r.now()).UnixNano()) }

func (r *run) startFault(n int) error {
	w := r.windows[n]
	if err := r.faultOn(n, w); err != nil {
		return fmt.Errorf("fault %s on %s: %w", w.Kind, w.On, err)
	}
	r.on[n] = true
	r.faults[n].StartNS = r.timeNS()
	r.say("fault on:  %s on %s", w.Kind, w.On)
	return nil
}

func (r *run) stopFault(n int) error {
	if !r.on[n] {
		return nil
	}
	r.on[n] = false
	w, f := r.windows[n], &r.faults[n]
	var err error
	f.Dropped, err = r.faultOff(n, w)
	f.EndNS = r.timeNS()
	if err != nil {
		return fmt.Errorf("end of fault %s on %s: %w", w.Kind, w.On, err)
	}
	r.say("fault off: %s on %s, %d packets lost", w.Kind, w.On, f.Dropped)
	return nil
}

func (r *run) stopFaults() error {
	var all error
	for n := range r.on {
		all = errors.Join(all, r.stopFault(n))
	}
	return all
}

func (r *run) fileReport(ctx context.Context, i int, rep scenario.Report) error {
	filed, err := r.file(ctx, rep, r.began)
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

// result asks decaf for all it found, and holds it against the truth.
func (r *run) result(ctx context.Context, said *testimony, truth *fabricTruth) (*Result, error) {
	findings, err := r.findings(ctx, r.began)
	if err != nil {
		return nil, err
	}
	drops, err := r.drops(ctx, r.began)
	if err != nil {
		return nil, err
	}
	reports := make([]api.ReportView, len(r.reports))
	verdicts := []ReportVerdict{}
	for i, id := range r.reports {
		if reports[i], err = r.report(ctx, id); err != nil {
			return nil, err
		}
		if v := reports[i].Verdict; v != nil {
			drops = append(drops, v.Evidence.Drops...)
			verdicts = append(verdicts, ReportVerdict{Report: i, VerdictView: *v})
		}
	}
	for _, f := range findings {
		drops = append(drops, f.Evidence.Drops...)
	}
	out := &Result{
		Scenario: r.Scenario.Name, Fabric: r.fabric(), Seed: r.Seed, BeganNS: uint64(r.began.UnixNano()),
		Faults: r.faults, Findings: findings, Verdicts: verdicts,
		Truth: truthOf(r.Scenario, r.began, drops, said, truth),
	}
	out.Expectations = judge(seen{scenario: r.Scenario, began: r.began, faults: r.faults, findings: findings, reports: reports, truth: out.Truth})
	out.Passed = !slices.ContainsFunc(out.Expectations, func(e Expectation) bool { return !e.Held })
	return out, nil
}
