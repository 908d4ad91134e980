package topology

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// published is the set-up of 007's own evaluation.
var published = ClosSpec{Pods: 2, ToRs: 20, T1s: 8, T2s: 10, Hosts: 40}

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-9*math.Abs(want) }

// Worked by hand from the formulas of the theorem.
func TestDetectionOfThePublishedSetUp(t *testing.T) {
	d := Detection{ClosSpec: published, PacketsMin: 1, PacketsMax: 100}
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	// k < 10·(20·2−1) / (20·1) = 390/20 = 19.5
	if got := d.MaxBad(); got != 19 {
		t.Errorf("at most %d bad links, want 19", got)
	}
	// α(1) = 20·79·1 / (390 − 20) = 1580/370; α(19) = 20·61 / (390 − 380) = 122
	if got := d.Alpha(1); !near(got, 1580./370) {
		t.Errorf("alpha of 1 is %g", got)
	}
	if got := d.Alpha(19); !near(got, 122) {
		t.Errorf("alpha of 19 is %g", got)
	}
	// cl = 1: [1 − (1 − p)] / (α·100) = p·370 / 158000
	if got := d.GoodMax(.01, 1); !near(got, .01*370/158000) {
		t.Errorf("good links may lose %g", got)
	}
	if got := d.GoodMax(.0005, 19); !near(got, .0005/12200) {
		t.Errorf("good links may lose %g beside 19 bad ones", got)
	}
	// cl = 2: 1 − .99² = .0199
	d.PacketsMin = 2
	if got := d.GoodMax(.01, 1); !near(got, .0199*370/158000) {
		t.Errorf("with two packets at least, good links may lose %g", got)
	}
	// 100/(20·40) · min(8, 390/20) = .125 · 8 = 1
	if got := d.TraceBudget(100); !near(got, 1) {
		t.Errorf("%g traces per second and host, want 1", got)
	}
	if got := d.BadCounts(4); !slices.Equal(got, []int{1, 3, 7, 19}) {
		t.Errorf("rows for %v", got)
	}
	// 20/8 = 2.5 > 10·19/(20·10) = .95: 3.5 pods
	if out := d.Outside(); len(out) != 1 || !strings.Contains(out[0], "it has 2 pods: at least 4 are needed") {
		t.Errorf("outside the proof: %q", out)
	}
	d.Pods = 4
	if out := d.Outside(); len(out) != 0 {
		t.Errorf("four pods are outside the proof: %q", out)
	}
}

func TestDetectionAtTheEdges(t *testing.T) {
	with := func(s ClosSpec) Detection { return Detection{ClosSpec: s, PacketsMin: 1, PacketsMax: 100} }
	// The quotient is whole: 8·(4·2−1)/(4·1) = 14, so k ≤ 13.
	if got := with(ClosSpec{Pods: 2, ToRs: 4, T1s: 2, T2s: 8, Hosts: 1}).MaxBad(); got != 13 {
		t.Errorf("at most %d bad links, want 13", got)
	}
	// Many T2s: 100·3/2 = 150, but α is positive below 4·2 only.
	d := with(ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 100, Hosts: 1})
	if got := d.MaxBad(); got != 7 {
		t.Errorf("at most %d bad links, want 7", got)
	}
	for k := 1; k <= d.MaxBad(); k++ {
		if a := d.Alpha(k); !(a > 0) {
			t.Errorf("alpha of %d is %g", k, a)
		}
	}
	if out := d.Outside(); len(out) != 1 || !strings.Contains(out[0], "2 tors in a pod for 100 t2") {
		t.Errorf("outside the proof: %q", out)
	}
	if out := with(ClosSpec{Pods: 9, ToRs: 4, T1s: 4, T2s: 4, Hosts: 1}).Outside(); len(out) != 1 || !strings.Contains(out[0], "more tors are needed") {
		t.Errorf("outside the proof: %q", out)
	}
	// Sure loss on a bad link, long connections: never above 1.
	long := Detection{ClosSpec: published, PacketsMin: 1000, PacketsMax: 1000}
	if got := long.GoodMax(1, 1); !near(got, 370./1580000) {
		t.Errorf("good links may lose %g", got)
	}
	for want, d := range map[string]Detection{
		"there is one pod":                  with(ClosSpec{Pods: 1, ToRs: 4, T1s: 2, T2s: 2}),
		"needs tors, t1 and t2":             with(ClosSpec{Pods: 2, ToRs: 1}),
		"packets of a connection are 5..4":  {ClosSpec: published, PacketsMin: 5, PacketsMax: 4},
		"packets of a connection are 0..10": {ClosSpec: published, PacketsMin: 0, PacketsMax: 10},
	} {
		if err := d.Check(); err == nil || !strings.Contains(err.Error(), want) || d.MaxBad() != 0 {
			t.Errorf("%+v: %v, %d bad links", d, err, d.MaxBad())
		}
	}
	// One pod: the second term falls away, 100/(4·5)·3.
	if got := with(ClosSpec{Pods: 1, ToRs: 4, T1s: 3, Hosts: 5}).TraceBudget(100); !near(got, 15) {
		t.Errorf("%g traces per second and host, want 15", got)
	}
	if got := with(ClosSpec{Pods: 1, ToRs: 1, Hosts: 5}).TraceBudget(100); got != 0 {
		t.Errorf("%g traces per second and host where there is no t1", got)
	}
}

// The budget of a topology is that of its Clos.
func TestTraceBudgetOfATopology(t *testing.T) {
	clos, err := Clos(ClosSpec{Site: "x", Pods: 2, ToRs: 20, T1s: 8, T2s: 10, Hosts: 40})
	if err != nil {
		t.Fatal(err)
	}
	want := 100. / (20 * 40) * 8
	if got, err := clos.TraceBudget(100); err != nil || math.Abs(got-want) > 1e-9 {
		t.Errorf("%v, %v: want %v", got, err, want)
	}
	if got, err := new(Topology).TraceBudget(100); err == nil {
		t.Errorf("%v for a network without hosts", got)
	}
}
