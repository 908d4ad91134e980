package blame

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rows are those of the benchmark. Constants are chosen on seeds below 1000;
// figures are given for seeds from 1000 on.
var rows = []struct {
	name string
	edit func(*setup)
}{
	{"one at .05 %", func(s *setup) { s.links, s.high = 1, .0005 }},
	{"4 failures", func(s *setup) {}},
	{"7 failures", func(s *setup) { s.links = 7 }},
	{"10 failures", func(s *setup) { s.links = 10 }},
	{"14 failures", func(s *setup) { s.links = 14 }},
	{"30 failures", func(s *setup) { s.links = 30 }},
	{"noise 1e-5", func(s *setup) { s.noise = 1e-5 }},
	{"noise 1e-4", func(s *setup) { s.noise = 1e-4 }},
	{"noise 1e-4, 3 epochs", func(s *setup) { s.noise, s.epochs = 1e-4, 3 }},
	{"skew", func(s *setup) { s.skew = true }},
	{"hot ToR 50 %, 10 failures", func(s *setup) { s.hot, s.links = .5, 10 }},
	{"hot ToR 80 %", func(s *setup) { s.hot = .8 }},
	{"hot ToR 80 %, 10 failures", func(s *setup) { s.hot, s.links = .8, 10 }},
	{"uneven", func(s *setup) { s.uneven = true }},
	{"host links", func(s *setup) { s.links, s.hostLinks = 0, 4 }},
	{"whole ToR", func(s *setup) { s.device = "tor" }},
	{"whole T1", func(s *setup) { s.device = "t1" }},
	{"whole T2", func(s *setup) { s.device = "t2" }},
	{"whole ToR, one rate", func(s *setup) { s.device, s.oneRate = "tor", true }},
	{"whole T1, one rate", func(s *setup) { s.device, s.oneRate = "t1", true }},
	{"whole T2, one rate", func(s *setup) { s.device, s.oneRate = "t2", true }},
	{"two on one device", func(s *setup) { s.pair = true }},
	{"clean 1e-6", func(s *setup) { s.links = 0 }},
	{"clean 1e-5", func(s *setup) { s.links, s.noise = 0, 1e-5 }},
	{"clean 1e-4", func(s *setup) { s.links, s.noise = 0, 1e-4 }},
	{"10 % stale", func(s *setup) { s.stale = .1 }},
	{"20 % stale", func(s *setup) { s.stale = .2 }},
	{"50 % stale", func(s *setup) { s.stale = .5 }},
	{"25 % of hosts", func(s *setup) { s.reporting = .25 }},
	{"10 % of hosts", func(s *setup) { s.reporting = .1 }},
	{"5 % of hosts", func(s *setup) { s.reporting = .05 }},
	{"30 % refused", func(s *setup) { s.refused = .3 }},
	{"50 % refused", func(s *setup) { s.refused = .5 }},
	{"30 % partial", func(s *setup) { s.partial = .3 }},
	{"unequal ECMP", func(s *setup) { s.unequal = true }},
	{"2 % noisy, 1e-6", func(s *setup) { s.noisy = .02 }},
	{"2 % noisy, 1e-5", func(s *setup) { s.noisy, s.noise = .02, 1e-5 }},
	{".005-.05 %", func(s *setup) { s.low, s.high = .00005, .0005 }},
	{".005-.05 %, 5 epochs", func(s *setup) { s.low, s.high, s.epochs = .00005, .0005, 5 }},
	{".005-.05 %, 20 epochs", func(s *setup) { s.low, s.high, s.epochs = .00005, .0005, 20 }},
	{"no paths", func(s *setup) { s.noPaths = true }},
	{"no loss-free flows", func(s *setup) { s.noClean = true }},
	{"all mildly", func(s *setup) {
		s.stale, s.reporting, s.refused, s.unequal, s.noisy, s.noise = .1, .5, .1, true, .01, 3e-6
	}},
}

var evidences = []struct {
	name string
	edit func(*setup)
}{
	{"none", func(*setup) {}},
	{"visible", func(s *setup) { s.instrumented, s.visible = 1, true }},
	{"visible, noise too", func(s *setup) { s.instrumented, s.visible, s.seesNoise = 1, true, true }},
	{"half visible", func(s *setup) { s.instrumented, s.visible = .5, true }},
	{"invisible", func(s *setup) { s.instrumented = 1 }},
	{"lying 10 %", func(s *setup) { s.instrumented, s.visible, s.lying = 1, true, .1 }},
}

func measure(t testing.TB, n *Network, s setup, seed uint64, sum *score) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	f := draw(n, s, r)
	ep, cause, drops := f.run(r)
	start := time.Now()
	res := Infer(n, ep, Options{})
	sum.add(f, ep, cause, drops, res, time.Since(start).Seconds()*1e3)
	if os.Getenv("BLAME_WRONG") != "" {
		f.wrongs(seed, res, drops)
	}
}

// BenchmarkTable prints the figures. It runs for minutes, hence only on request:
// `make bench-blame`, which sets BLAME_TABLE.
//
// BLAME_ROWS and BLAME_EVIDENCE choose rows by a part of their name, BLAME_SEEDS
// says how many seeds (20), BLAME_FIRST the first (1000).
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
	seeds, first := number("BLAME_SEEDS", 20), number("BLAME_FIRST", 1000)
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	chosen := func(name, list string) bool {
		for _, part := range strings.Split(list, ";") {
			if strings.Contains(name, part) {
				return true
			}
		}
		return false
	}
	fmt.Printf("%-26s %-18s %6s %6s %6s %6s  %-13s %6s %7s %6s %5s\n", "row", "device evidence", "prec", "recall", "flows", "false", "oracle", "ECE", "ms mean", "max", "stale")
	var total score
	for _, ev := range evidences {
		if !chosen(ev.name, os.Getenv("BLAME_EVIDENCE")) {
			continue
		}
		for _, row := range rows {
			if !chosen(row.name, os.Getenv("BLAME_ROWS")) {
				continue
			}
			s := paper()
			row.edit(&s)
			ev.edit(&s)
			var sum score
			for seed := range seeds {
				measure(t, n, s, uint64(first+seed), &sum)
			}
			for i, b := range sum.bins {
				total.bins[i].p += b.p
				total.bins[i].hit += b.hit
				total.bins[i].n += b.n
			}
			fmt.Printf("%-26s %-18s %6.3f %6.3f %6.3f %6d  %.3f/%.3f   %6.3f %7.1f %6.1f %5.3f\n", row.name, ev.name, sum.precision(), sum.recall(), sum.accuracy(), sum.named-sum.right,
				ratio(sum.oracleFound, sum.oracleNamed), ratio(sum.oracleFound, sum.truth), sum.calibration(), sum.millis/sum.all, sum.slowest, sum.stale/sum.all)
		}
	}
	fmt.Printf("calibration over all rows: error %.4f\n", total.calibration())
	for i, b := range total.bins {
		if b.n > 0 {
			fmt.Printf("  p %.1f-%.1f: %5.0f components, mean p %.3f, right %.3f\n", float64(i)/10, float64(i+1)/10, b.n, b.p/b.n, b.hit/b.n)
		}
	}
}

// wrongs prints what was named wrongly or missed.
func (f *fabric) wrongs(seed uint64, r Result, drops []float64) {
	found := make(map[Component]bool)
	for _, b := range r.Components {
		hit := false
		for _, c := range append([]Component{b.Component}, b.Equivalent...) {
			if slices.Contains(f.truth, c) {
				hit, found[c] = true, true
			}
		}
		if !hit {
			fmt.Printf("    seed %d false %s %.3f %+v %q\n", seed, f.Name(b.Component), b.Probability, b.Evidence, b.Trace)
		}
	}
	for _, c := range f.truth {
		if found[c] {
			continue
		}
		k := 0.0
		for _, l := range f.linksOf(c) {
			k += drops[l]
		}
		fmt.Printf("    seed %d missed %s, %.0f drops", seed, f.Name(c), k)
		for _, b := range r.Suspects {
			if b.Component == c {
				fmt.Printf(" p %.3f %.2f nats", b.Probability, b.Evidence.HostNats)
			}
		}
		fmt.Println()
	}
}

func BenchmarkInfer(b *testing.B) {
	for _, c := range []struct {
		name string
		edit func(*setup)
	}{{"4 failures", func(*setup) {}}, {"30 failures", func(s *setup) { s.links = 30 }}, {"noise 1e-4", func(s *setup) { s.noise = 1e-4 }}, {"whole T1", func(s *setup) { s.device = "t1" }}} {
		b.Run(c.name, func(b *testing.B) {
			s := paper()
			c.edit(&s)
			n, err := build(s)
			if err != nil {
				b.Fatal(err)
			}
			r := rand.New(rand.NewPCG(1000, 7))
			ep, _, _ := draw(n, s, r).run(r)
			b.ReportMetric(float64(len(ep.Lossy)), "lossy")
			for b.Loop() {
				Infer(n, ep, Options{})
			}
		})
	}
}
