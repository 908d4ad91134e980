package scenario

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"decaf/topology"
)

func fabric(t testing.TB, s topology.ClosSpec) *topology.Topology {
	t.Helper()
	topo, err := topology.Clos(s)
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

var small = topology.ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2}

// What each way of saying random may become in the small Clos.
func TestCandidates(t *testing.T) {
	topo := fabric(t, small)
	for _, c := range []struct {
		on    string
		n     int
		first string
	}{
		{"random link", 48, "link p0-tor0>p0-t1-0"},
		{"random fabric link", 32, "link p0-tor0>p0-t1-0"},
		{"random host link", 16, "link p0-tor0>p0-tor0-h0"},
		{"random fabric or host link", 48, "link p0-tor0>p0-t1-0"},
		{"random tor>t1 link", 8, "link p0-tor0>p0-t1-0"},
		{"random t1>tor link", 8, "link p0-t1-0>p0-tor0"},
		{"random host>tor link", 8, "link p0-tor0-h0>p0-tor0"},
		{"random tor>t1 or t1>t2 link", 16, "link p0-tor0>p0-t1-0"},
		{"random device", 10, "device p0-tor0"},
		{"random t2", 2, "device t2-0"},
		{"random t2 or t1", 6, "device p0-t1-0"},
		{"random host", 8, "host p0-tor0-h0"},
		{"random tor or host", 12, "device p0-tor0"},
	} {
		all, err := candidates(topo, c.on)
		if err != nil || len(all) != c.n || all[0] != c.first {
			t.Errorf("%s: %d candidates beginning with %v, %v; want %d, %s", c.on, len(all), all[:min(len(all), 1)], err, c.n, c.first)
		}
	}
	for _, on := range []string{"random", "random link link", "random t2 t1", "random t2 or", "random or", "random spine", "random spine link", "random tor>spine link", "random t2 or t2 or", "link"} {
		if all, err := candidates(topo, on); err == nil {
			t.Errorf("%s: got %v", on, all)
		}
	}
}

func withFault(kind, on string) *Scenario {
	s := Default()
	s.Name, s.Duration = "t", time.Minute
	s.Faults = []Fault{{At: time.Second, Kind: kind, On: on, Rate: 1}}
	s.Reports = []Report{{At: 2 * time.Second, Src: "through fault 0", Dst: "through fault 0"}}
	s.Expect.Findings = []ExpectFinding{{Component: "fault 0"}}
	s.Expect.Verdicts = []ExpectVerdict{{Verdict: "network", Component: "fault 0"}, {Verdict: "not-network"}}
	return s
}

// Over many seeds every link comes up, about as often as every other; the same
// seed gives the same scenario; the original stays as it was.
func TestDrawIsEvenAndRepeatable(t *testing.T) {
	topo := fabric(t, small)
	s := withFault("silent-loss", "random link")
	before := fmt.Sprint(*s)
	times := make(map[string]int)
	const rounds = 4800
	for seed := range uint64(rounds) {
		a, err := s.Draw(topo, seed)
		if err != nil {
			t.Fatal(err)
		}
		if seed%100 == 0 {
			if b, _ := s.Draw(topo, seed); !reflect.DeepEqual(a, b) {
				t.Fatalf("seed %d drew two things", seed)
			}
		}
		times[a.Faults[0].On]++
	}
	if len(times) != 48 {
		t.Errorf("%d links came up", len(times))
	}
	for on, n := range times { // 100 expected, standard deviation 10
		if n < 50 || n > 150 {
			t.Errorf("%s came up %d times of %d", on, n, rounds)
		}
	}
	if got := fmt.Sprint(*s); got != before {
		t.Error("drawing changed the original")
	}
}

// Whatever is drawn, expectations name it and the report's pair has it on its
// ECMP set, with the largest share that any pair of the fabric has.
func TestDrawReplacesEveryMentionOfAFault(t *testing.T) {
	for _, spec := range []topology.ClosSpec{
		small,
		{Pods: 1, ToRs: 1, Hosts: 3},
		{Pods: 1, ToRs: 3, T1s: 2, Hosts: 1},
		{Pods: 3, ToRs: 2, T1s: 1, T2s: 3, Hosts: 2},
	} {
		topo := fabric(t, spec)
		for kind, on := range map[string]string{"silent-loss": "random link", "acl": "random device", "queue": "random link"} {
			for seed := range uint64(60) {
				d, err := withFault(kind, on).Draw(topo, seed)
				if err != nil {
					if unused(topo, err) {
						continue
					}
					t.Fatalf("%v %s: %v", spec, kind, err)
				}
				component := d.Faults[0].Component()
				if d.Expect.Findings[0].Component != component || d.Expect.Verdicts[0].Component != component || d.Expect.Verdicts[1].Component != "" {
					t.Fatalf("%s: expectations %+v", component, d.Expect)
				}
				src, dst := d.Reports[0].Src, d.Reports[0].Dst
				got := through(topo, component, src, dst)
				if got == 0 {
					t.Fatalf("%v: no path from %s to %s goes through %s", spec, src, dst, component)
				}
				for _, a := range topo.Hosts {
					for _, b := range topo.Hosts {
						if other := through(topo, component, a.Name, b.Name); other > got+1e-9 {
							t.Fatalf("%v: %s is on %g of %s>%s but on %g of %s>%s", spec, component, got, src, dst, other, a.Name, b.Name)
						}
					}
				}
			}
		}
	}
}

// unused says whether an error is about a component that no pair uses: T2s of a
// fabric with one pod.
func unused(topo *topology.Topology, err error) bool {
	return strings.Contains(err.Error(), "no path between the hosts goes through")
}

// through is the share of a pair's paths that hold a component, by listing them.
func through(topo *topology.Topology, component, src, dst string) float64 {
	kind, name, _ := SplitComponent(component)
	paths := topo.Paths(src, dst)
	n := 0
	for _, p := range paths {
		if slices.ContainsFunc(p, func(l *topology.Link) bool {
			return kind == "link" && l.Name == name || kind == "device" && l.To.Node == name
		}) {
			n++
		}
	}
	return float64(n) / float64(max(len(paths), 1))
}

func TestDrawHostFaults(t *testing.T) {
	topo := fabric(t, small)
	for kind, end := range map[string]func(Report) string{
		"host-slow":    func(r Report) string { return r.Src },
		"server-slow":  func(r Report) string { return r.Dst },
		"server-reset": func(r Report) string { return r.Dst },
	} {
		d, err := withFault(kind, "random host").Draw(topo, 7)
		if err != nil {
			t.Fatal(err)
		}
		if got := "host " + end(d.Reports[0]); got != d.Faults[0].On || d.Reports[0].Src == d.Reports[0].Dst {
			t.Errorf("%s on %s: report %+v", kind, d.Faults[0].On, d.Reports[0])
		}
	}
}

func TestDrawKeepsTheEndThatIsGiven(t *testing.T) {
	topo := fabric(t, small)
	s := withFault("silent-loss", "link t2-1>p1-t1-0")
	s.Reports = []Report{
		{Src: "p0-tor1-h0", Dst: "through fault 0"},
		{Src: "through fault 0", Dst: "10.1.0.1"},
		{Src: "192.0.2.1", Dst: "p0-tor0-h0"},
	}
	d, err := s.Draw(topo, 1)
	if err != nil {
		t.Fatal(err)
	}
	if r := d.Reports[0]; r.Src != "p0-tor1-h0" || !strings.HasPrefix(r.Dst, "p1-") {
		t.Errorf("got %+v", r)
	}
	if r := d.Reports[1]; r.Dst != "10.1.0.1" || !strings.HasPrefix(r.Src, "p0-") {
		t.Errorf("got %+v", r)
	}
	if r := d.Reports[2]; r != s.Reports[2] {
		t.Errorf("got %+v", r)
	}
	for want, r := range map[string]Report{
		"no path between the hosts goes through link t2-1>p1-t1-0": {Src: "p1-tor0-h0", Dst: "through fault 0"},
		"t: report 0: src: no host named":                          {Src: "nobody-at-all", Dst: "through fault 0"},
		"there are 1 faults, counted from 0":                       {Src: "through fault 1", Dst: "through fault 1"},
	} {
		s.Reports = []Report{r}
		if _, err := s.Draw(topo, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", r, err, want)
		}
	}
	s.Faults = append(s.Faults, s.Faults[0])
	s.Reports = []Report{{Src: "through fault 0", Dst: "through fault 1"}}
	if _, err := s.Draw(topo, 1); err == nil || !strings.Contains(err.Error(), "name the same one") {
		t.Errorf("got %v", err)
	}
}

func TestNoComponentIsDrawnTwice(t *testing.T) {
	topo := fabric(t, small)
	s := withFault("acl", "random t2")
	s.Faults = append(s.Faults, Fault{Kind: "no-route", On: "random t2"}, Fault{Kind: "acl", On: "random t2"})
	for seed := range uint64(50) {
		d, err := s.Draw(topo, seed)
		if err != nil {
			t.Fatal(err)
		}
		if d.Faults[0].On == d.Faults[1].On {
			t.Fatalf("seed %d drew %s twice", seed, d.Faults[0].On)
		}
		// The third finds none left and takes any.
		if !strings.HasPrefix(d.Faults[2].On, "device t2-") {
			t.Fatalf("drew %s", d.Faults[2].On)
		}
	}
}

// A fabric of thousands of hosts has millions of pairs: a spread of them will do.
func TestDrawInALargeFabric(t *testing.T) {
	topo := fabric(t, topology.ClosSpec{Pods: 4, ToRs: 16, T1s: 4, T2s: 8, Hosts: 20})
	begin := time.Now()
	d, err := withFault("silent-loss", "random host link").Draw(topo, 3)
	if err != nil {
		t.Fatal(err)
	}
	if got := through(topo, d.Faults[0].On, d.Reports[0].Src, d.Reports[0].Dst); got != 1 {
		t.Errorf("the report goes through %s by a share of %g", d.Faults[0].On, got)
	}
	t.Logf("drawn in %v", time.Since(begin).Round(time.Millisecond))
}
