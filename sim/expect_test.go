package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/api"
	"decaf/sim/scenario"
)

var began = time.Unix(1_700_000_000, 0)

func at(d time.Duration) uint64 { return uint64(began.Add(d).UnixNano()) }

func finding(component, class string, detected time.Duration) api.FindingView {
	return api.FindingView{Component: component, Class: class, DetectedNS: at(detected)}
}

func zero() *int { n := 0; return &n }

// broken lists what did not hold, each as "what; saw".
func broken(all []Expectation) []string {
	var out []string
	for _, e := range all {
		if !e.Held {
			out = append(out, e.What+"; saw "+e.Saw)
		}
	}
	return out
}

func TestFindingIsExpectedInItsTime(t *testing.T) {
	want := scenario.ExpectFinding{Component: "link a>b", From: 10 * time.Second, By: 20 * time.Second}
	for _, c := range []struct {
		name     string
		findings []api.FindingView
		held     bool
	}{
		{"none", nil, false},
		{"in time", []api.FindingView{finding("link a>b", "", 14*time.Second)}, true},
		{"at the last moment", []api.FindingView{finding("link a>b", "", 20*time.Second)}, true},
		{"before the fault", []api.FindingView{finding("link a>b", "", 9*time.Second)}, false},
		{"too late", []api.FindingView{finding("link a>b", "", 21*time.Second)}, false},
		{"another link", []api.FindingView{finding("link b>a", "", 14*time.Second)}, false},
		{"early and again in time", []api.FindingView{finding("link a>b", "", time.Second), finding("link a>b", "", 14*time.Second)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := seen{scenario: &scenario.Scenario{Expect: scenario.Expect{Findings: []scenario.ExpectFinding{want}}}, began: began,
				faults: []PlayedFault{{Component: "link a>b"}}, findings: c.findings}
			if got := len(broken(judge(s))) == 0; got != c.held {
				t.Errorf("held %v, want %v: %v", got, c.held, judge(s))
			}
		})
	}
}

func TestFalseFindingIsAnyOtherComponent(t *testing.T) {
	s := seen{
		scenario: &scenario.Scenario{Expect: scenario.Expect{FalseFindings: zero()}}, began: began,
		faults:   []PlayedFault{{Component: "device t2-0"}},
		findings: []api.FindingView{finding("device t2-0", "policy/l3/acl", time.Second), finding("link t2-0>p0-t1-0", "", time.Second)},
	}
	got := broken(judge(s))
	if len(got) != 1 || !strings.Contains(got[0], "link t2-0>p0-t1-0") {
		t.Errorf("broken %q, want the link alone", got)
	}
}

func TestVerdictMustShowTheSegmentThatTheDeviceDropped(t *testing.T) {
	flow := api.FlowView{Src: "10.0.0.1", Dst: "10.1.0.1", SrcPort: 40000, DstPort: 5000, Protocol: "tcp"}
	back := api.FlowView{Src: "10.1.0.1", Dst: "10.0.0.1", SrcPort: 5000, DstPort: 40000, Protocol: "tcp"}
	seq := uint32(77)
	drop := api.DropView{Device: "t2-0", Flow: &flow, TCPSeq: &seq}
	for _, c := range []struct {
		name        string
		retransmits []api.RetransmitView
		held        bool
	}{
		{"same flow and sequence", []api.RetransmitView{{Flow: &flow, TCPSeq: 77}}, true},
		{"another sequence", []api.RetransmitView{{Flow: &flow, TCPSeq: 78}}, false},
		{"the way back", []api.RetransmitView{{Flow: &back, TCPSeq: 77}}, false},
		{"no retransmit", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := seen{
				scenario: &scenario.Scenario{Instrumented: 1, Expect: scenario.Expect{Verdicts: []scenario.ExpectVerdict{{Verdict: "network", Component: "device t2-0"}}}},
				began:    began,
				faults:   []PlayedFault{{Kind: "acl", Component: "device t2-0"}},
				reports: []api.ReportView{{Verdict: &api.VerdictView{Verdict: "network", Component: "device t2-0",
					Evidence: api.EvidenceView{Drops: []api.DropView{drop}, Retransmits: c.retransmits}}}},
			}
			if got := len(broken(judge(s))) == 0; got != c.held {
				t.Errorf("held %v, want %v: %v", got, c.held, judge(s))
			}
		})
	}
}

func TestVerdictIsHeldToEveryWordGiven(t *testing.T) {
	report := func(v *api.VerdictView) []api.ReportView { return []api.ReportView{{Verdict: v}} }
	want := scenario.ExpectVerdict{Verdict: "network", Component: "link a>b", Class: "no-buffer"}
	for _, c := range []struct {
		name    string
		reports []api.ReportView
		held    bool
	}{
		{"all right", report(&api.VerdictView{Verdict: "network", Component: "link a>b", Class: "no-buffer"}), true},
		{"another verdict", report(&api.VerdictView{Verdict: "not-network", Component: "link a>b", Class: "no-buffer"}), false},
		{"another component", report(&api.VerdictView{Verdict: "network", Component: "link b>a", Class: "no-buffer"}), false},
		{"another class", report(&api.VerdictView{Verdict: "network", Component: "link a>b"}), false},
		{"no verdict", report(nil), false},
		{"no report", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			held, saw := seen{reports: c.reports}.verdict(want)
			if held != c.held {
				t.Errorf("held %v, want %v; saw %s", held, c.held, saw)
			}
		})
	}
}

func TestProbesAmongTheEvidenceAreCounted(t *testing.T) {
	flow := api.FlowView{Src: "10.0.0.1", Dst: "10.1.0.1", SrcPort: 40000, DstPort: 5000, Protocol: "tcp"}
	probe, data := uint32(9), uint32(1000)
	paths := []api.RetransmitView{{Flow: &flow, TCPSeq: data, Path: &api.PathView{ProbeSeq: probe}}}
	drops := []api.DropView{{Flow: &flow, TCPSeq: &data}, {Flow: &flow, TCPSeq: &probe}, {}}
	if n := probeDrops(drops, paths); n != 1 {
		t.Errorf("%d probe drops, want 1", n)
	}
}

func TestTracedCountsFlowsOnce(t *testing.T) {
	flow := func(port uint32) api.FlowView {
		return api.FlowView{Src: "10.0.0.1", Dst: "10.1.0.1", SrcPort: port, DstPort: 5000, Protocol: "tcp"}
	}
	path := func(f api.FlowView, links ...string) api.RetransmitView {
		return api.RetransmitView{Flow: &f, Path: &api.PathView{Links: links}}
	}
	lost := []lostData{{"a>b", flow(1)}, {"a>b", flow(1)}, {"a>b", flow(2)}, {"a>b", flow(3)}}
	paths := []api.RetransmitView{path(flow(1), "h>a", "a>b"), path(flow(2), "h>a", "a>c"), path(flow(2))}
	flows, through := traced(lost, paths)
	if flows != 3 || through != 1 {
		t.Errorf("%d of %d traced, want 1 of 3", through, flows)
	}
}

func TestStepsComeInTimeOrder(t *testing.T) {
	r := &run{RunOptions: RunOptions{Scenario: &scenario.Scenario{
		Duration: 50 * time.Second,
		Faults: []scenario.Fault{
			{Kind: "acl", On: "device a", At: 10 * time.Second, For: 5 * time.Second, Every: 20 * time.Second},
			{Kind: "queue", On: "link a>b", At: 12 * time.Second},
		},
		Reports: []scenario.Report{{At: 11 * time.Second}},
	}}}
	var times []int
	for _, s := range r.plan(0, r.Scenario.Duration) {
		times = append(times, int(s.at.Seconds()))
	}
	if want := []int{10, 11, 12, 15, 30, 35, 50}; !slices.Equal(times, want) {
		t.Errorf("steps at %v, want %v", times, want)
	}
	if len(r.faults) != 3 {
		t.Errorf("%d times a fault is on, want 3 (twice acl, once queue)", len(r.faults))
	}
}
