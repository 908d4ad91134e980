package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"decaf/api"
	"decaf/sim/scenario"
)

// minTraced is the share of the flows which lost data on a silently lossy link
// that must have a traced path through it.
const minTraced = 0.95

// seen is everything a run is judged by.
type seen struct {
	scenario *scenario.Scenario
	began    time.Time
	faults   []PlayedFault
	findings []api.FindingView
	reports  []api.ReportView // in the scenario's order
	truth    Truth
}

// judge holds what was seen against what the scenario expects, and against what
// must hold in every run.
func judge(s seen) []Expectation {
	var out []Expectation
	add := func(held bool, what, saw string, args ...any) {
		out = append(out, Expectation{What: what, Held: held, Saw: fmt.Sprintf(saw, args...)})
	}
	for _, want := range s.scenario.Expect.Findings {
		held, saw := s.finding(want)
		add(held, describeFinding(want), "%s", saw)
	}
	for _, want := range s.scenario.Expect.Verdicts {
		held, saw := s.verdict(want)
		add(held, describeVerdict(want), "%s", saw)
		if held && s.deviceSees(want.Component) {
			match, ok := sameSegment(s.reports[want.Report].Verdict.Evidence)
			add(ok, fmt.Sprintf("verdict %d shows a device drop and a retransmit of the same segment", want.Report), "%s", match)
		}
	}
	if limit := s.scenario.Expect.FalseFindings; limit != nil {
		wrong := s.falseFindings()
		saw := "none"
		if len(wrong) > 0 {
			saw = strings.Join(wrong, ", ")
		}
		add(len(wrong) <= *limit, fmt.Sprintf("at most %d false findings", *limit), "%s", saw)
	}
	if len(s.faults) == 0 {
		add(s.truth.LinksUsed == s.truth.LinksTotal, "every link carries flows", "%d of %d", s.truth.LinksUsed, s.truth.LinksTotal)
	}
	// Where traces are rationed, the ration says how many there are.
	if s.truth.LossyFlows > 0 && s.scenario.TraceBudget == 0 {
		share := float64(s.truth.TracedFlows) / float64(s.truth.LossyFlows)
		add(share >= minTraced, fmt.Sprintf("of the flows that lost data on the lossy link, %.0f %% are traced through it", minTraced*100),
			"%d of %d (%.1f %%)", s.truth.TracedFlows, s.truth.LossyFlows, share*100)
	}
	add(s.truth.ProbeDrops == 0, "no drop of decaf's own probes is evidence", "%d", s.truth.ProbeDrops)
	return out
}

func describeFinding(want scenario.ExpectFinding) string {
	what := "finding " + want.Component
	if want.Class != "" {
		what += " of class " + want.Class
	}
	if want.By == 0 {
		return fmt.Sprintf("%s, detected from %v on", what, want.From)
	}
	return fmt.Sprintf("%s, detected between %v and %v", what, want.From, want.By)
}

func describeVerdict(want scenario.ExpectVerdict) string {
	what := fmt.Sprintf("report %d: verdict %s", want.Report, want.Verdict)
	if want.Component != "" {
		what += ", " + want.Component
	}
	if want.Class != "" {
		what += ", class " + want.Class
	}
	return what
}

func (s seen) since(ns uint64) time.Duration {
	return time.Unix(0, int64(ns)).Sub(s.began)
}

func (s seen) finding(want scenario.ExpectFinding) (held bool, saw string) {
	saw = "no such finding"
	for _, f := range s.findings {
		if f.Component != want.Component || want.Class != "" && f.Class != want.Class {
			continue
		}
		at := s.since(f.DetectedNS)
		saw = fmt.Sprintf("detected at %.1fs", at.Seconds())
		if at >= want.From && (want.By == 0 || at <= want.By) {
			return true, saw
		}
	}
	return false, saw
}

func (s seen) verdict(want scenario.ExpectVerdict) (held bool, saw string) {
	if want.Report >= len(s.reports) || s.reports[want.Report].Verdict == nil {
		return false, "no verdict"
	}
	v := s.reports[want.Report].Verdict
	saw = v.Verdict
	if v.Component != "" {
		saw += ", " + v.Component
	}
	if v.Class != "" {
		saw += ", class " + v.Class
	}
	if len(v.Evidence.Reasons) > 0 && v.Verdict != want.Verdict {
		saw += " (" + strings.Join(v.Evidence.Reasons, "; ") + ")"
	}
	held = v.Verdict == want.Verdict &&
		(want.Component == "" || v.Component == want.Component) &&
		(want.Class == "" || v.Class == want.Class)
	return held, saw
}

// falseFindings lists the findings that name anything but a component which a
// fault made lossy.
func (s seen) falseFindings() []string {
	var wrong []string
	for _, f := range s.findings {
		if !slices.ContainsFunc(s.faults, func(p PlayedFault) bool { return p.Component == f.Component }) {
			wrong = append(wrong, fmt.Sprintf("%s (detected at %.1fs)", f.Component, s.since(f.DetectedNS).Seconds()))
		}
	}
	return wrong
}

// deviceSees says whether the fault on a component is one whose drops the
// device itself notices, and surely has an agent to tell. A routing loop is not
// among them: the ICMP error that ends each of its packets ends the connection
// too, so that the segment which the device dropped is never sent again.
func (s seen) deviceSees(component string) bool {
	return s.scenario.Instrumented == 1 && s.scenario.Lying == 0 && s.scenario.AgentsLate == 0 && slices.ContainsFunc(s.faults, func(p PlayedFault) bool {
		return p.Component == component && slices.Contains([]string{"acl", "no-route", "queue", "blackhole", "mtu", "route-flap"}, p.Kind)
	})
}

// sameSegment finds a device drop and a retransmit of one five-tuple and TCP
// sequence number in the evidence.
func sameSegment(e api.EvidenceView) (string, bool) {
	type segment struct {
		flow api.FlowView
		seq  uint32
	}
	dropped := map[segment]string{}
	for _, d := range e.Drops {
		if d.Flow != nil && d.TCPSeq != nil {
			dropped[segment{*d.Flow, *d.TCPSeq}] = d.Device
		}
	}
	for _, r := range e.Retransmits {
		if r.Flow == nil {
			continue
		}
		if device, ok := dropped[segment{*r.Flow, r.TCPSeq}]; ok {
			return fmt.Sprintf("%s seq %d, dropped by %s, sent again by %s", r.Flow, r.TCPSeq, device, r.Host), true
		}
	}
	return fmt.Sprintf("none among %d drops and %d retransmits shown", len(e.Drops), len(e.Retransmits)), false
}

// probeDrops counts the device drops that are probes of the given traces.
func probeDrops(drops []api.DropView, paths []api.RetransmitView) int {
	type probe struct {
		flow api.FlowView
		seq  uint32
	}
	sent := map[probe]bool{}
	for _, r := range paths {
		if r.Path != nil && r.Flow != nil && r.Path.ProbeSeq != 0 {
			sent[probe{*r.Flow, r.Path.ProbeSeq}] = true
		}
	}
	n := 0
	for _, d := range drops {
		if d.Flow != nil && d.TCPSeq != nil && sent[probe{*d.Flow, *d.TCPSeq}] {
			n++
		}
	}
	return n
}
