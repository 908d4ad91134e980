package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// A Result is one measured figure.
type Result struct {
	Metric string  `json:"metric"` // as scripts know it: "event_latency_p99_ms"
	Value  float64 `json:"value"`  // finite
	Unit   string  `json:"unit"`
	// What was measured, in a few words, for people; not part of the JSON.
	What string `json:"-"`
}

// figures are what a benchmark measured so far.
type figures struct {
	results []Result
	log     func(format string, args ...any)
}

// result adds a figure. One that is none, of no samples or over no time, is left
// out: no reader of JSON takes it, and 0 would be a lie.
func (f *figures) result(metric string, value float64, unit, what string) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		f.log("%s is left out: nothing was there to measure it by (%v)", metric, value)
		return
	}
	f.results = append(f.results, Result{Metric: metric, Value: value, Unit: unit, What: what})
}

// printJSON prints figures for scripts.
func printJSON(w io.Writer, bench string, results []Result) error {
	if results == nil {
		results = []Result{}
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(struct {
		Bench   string   `json:"bench"`
		Results []Result `json:"results"`
	}{bench, results})
}

// printTable prints figures for people, beside what they are held against.
func printTable(w io.Writer, results []Result) error {
	all := make(map[string]float64, len(results))
	for _, r := range results {
		all[r.Metric] = r.Value
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(results) > 0 {
		fmt.Fprintln(t, "METRIC\tVALUE\tUNIT\tTARGET\t\tWHAT")
	}
	for _, r := range results {
		want, verdict := "", ""
		if target, ok := targetOf(r.Metric, all); ok {
			var met bool
			want, met = target.holds(r.Value, all)
			verdict = "missed"
			if met {
				verdict = "met"
			}
		}
		fmt.Fprintf(t, "%s\t%.4g\t%s\t%s\t%s\t%s\n", r.Metric, r.Value, r.Unit, want, verdict, r.What)
	}
	return t.Flush()
}
