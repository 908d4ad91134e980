package sim

import (
	"context"
	"fmt"
	"time"

	"decaf/api"
	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/correlator"
	"decaf/sim/flow"
	"decaf/sim/scenario"
	"decaf/topology"
)

// Bounds on what a run on the flow-level fabric remembers of what agents said; past
// one the run ends with an error, since it could not be judged by all of it.
const (
	maxRetransmits = 1 << 18
	maxDropsKept   = 1 << 18
	maxFlowRows    = 1 << 22
)

// virtual is the flow-level fabric on a clock of its own, its records given to the
// correlator's engine as they arrive: nothing in it waits, and nothing is random but
// by the seed.
type virtual struct {
	topo   *topology.Topology
	flow   *flow.Fabric
	engine *correlator.Engine
	rule   correlator.ReportRule
	views  api.Views
	began  time.Time
	record bool // keep what only a recording needs

	clock   time.Duration
	stepped time.Duration // of the engine's last step
	next    *decafpb.Batch
	nextAt  time.Duration
	over    bool

	said    testimony
	reports []*decafpb.FaultReport
}

// everyStep is the engine's pace, as in the service.
var everyStep = correlator.DefaultConfig().Step

func newVirtual(t *topology.Topology, o RunOptions) (*virtual, error) {
	if o.Listen != "" || o.Keep {
		return nil, fmt.Errorf("on the flow-level fabric a run has no page and leaves no directory: leave --listen and --keep out, or see `decaf demo --fabric flow`")
	}
	f, err := flow.New(o.Scenario, o.Seed, flow.Options{Tail: settle})
	if err != nil {
		return nil, err
	}
	cfg := correlator.DefaultEngineConfig()
	findings := 0
	v := &virtual{
		topo: t, flow: f, rule: cfg.Report, views: api.NewViews(t), record: o.Record != "",
		engine: correlator.NewEngine(cfg, t, nil, func() string { findings++; return fmt.Sprintf("f-%d", findings) }),
	}
	v.said.heard = newPresence()
	v.engine.Watch(v.watching)
	o.Progress("fabric of %d devices and %d hosts, %d directed links, on a virtual clock", len(t.Devices), len(t.Hosts), len(t.Links))
	return v, nil
}

func (v *virtual) fabric() string     { return FabricFlow }
func (v *virtual) now() time.Duration { return v.clock }
func (v *virtual) close() error       { return nil }

func (v *virtual) start(context.Context) (time.Time, error) {
	v.began = v.flow.Start()
	v.read()
	return v.began, nil
}

// watching lists the devices whose agents were heard all through a time.
func (v *virtual) watching(from, to int64) (list []string) {
	for _, d := range v.topo.Devices {
		if ok, _ := v.said.heard.all(d.Name, from, to); ok {
			list = append(list, d.Name)
		}
	}
	return list
}

// read takes the next batch from the fabric.
func (v *virtual) read() {
	at, b, ok := v.flow.Next()
	v.nextAt, v.next, v.over = at, b, !ok
}

func (v *virtual) at(t time.Duration) int64 { return v.began.Add(t).UnixNano() }

func (v *virtual) wait(ctx context.Context, until time.Duration, each func()) error {
	for {
		step := v.stepped + everyStep
		if err := v.deliver(min(step, until)); err != nil {
			return err
		}
		if step > until {
			v.clock = max(v.clock, until)
			return ctx.Err()
		}
		v.clock, v.stepped = step, step
		v.engine.Step(v.at(step))
		if step%time.Second == 0 {
			v.revise()
			each()
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
}

// deliver gives the engine what arrives up to a time.
func (v *virtual) deliver(until time.Duration) error {
	for !v.over && v.nextAt <= until {
		if err := v.hear(v.next, v.at(v.nextAt)); err != nil {
			return err
		}
		v.engine.Add(v.next, v.at(v.nextAt))
		v.read()
	}
	return nil
}

// hear notes what agents say, before it becomes the engine's.
func (v *virtual) hear(b *decafpb.Batch, now int64) error {
	for _, h := range b.GetHeartbeats() {
		v.said.heard.beat(h.GetOrigin().GetProducer(), min(int64(h.GetTimeNs()), now))
	}
	for _, r := range b.GetRetransmits() {
		x := v.views.Retransmit(r)
		if x.Path != nil {
			x.Path.Hops = nil // the links say it all
		}
		v.said.retransmits = append(v.said.retransmits, x)
	}
	if v.record {
		if err := v.keep(b); err != nil {
			return err
		}
	}
	for _, k := range []struct {
		what      string
		have, max int
	}{
		{"retransmits", len(v.said.retransmits), maxRetransmits},
		{"drop events", len(v.said.drops) + len(v.said.counters), maxDropsKept},
		{"rows of flows", len(v.said.flows), maxFlowRows},
	} {
		if k.have > k.max {
			return fmt.Errorf("at %.1fs more than %d %s: make the scenario shorter, its traffic less or its faults rarer", v.nextAt.Seconds(), k.max, k.what)
		}
	}
	return nil
}

// keep notes what a recording needs beside.
func (v *virtual) keep(b *decafpb.Batch) error {
	for _, d := range b.GetDrops() {
		v.said.drops = append(v.said.drops, v.views.Drop(api.DropRow{DropEvent: d}))
	}
	for _, a := range b.GetAggregates() {
		v.said.counters = append(v.said.counters, counterRise{
			atNS: a.GetStartNs(), device: a.GetOrigin().GetProducer(), class: a.GetClass(), ingress: a.GetIngress(), packets: a.GetPackets(),
		})
	}
	for _, r := range b.GetFlows() {
		f, err := packet.FlowFromPB(r.GetFlow())
		if err != nil {
			return fmt.Errorf("a flow record of %s: %w", r.GetOrigin().GetProducer(), err)
		}
		v.said.flows = append(v.said.flows, flowRow{flow: f, startNS: r.GetStartNs(), endNS: r.GetEndNs(), packets: r.GetPackets()})
	}
	return nil
}

// The fabric has the scenario's faults in it.
func (v *virtual) faultOn(int, faultWindow) error { return nil }

func (v *virtual) faultOff(_ int, w faultWindow) (uint64, error) {
	if took := v.flow.Truth().Faults[w.fault].Windows; w.nth < len(took) {
		return took[w.nth], nil
	}
	return 0, nil
}

func (v *virtual) findings(context.Context, time.Time) ([]api.FindingView, error) {
	out := []api.FindingView{}
	for _, f := range v.engine.Findings() {
		out = append(out, v.views.Finding(f))
	}
	return out, nil
}

// drops are told by the engine in findings and verdicts only.
func (v *virtual) drops(context.Context, time.Time) ([]api.DropView, error) { return nil, nil }

func (v *virtual) file(_ context.Context, rep scenario.Report, began time.Time) (api.ReportView, error) {
	now := v.at(v.clock)
	pb := &decafpb.FaultReport{
		Id: fmt.Sprintf("r-%d", len(v.reports)+1), FiledNs: uint64(now), FromNs: uint64(began.UnixNano()),
		Src: rep.Src, Dst: rep.Dst, SrcPort: uint32(rep.SrcPort), DstPort: uint32(rep.DstPort), Says: rep.Says,
	}
	if err := v.rule.Check(pb, now); err != nil {
		return api.ReportView{}, err
	}
	if err := v.answer(pb, now); err != nil {
		return api.ReportView{}, err
	}
	v.reports = append(v.reports, pb)
	return v.views.Report(pb), nil
}

// answer gives a report the verdict of this moment.
func (v *virtual) answer(pb *decafpb.FaultReport, now int64) error {
	verdict, err := v.engine.Answer(pb, v.said.heard.all, now)
	if err != nil {
		return err
	}
	old := pb.GetVerdict()
	verdict.Revision = max(1, old.GetRevision())
	if old != nil && (old.GetVerdict() != verdict.GetVerdict() || old.GetComponent() != verdict.GetComponent() ||
		old.GetClass() != verdict.GetClass() || old.GetFinal() != verdict.GetFinal()) {
		verdict.Revision++
	}
	pb.Verdict = verdict
	return nil
}

// revise answers again the reports that are not final.
func (v *virtual) revise() {
	for _, pb := range v.reports {
		if !pb.GetVerdict().GetFinal() {
			_ = v.answer(pb, v.at(v.clock)) // it was answered once, and its ends stay hosts
		}
	}
}

func (v *virtual) report(_ context.Context, id string) (api.ReportView, error) {
	for _, pb := range v.reports {
		if pb.GetId() == id {
			return v.views.Report(pb), nil
		}
	}
	return api.ReportView{}, api.NotFound("no report %q", id)
}

func (v *virtual) testimony(context.Context) (*testimony, error) { return &v.said, nil }

func (v *virtual) truth() (*fabricTruth, error) {
	t := v.flow.Truth()
	if t.LeftOut > 0 {
		return nil, fmt.Errorf("%d packets more than are listed were lost: make the faults shorter or rarer, or the traffic less", t.LeftOut)
	}
	out := &fabricTruth{linksUsed: t.LinksUsed, linksTotal: v.flow.Graph().Links(), losses: make([]loss, 0, len(t.Losses))}
	for _, x := range t.Losses {
		out.losses = append(out.losses, loss{
			atNS: uint64(v.at(x.At)), flow: x.Flow, seq: x.Seq, data: x.Data > 0, link: x.Link, fault: x.Fault, probe: x.Probe,
		})
	}
	return out, nil
}
