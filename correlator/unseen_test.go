package correlator

import (
	"fmt"
	"slices"
	"testing"
)

// Silence is said of devices that would have told, and of nothing that is not known.
func TestClassOfWhatNoDeviceToldOf(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	fabric, host := linkOf(t, topo, "p0-t1-0>t2-1"), linkOf(t, topo, "p0-tor0>p0-tor0-h0")
	list := []Candidate{
		{Component: Component{Link: fabric}},
		{Component: Component{Link: host}},
		{Component: Component{Node: "t2-1"}},
		{Component: Component{Node: "p0-tor0-h0", host: true}},
		{Component: Component{Link: fabric}, undecided: true},
		{Component: Component{Link: fabric}, Drops: []*Drop{{}}},
		{Component: Component{Link: fabric}, Class: classNoBuffer},
	}
	for _, c := range []struct {
		watching []string
		want     string
	}{
		{nil, "[unknown unknown unknown unknown unknown unknown no-buffer]"},
		{[]string{"p0-t1-0", "p0-tor0"}, "[unknown silent unknown unknown unknown unknown no-buffer]"},
		{[]string{"p0-t1-0", "p0-tor0", "t2-1"}, "[silent silent silent unknown unknown unknown no-buffer]"},
	} {
		now := slices.Clone(list)
		classUnseen(&Window{Topo: topo, Watching: c.watching}, now)
		var got []string
		for _, x := range now {
			got = append(got, x.Class)
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("watching %v: %v, want %s", c.watching, got, c.want)
		}
	}
}

// Of a link that loses packets silently a finding says so where its devices are watched,
// and goes on saying it when they are heard no longer; where they are not, that it is
// unknown.
func TestSilentOnlyWhereDevicesAreWatched(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const at, until = 100 * second, 140 * second
	l := linkOf(t, topo, "p0-t1-0>t2-1")
	all := []string{l.From.Node, l.To.Node}
	for _, c := range []struct {
		name     string
		watching func(now int64) []string
		from     string // its first class
		last     string
	}{
		{"nobody would tell", func(int64) []string { return nil }, classUnknown, classUnknown},
		{"one end would", func(int64) []string { return all[:1] }, classUnknown, classUnknown},
		{"both would", func(int64) []string { return all }, "", classSilent},
		{"both would, and are heard no longer", func(now int64) []string {
			if now > at+20*second {
				return nil
			}
			return all
		}, "", classSilent},
		{"both are heard after a while", func(now int64) []string {
			if now > at+20*second {
				return all
			}
			return nil
		}, classUnknown, classSilent},
	} {
		for _, name := range Methods() {
			m, err := NewMethod(name, DefaultEngineConfig(), topo)
			if err != nil {
				t.Fatal(err)
			}
			fb := newFabric(topo, 5, fault{link: l, rate: .05, at: at, end: 1 << 62})
			e := NewEngine(DefaultEngineConfig(), topo, m, counter("f"))
			e.Watch(func(_, end int64) []string { return c.watching(end) })
			var classes []string // in the order that they came
			feed(e, fb.run(at-5*second, until), until, func() {
				for _, f := range e.Findings() {
					if n := len(classes); n == 0 || classes[n-1] != f.GetClass() {
						classes = append(classes, f.GetClass())
					}
				}
			})
			if len(e.Findings()) != 1 || len(classes) > 2 || c.from != "" && classes[0] != c.from || classes[len(classes)-1] != c.last {
				t.Errorf("%s, %s: %d findings of classes %q, want %s at last", name, c.name, len(e.Findings()), classes, c.last)
			}
		}
	}
}
