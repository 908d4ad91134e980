package topology

import (
	"fmt"
	"strings"
	"testing"
)

func TestClosShapeFindsTheSizes(t *testing.T) {
	for _, s := range append([]ClosSpec{published}, sizes...) {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			s.Site = "sim"
			topo := build(t, s)
			for _, d := range topo.Devices { // the links alone tell
				d.Tier, d.Pod = "", ""
			}
			if got, err := topo.ClosShape(); err != nil || got != s {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestClosShapeSaysWhatIsIrregular(t *testing.T) {
	// Two pods of one ToR and one T1 under one T2, each ToR with one host.
	regular := [][2]string{{"h1", "r1"}, {"h2", "r2"}, {"r1", "a1"}, {"r2", "a2"}, {"a1", "c1"}, {"a2", "c1"}}
	if s, err := nets(t, regular...).ClosShape(); err != nil || s != (ClosSpec{Pods: 2, ToRs: 1, T1s: 1, T2s: 1, Hosts: 1}) {
		t.Fatalf("%+v, %v", s, err)
	}
	for want, more := range map[string][][2]string{
		"host h1 has 2 links":                {{"h1", "r2"}},
		"pods differ: that of r1 has 1 tors": {{"r2", "a3"}, {"a3", "c1"}},
		"t1 a2 has links to 0 hosts, 1 tors, 0 t1 and 1 t2: 0, 1, 0 and 2 would be regular": {{"a1", "c2"}},
		"device x is further from the hosts":                                                {{"c1", "x"}},
		"tor r2 has links to 2 hosts, 0 tors, 1 ":                                           {{"h3", "r2"}},
	} {
		_, err := nets(t, append(regular[:len(regular):len(regular)], more...)...).ClosShape()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", more, err, want)
		}
	}
	// As many links as there should be, but two of them to the same T2.
	twice := [][2]string{{"h1", "r1"}, {"h2", "r2"}, {"r1", "a1"}, {"r2", "a2"}, {"a1", "c1"}, {"a1", "c1"}, {"a2", "c2"}, {"a2", "c2"}}
	if _, err := nets(t, twice...).ClosShape(); err == nil || !strings.Contains(err.Error(), "t1 a1 has several links to the same switch") {
		t.Errorf("parallel links: %v", err)
	}
	if _, err := nets(t, [2]string{"a", "b"}).ClosShape(); err == nil || !strings.Contains(err.Error(), "no switch has hosts") {
		t.Errorf("without hosts: %v", err)
	}
}
