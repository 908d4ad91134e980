package bench

import (
	"fmt"
	"math"
	"testing"
)

// Memory that takes a page now and then, or that a collector lets swell and shrink, is
// flat. One that is lost is told, be it a little: 1 kB/s is 86 MB a day.
func TestGrowth(t *testing.T) {
	const page, start = 4096, 58.45e6
	line := func(perSecond float64) func(float64) float64 {
		return func(s float64) float64 { return perSecond * s }
	}
	// teeth of so many bytes, each so many seconds long, of which some passed before.
	teeth := func(high, long, passed float64) func(float64) float64 {
		return func(s float64) float64 { return high * math.Mod((s+passed)/long, 1) }
	}
	both := func(a, b func(float64) float64) func(float64) float64 {
		return func(s float64) float64 { return a(s) + b(s) }
	}
	type series struct {
		what          string
		seconds, step float64
		of            func(float64) float64 // bytes more than at the start
		flat          bool
	}
	rows := []series{
		{"still", 150, 5, line(0), true},
		{"one page in the middle", 150, 5, func(s float64) float64 { return page * math.Floor(s/75) }, true},
		{"a page each 12 s, 50 kB in all", 150, 5, line(330), true},
		{"less and less", 150, 5, line(-25_000), true},
		{"a page each two samples of a short flood", 5, .83, line(2400), true},
		{"25 kB/s", 150, 5, line(25_000), false},
		{"25 kB/s for a short while", 15, 2.5, line(25_000), false},
		{"1 kB/s", 150, 5, line(1000), false},
		{"1 kB/s, slowly", 1800, 5, line(1000), false},
		{"a tenth more a minute", 150, 5, line(start / 600), false},
	}
	for _, long := range []float64{7, 23, 61, 100} {
		for passed := 0.; passed < long; passed += long / 10 {
			gc := teeth(2e6, long, passed)
			what := fmt.Sprintf("2 MB of garbage each %v s, %v s ago", long, passed)
			rows = append(rows, series{what, 150, 5, gc, true}, series{what + ", and 25 kB/s", 150, 5, both(gc, line(25_000)), false})
		}
	}
	for _, row := range rows {
		var at, resident []float64
		for s := 0.; s <= row.seconds; s += row.step {
			at, resident = append(at, 150+s), append(resident, page*math.Floor((start+row.of(s))/page))
		}
		g := growthOf(at, resident, page)
		if flat := g.rise <= g.flat; flat != row.flat {
			t.Errorf("%s: rises by %.0f B/s, ± %.0f; flat is up to %.0f", row.what, g.rise, g.ci, g.flat)
		}
	}
	// It is what would double it in a day.
	if g := growthOf([]float64{0, 1000, 2000}, []float64{86.4e6, 86.4e6, 86.4e6}, page); g != (growth{0, 0, 1000}) {
		t.Errorf("%+v", g)
	}
	if g := growthOf([]float64{1, 2}, []float64{page, 2 * page}, page); !math.IsNaN(g.rise) || !math.IsNaN(g.ci) || !math.IsNaN(g.flat) {
		t.Errorf("of two samples: %+v", g)
	}
}
