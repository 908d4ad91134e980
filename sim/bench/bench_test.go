package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// What cannot be measured is refused before anything starts.
func TestOptions(t *testing.T) {
	for _, row := range []struct{ args, want string }{
		{"--pairs 0", "--pairs 0: nothing to compare: give at least 1"},
		{"--pairs -3", "--pairs -3: "},
		{"--duration 0s", "--duration 0s: too short"},
		{"--duration -1s", "--duration -1s: too short"},
		{"--flood 0s --pairs 0", "--flood 0s: too short"},
		{"--duration 1s", ""},
	} {
		ran := false
		b := deviceBench
		b.run = func(context.Context, Options) ([]Result, error) { ran = true; return nil, nil }
		cmd := b.command()
		cmd.SetArgs(strings.Fields(row.args))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		err := cmd.ExecuteContext(t.Context())
		if (row.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), row.want) || ran != (err == nil) {
			t.Errorf("%s: %v, ran %v; want %q", row.args, err, ran, row.want)
		}
	}
}

// A figure that is none is left out and told of, and loses no other: JSON has no
// NaN. Nor does a failure later on.
func TestFiguresThatAreNone(t *testing.T) {
	b := bench{name: "device", run: func(_ context.Context, o Options) ([]Result, error) {
		f := figures{log: o.Log}
		f.result("none", math.NaN(), "ms", "")
		f.result("endless", math.Inf(1), "ms", "")
		f.result("some", 1.5, "ms", "of something")
		return f.results, errors.New("and then it broke")
	}}
	cmd := b.command()
	cmd.SilenceUsage = true
	var out, said bytes.Buffer
	cmd.SetArgs([]string{"--json"})
	cmd.SetOut(&out)
	cmd.SetErr(&said)
	if err := cmd.ExecuteContext(t.Context()); err == nil {
		t.Error("the failure is not told")
	}
	var got struct {
		Bench   string
		Results []Result
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if got.Bench != "device" || len(got.Results) != 1 || got.Results[0] != (Result{Metric: "some", Value: 1.5, Unit: "ms"}) {
		t.Errorf("%+v", got)
	}
	for _, name := range []string{"none", "endless"} {
		if !strings.Contains(said.String(), name+" is left out") {
			t.Errorf("nothing of %s in %q", name, said.String())
		}
	}
}

// People see what figures are held against.
func TestTableHasTargets(t *testing.T) {
	for _, row := range []struct {
		metric string
		value  float64
		want   string
	}{
		{"flood_agent_cpu_pct", 4.9, "≤ 5 met"},
		{"flood_agent_cpu_pct", 5.1, "≤ 5 missed"},
		{"fanout16_events_per_s", 9999, "≥ 1e+04 missed"},
		{"flood_forwarding_loss_pct", -3.5, "± 3 missed"},
		{"aggregate_top_flows_missed", 0, "0 met"},
		{"path_latency_p50_ms_ipv6", .4, "≤ 0.5 met"},
		{"transfer_change_pct", -2, "± 2.5 by chance met"},
		{"transfer_change_pct", 3, "± 2.5 by chance missed"},
		{"transfer_change_pct", -3, "± 2.5 by chance missed"},
		{"transfer_change_pct_ipv6", 3, ""}, // nothing tells of chance there
		{"flood_rss_slope_kb_per_s", -7, "≤ 0.75 to be flat met"},
		{"flood_rss_slope_kb_per_s", .8, "≤ 0.75 to be flat missed"},
		{"flood_rss_mb", 50, ""},
	} {
		var out strings.Builder
		err := printTable(&out, []Result{
			{row.metric, row.value, "u", "what"},
			{"transfer_change_ci_pct", 2.5, "%", ""}, {"flood_rss_flat_kb_per_s", .75, "kB/s", ""},
		})
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out.String(), "\n")
		words := strings.Fields(lines[1])
		if got := strings.Join(words[3:len(words)-1], " "); got != row.want {
			t.Errorf("%s %v: %q, want %q in\n%s", row.metric, row.value, got, row.want, out.String())
		}
	}
}

func TestStatistics(t *testing.T) {
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-3*math.Abs(want)+1e-9 {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	d := []time.Duration{5, 1, 3, 2, 4}
	near("median", quantile(d, .5, 1), 3)
	near("99 %", quantile(d, .99, 1), 5)
	near("worst, in a unit", quantile(d, 1, 5), 1)
	near("median of an even number", median([]float64{4, 1, 2, 3}), 2.5)
	// Student's distribution, from its tables.
	for free, want := range map[float64]float64{1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 29: 2.045, 1e6: 1.960} {
		if got := student95(free); math.Abs(got-want) > .005 {
			t.Errorf("%v degrees of freedom: %v, want %v", free, got, want)
		}
	}
	m, ci := meanWithin([]float64{1, 2, 3, 4, 5}) // deviation 1.5811, error .7071
	near("mean", m, 3)
	near("its interval", ci, 2.776*.70711)
	for _, c := range []struct {
		of   []float64
		n    int
		want []float64
	}{
		{[]float64{1, 3, 5, 7, 9, 11}, 3, []float64{2, 6, 10}},
		{[]float64{1, 3, 5, 7, 9}, 2, []float64{2, 7}},
		{[]float64{1, 3}, 8, []float64{1, 3}},
		{nil, 8, nil},
	} {
		if got := blocks(c.of, c.n); !slices.Equal(got, c.want) {
			t.Errorf("means of %d parts of %v: %v, want %v", c.n, c.of, got, c.want)
		}
	}
	s, ci := slope([]float64{0, 1, 2, 3}, []float64{1, 3, 5, 7})
	near("a line", s, 2)
	near("all on it", ci, 0)
	s, ci = slope([]float64{0, 1, 2, 3}, []float64{0, 1, 0, 1}) // .2, off by .8 of squares in all
	near("slope", s, .2)
	near("its interval", ci, 4.303*math.Sqrt(.8/2/5))
	for what, none := range map[string]float64{"median": median(nil), "quantile": quantile(nil, .5, 1), "mean": mean(nil), "interval of one": func() float64 { _, ci := meanWithin([]float64{1}); return ci }()} {
		if !math.IsNaN(none) {
			t.Errorf("%s of nothing is %v", what, none)
		}
	}
}

// What is left follows from what was thought and how it went so far.
func TestTimeLeft(t *testing.T) {
	s := schedule{takes: []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second}}
	for _, row := range []struct {
		took  []time.Duration
		since time.Duration
		want  string
	}{
		{nil, 0, "about 10s, with the rest 1m0s"},
		{nil, 4 * time.Second, "about 6s, with the rest 56s"},
		{[]time.Duration{20 * time.Second}, 10 * time.Second, "about 30s, with the rest 1m30s"},
		{[]time.Duration{10 * time.Second}, time.Minute, "longer than thought; after it about 30s"},
		{[]time.Duration{time.Millisecond, time.Millisecond}, 0, "about 15s, with the rest 15s"},
	} {
		s.took = row.took
		if got := s.left(row.since); got != row.want {
			t.Errorf("%v and %v: %q, want %q", row.took, row.since, got, row.want)
		}
	}
}

// Parts are told of by name, and one that fails leaves the others to be measured.
func TestParts(t *testing.T) {
	var said []string
	o := Options{Log: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }}
	broke := errors.New("broke")
	err := o.play(t.Context(), []part{
		{"one", time.Second, func(context.Context) error { return nil }},
		{"two", time.Second, func(context.Context) error { return broke }},
		{"three", time.Second, func(context.Context) error { return nil }},
	})
	want := []string{"1 of 3: one: about 1s, with the rest 3s", "2 of 3: two: about 1s, with the rest 1s", "two: broke", "3 of 3: three: about 1s, with the rest 1s"}
	if !errors.Is(err, broke) || err.Error() != "two: broke" || !slices.Equal(said, want) {
		t.Errorf("%v, said %q", err, said)
	}
	// An interrupt ends all.
	ctx, cancel := context.WithCancel(t.Context())
	err = o.play(ctx, []part{
		{"one", time.Second, func(context.Context) error { cancel(); return ctx.Err() }},
		{"two", time.Second, func(context.Context) error { t.Error("goes on"); return nil }},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
