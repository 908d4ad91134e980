package blame

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// scene draws a fabric with its faults, and what is seen of it.
func scene(n *Network, s setup, seed uint64) (*fabric, *evidence) {
	r := rand.New(rand.NewPCG(seed, 7))
	f := draw(n, s, r)
	return f, f.observe(r)
}

// measure adds how the fused method does on one seed.
func measure(t testing.TB, n *Network, s setup, seed uint64, sum *score) {
	t.Helper()
	f, e := scene(n, s, seed)
	start := time.Now()
	r := Infer(n, e.whole, Options{})
	sum.add(f, e, r, time.Since(start).Seconds()*1e3)
}

// figures are a line of the table.
type figures struct {
	Row          string   `json:"row"`
	Evidence     string   `json:"evidence"`
	Method       string   `json:"method"`
	Precision    float64  `json:"precision"`
	Recall       float64  `json:"recall"`
	FlowAccuracy float64  `json:"flow_accuracy"`
	ECE          *float64 `json:"ece"` // null without probabilities
	FalseEpochs  int      `json:"false_epochs"`
	Epochs       int      `json:"epochs"` // seeds, each with a result of its own
	MeanMs       float64  `json:"ms_mean"`
	MaxMs        float64  `json:"ms_max"`
	Possible     float64  `json:"possible"`      // recall of naming every fault that lost a reported packet
	FlowPossible float64  `json:"flow_possible"` // accuracy of one who knows all faults, but not where each packet died
	Faults       int      `json:"faults"`
	Named        int      `json:"named"`
	// FaultPrecision leaves out what is named as congested, rightly or wrongly.
	FaultPrecision float64 `json:"fault_precision"`
	Bursts         int     `json:"bursts"`
	BurstsNamed    int     `json:"bursts_named"`
	BurstsFaulted  int     `json:"bursts_faulted"` // named as faults, or as of a later time
	Misclassed     int     `json:"misclassed"`     // faults that last, taken for congestion
}

func (s *score) figures(row, evidence, method string) figures {
	f := figures{row, evidence, method, s.precision(), s.recall(), s.accuracy(), nil, s.falseEpochs, int(s.all), s.millis / max(1, s.all), s.slowest, s.possible(), s.flowsPossible(), s.truth, s.named, s.faults(), s.bursts, s.burstsNamed, s.burstsFaulted, s.misclassed}
	if ece, ok := s.calibration(); ok {
		f.ECE = &ece
	}
	return f
}

const heading = "%-26s %-18s %-7s %6s %6s %6s %6s %9s %8s %8s %15s  %s\n"

func (f figures) print() {
	ece := "-"
	if f.ECE != nil {
		ece = fmt.Sprintf("%.3f", *f.ECE)
	}
	bursts := ""
	if f.Bursts > 0 || f.Misclassed > 0 {
		bursts = fmt.Sprintf("%d of %d, %d; %d, %.3f", f.BurstsNamed, f.Bursts, f.BurstsFaulted, f.Misclassed, f.FaultPrecision)
	}
	fmt.Printf("%-26s %-18s %-7s %6.3f %6.3f %6.3f %6s %4d/%-4d %8.1f %8.1f     %.3f %.3f  %s\n", f.Row, f.Evidence, f.Method, f.Precision, f.Recall, f.FlowAccuracy, ece,
		f.FalseEpochs, f.Epochs, f.MeanMs, f.MaxMs, f.Possible, f.FlowPossible, bursts)
}

// bench runs seeds, several at once; but what is timed runs alone.
type bench struct {
	jobs     int
	methods  []string
	wrong    bool
	alone    sync.RWMutex
	networks map[string]*Network
}

// network gives that of a set-up, made once.
func (b *bench) network(t testing.TB, s setup) *Network {
	key := fmt.Sprint(s.pods, s.tors, s.t1, s.t2, s.hosts, s.planes)
	if b.networks[key] == nil {
		n, err := build(s)
		if err != nil {
			t.Fatal(err)
		}
		b.networks[key] = n
	}
	return b.networks[key]
}

// one runs all methods on one seed.
func (b *bench) one(n *Network, s setup, seed uint64) ([]score, string) {
	out := make([]score, len(methods))
	var wrongs strings.Builder
	b.alone.RLock()
	defer b.alone.RUnlock()
	f, e := scene(n, s, seed)
	for i, m := range methods {
		if !slices.Contains(b.methods, m.name) || m.serves != nil && !m.serves(s) {
			continue
		}
		b.alone.RUnlock()
		b.alone.Lock()
		start := time.Now()
		r := m.infer(f, e)
		took := time.Since(start).Seconds() * 1e3
		b.alone.Unlock()
		b.alone.RLock()
		out[i].add(f, e, r, took)
		if b.wrong && m.name == "fused" {
			f.wrongs(&wrongs, seed, e, r)
		}
	}
	return out, wrongs.String()
}

// run gives the scores of all methods over seeds from the first on.
func (b *bench) run(n *Network, s setup, first, seeds int) ([]score, string) {
	scores, wrongs := make([][]score, seeds), make([]string, seeds)
	var wait sync.WaitGroup
	free := make(chan struct{}, b.jobs)
	for i := range seeds {
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			scores[i], wrongs[i] = b.one(n, s, uint64(first+i))
		})
	}
	wait.Wait()
	sum := make([]score, len(methods))
	for i := range scores { // in order, that sums repeat exactly
		for m := range sum {
			sum[m].join(&scores[i][m])
		}
	}
	return sum, strings.Join(wrongs, "")
}

// BenchmarkTable prints the figures. It runs for minutes, hence only on request:
// `make bench-blame`, which sets BLAME_TABLE.
//
// BLAME_ROWS, BLAME_EVIDENCE and BLAME_METHODS choose rows, columns and methods
// by parts of their names, separated by ';' ("=visible": the whole name).
// BLAME_SEEDS says how many seeds (20; rows without faults take five times as
// many), BLAME_FIRST the first (1000), BLAME_JOBS how many at once (all cores;
// inference is timed alone all the same). BLAME_JSON names a file for the
// figures; BLAME_WRONG prints what the fused method missed or named wrongly.
func BenchmarkTable(t *testing.B) {
	if os.Getenv("BLAME_TABLE") == "" {
		t.Skip("prints a table for minutes: make bench-blame")
	}
	number := func(name string, otherwise int) int {
		if i, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return i
		}
		return otherwise
	}
	chosen := func(name, list string) bool {
		return slices.ContainsFunc(strings.Split(list, ";"), func(part string) bool {
			whole, exact := strings.CutPrefix(part, "=")
			return exact && name == whole || !exact && strings.Contains(name, part)
		})
	}
	seeds, first := number("BLAME_SEEDS", 20), number("BLAME_FIRST", 1000)
	b := &bench{jobs: max(1, number("BLAME_JOBS", runtime.GOMAXPROCS(0))), wrong: os.Getenv("BLAME_WRONG") != "", networks: make(map[string]*Network)}
	for _, m := range methods {
		if chosen(m.name, os.Getenv("BLAME_METHODS")) {
			b.methods = append(b.methods, m.name)
		}
	}
	var results []figures
	for _, column := range columns {
		if !chosen(column.name, os.Getenv("BLAME_EVIDENCE")) {
			continue
		}
		fmt.Printf(heading, "row", "device evidence", "method", "prec", "recall", "flows", "ECE", "false", "ms mean", "ms max", "rec/flows poss.", "bursts named, as faults; class off, faults' prec")
		total := make([]score, len(methods))
		for _, row := range situations {
			if !chosen(row.name, os.Getenv("BLAME_ROWS")) {
				continue
			}
			s := paper()
			row.edit(&s)
			column.edit(&s)
			times := 1
			if s.clean() {
				times = cleanTimes
			}
			sum, wrongs := b.run(b.network(t, s), s, first, times*seeds)
			for i, m := range methods {
				if slices.Contains(b.methods, m.name) && (m.serves == nil || m.serves(s)) {
					total[i].join(&sum[i])
					results = append(results, sum[i].figures(row.name, column.name, m.name))
					results[len(results)-1].print()
				}
			}
			fmt.Print(wrongs)
		}
		for i, m := range methods {
			ece, ok := total[i].calibration()
			if !ok {
				continue
			}
			fmt.Printf("calibration of %s over all rows, device evidence %s: error %.4f\n", m.name, column.name, ece)
			for j, c := range total[i].bins {
				if c.n > 0 {
					fmt.Printf("  p %.1f-%.1f: %5.0f components, mean p %.3f, right %.3f\n", float64(j)/10, float64(j+1)/10, c.n, c.p/c.n, c.hit/c.n)
				}
			}
		}
		fmt.Println()
	}
	if name := os.Getenv("BLAME_JSON"); name != "" {
		out, err := json.MarshalIndent(map[string]any{"bench": "blame", "first_seed": first, "results": results}, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, append(out, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// wrongs says what was named wrongly or missed.
func (f *fabric) wrongs(w *strings.Builder, seed uint64, e *evidence, r Result) {
	found := make(map[Component]bool)
	for _, b := range r.Components {
		hit := false
		for _, c := range append([]Component{b.Component}, b.Equivalent...) {
			if slices.Contains(f.truth, c) {
				hit, found[c] = true, true
			}
		}
		if hit {
			continue
		}
		what := "false"
		if b.Component.Kind == Link && f.burst[b.Component.ID] {
			if b.Class == congestion && !f.set.over {
				continue
			}
			what = "congested"
		}
		fmt.Fprintf(w, "    seed %d %s %s %.3f %q %+v %q\n", seed, what, f.n.Name(b.Component), b.Probability, b.Class, b.Evidence, b.Trace)
	}
	for _, c := range f.truth {
		if found[c] {
			continue
		}
		links := []int32{c.ID}
		if c.Kind == Device {
			links = f.touching(c.ID)
		}
		lost, sent := 0.0, 0.0
		for _, l := range links {
			for i := range e.told {
				lost += e.told[i].lost[l]
				sent += e.told[i].sent[l]
			}
		}
		fmt.Fprintf(w, "    seed %d missed %s, lost %.0f of %.0f packets reported", seed, f.n.Name(c), lost, sent)
		for _, b := range r.Suspects {
			if b.Component == c {
				fmt.Fprintf(w, ", p %.3f, %.2f nats, %q", b.Probability, b.Evidence.HostNats, b.Trace)
			}
		}
		fmt.Fprintln(w)
	}
}

func BenchmarkInfer(b *testing.B) {
	for _, c := range []situation{
		{"4 failures", func(*setup) {}},
		{"30 failures", func(s *setup) { s.links = 30 }},
		{"noise 1e-4", func(s *setup) { s.noise = 1e-4 }},
		{"whole T1", func(s *setup) { s.device = "t1" }},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := paper()
			c.edit(&s)
			n, err := build(s)
			if err != nil {
				b.Fatal(err)
			}
			_, e := scene(n, s, 1000)
			for b.Loop() {
				Infer(n, e.whole, Options{})
			}
			b.ReportMetric(float64(len(e.whole.Lossy)), "lossy")
		})
	}
}

// BenchmarkObserve is the drawing of 007's epoch.
func BenchmarkObserve(b *testing.B) {
	n, err := build(paper())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		scene(n, paper(), 1000)
	}
}
