package sim

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"decaf/api"
)

// Result is what playing a scenario came to; `decaf sim run --json` prints it.
type Result struct {
	Scenario     string            `json:"scenario"`
	Fabric       string            `json:"fabric"` // FabricKernel or FabricFlow
	Seed         uint64            `json:"seed"`
	Passed       bool              `json:"passed"` // every expectation held
	BeganNS      uint64            `json:"began_ns"`
	Faults       []PlayedFault     `json:"faults"`
	Expectations []Expectation     `json:"expectations"`
	Findings     []api.FindingView `json:"findings"`
	Verdicts     []ReportVerdict   `json:"verdicts"`
	Truth        Truth             `json:"truth"`
}

// PlayedFault is one time a fault was on.
type PlayedFault struct {
	Kind      string `json:"kind"`
	On        string `json:"on"`
	Component string `json:"component"` // which one is to blame
	StartNS   uint64 `json:"start_ns"`
	EndNS     uint64 `json:"end_ns"`
	Dropped   uint64 `json:"dropped"` // packets, by the fault's own counter
}

// Expectation is one thing that was to hold.
type Expectation struct {
	What string `json:"what"`
	Held bool   `json:"held"`
	Saw  string `json:"saw"`
}

// ReportVerdict is the last verdict on one of the scenario's reports, by its
// number in the file.
type ReportVerdict struct {
	Report int `json:"report"`
	api.VerdictView
}

// Truth is what the fabric itself counted, in ways that owe decaf nothing.
type Truth struct {
	LinksUsed   int `json:"links_used"`   // directed links that carried a flow
	LinksTotal  int `json:"links_total"`  //
	LossyFlows  int `json:"lossy_flows"`  // flows that lost data on a silently lossy link
	TracedFlows int `json:"traced_flows"` // of those, with a traced path through that link
	ProbeDrops  int `json:"probe_drops"`  // of decaf's own probes, found among its evidence
}

// JSON writes the result as one indented object.
func (r *Result) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Print writes the result for people.
func (r *Result) Print(w io.Writer) {
	at := func(ns uint64) string {
		if ns == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1fs", time.Duration(int64(ns-r.BeganNS)).Seconds())
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nFindings")
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "  none")
	} else {
		fmt.Fprintln(t, "  COMPONENT\tCLASS\tPROBABILITY\tFROM\tDETECTED\tRESOLVED\tFLOWS\tVOTES\tHOSTS")
	}
	for _, f := range r.Findings {
		hosts := strings.Join(f.Hosts, " ")
		if len(f.Hosts) > 3 {
			hosts = fmt.Sprintf("%s and %d more", strings.Join(f.Hosts[:3], " "), len(f.Hosts)-3)
		}
		probability := "-" // of a method that gives none
		if f.Probability > 0 {
			probability = fmt.Sprintf("%.3f", f.Probability)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%d\t%.1f\t%s\n", f.Component, dash(f.Class), probability,
			at(f.FromNS), at(f.DetectedNS), at(f.ResolvedNS), f.Flows, f.Votes, hosts)
	}
	t.Flush()
	if len(r.Verdicts) > 0 {
		fmt.Fprintln(w, "\nVerdicts")
		fmt.Fprintln(t, "  REPORT\tVERDICT\tCOMPONENT\tCLASS\tDROPS\tRETRANSMITS\tPATHS\tMATCHED")
		for _, v := range r.Verdicts {
			c := v.Evidence.Counts
			fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%d\t%d\t%d\t%d\n", v.Report, v.Verdict, dash(v.Component), dash(v.Class),
				c.Drops, c.Retransmits, c.Paths, c.Matched)
		}
		t.Flush()
	}
	fmt.Fprintln(w, "\nExpected")
	for _, e := range r.Expectations {
		mark := "held  "
		if !e.Held {
			mark = "BROKEN"
		}
		fmt.Fprintf(w, "  %s  %s; saw %s\n", mark, e.What, e.Saw)
	}
	if r.Passed {
		fmt.Fprintln(w, "\npassed")
	} else {
		fmt.Fprintln(w, "\nFAILED")
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
