package blame

import (
	"fmt"
	"testing"
)

// A device that shows its large counts at wrong ports is not believed a small one
// either, though on its own hardly anything speaks against that.
func TestOneLieTellsOfOthers(t *testing.T) {
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	uplink := func(i int) string { return fmt.Sprintf("p0-t1-%d", i%8) }
	for _, c := range []struct {
		name  string
		shift int  // ports that the device is off by
		small bool // the link of its small count is named
	}{
		{"an honest device", 0, true},
		{"one that is a port off", 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &Epoch{During: Span{0, 30}}
			e.watch(n)
			for src := range int32(n.Hosts()) {
				for i := range int32(20) {
					e.Clean = append(e.Clean, Flow{Src: src, Dst: (src + 17*i + 1) % int32(n.Hosts()), Packets: 150})
				}
			}
			for _, up := range []int{0, 2} {
				lost := 30 - 3*up
				for i := range lost {
					far := fmt.Sprintf("p0-tor%d", 1+i%7)
					lose(t, n, e, 1, fmt.Sprintf("p0-tor0-h%d", i%10), "p0-tor0", uplink(up), far, fmt.Sprintf("%s-h%d", far, i%11))
				}
				e.say(t, n, "p0-tor0", uplink(up+c.shift), float64(lost))
			}
			e.say(t, n, "p0-tor0", uplink(6), 2)
			want := map[string]bool{"link p0-tor0>" + uplink(0): true, "link p0-tor0>" + uplink(2): true, "link p0-tor0>" + uplink(6): c.small}
			r := Infer(n, e, Options{})
			for _, b := range r.Components {
				if name := n.Name(b.Component); !want[name] {
					t.Errorf("%s is named: %q", name, b.Trace)
				} else {
					delete(want, name)
				}
			}
			for name, missed := range want {
				if missed {
					t.Errorf("%s is not named; suspects %+v", name, r.Suspects)
				}
			}
		})
	}
}
