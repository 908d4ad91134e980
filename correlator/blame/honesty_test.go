package blame

import (
	"fmt"
	"testing"
)

// What a device counts where no host that reports sends anything, nobody can gainsay:
// it is doubted if hosts lost as much at another of its ports, of which it says
// nothing.
func TestDropsOfASilentHostMayBeOfAnotherPort(t *testing.T) {
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	silent, ok := n.Node("p0-tor0-h0")
	if !ok {
		t.Fatal("no such host")
	}
	device, _ := n.Device("p0-tor0")
	for _, c := range []struct {
		name string
		lost int // packets at another port
		want string
	}{
		{"hosts lost as much elsewhere", 6, "link p0-t1-3>p0-tor0"},
		{"they lost nothing", 0, "link p0-tor0-h0>p0-tor0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := oneInTwenty(n)
			for i := range c.lost {
				far := fmt.Sprintf("p0-tor%d", 1+i)
				lose(t, n, e, 1, far+"-h7", far, "p0-t1-3", "p0-tor0", fmt.Sprintf("p0-tor0-h%d", 5+i))
			}
			e.Drops = []Drop{{Device: device, From: silent, To: -1, Class: "errors/l2/rx/crc-error", Count: 110}}
			r := Infer(n, e, Options{})
			if got := named(n, r); len(got) != 1 || got[0] != c.want {
				t.Errorf("named %v, want %s alone; %+v", got, c.want, r)
			}
		})
	}
}

// oneInTwenty is traffic between all hosts of which few report, and devices that do.
func oneInTwenty(n *Network) *Epoch {
	e := &Epoch{During: Span{0, 30}}
	e.watch(n)
	for src := int32(7); src < int32(n.Hosts()); src += 20 {
		for i := range int32(60) {
			e.Clean = append(e.Clean, Flow{Src: src, Dst: (src + 29*i + 1) % int32(n.Hosts()), Packets: 50})
		}
	}
	return e
}

// That hosts lost nothing where a device counted drops speaks no more against its
// word than against any other place they might have been at.
func TestDropsThatNoHostSawAreBelieved(t *testing.T) {
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	device, _ := n.Device("p0-t1-2")
	from, _ := n.Node("t2-5")
	for _, count := range []float64{10, 20, 30, 40} {
		e := oneInTwenty(n)
		e.Drops = []Drop{{Device: device, From: from, To: -1, Class: "errors/l2/rx/crc-error", Count: count}}
		r := Infer(n, e, Options{})
		if got, want := named(n, r), "link t2-5>p0-t1-2"; len(got) != 1 || got[0] != want {
			t.Errorf("%.0f drops: named %v, want %s; suspects %+v", count, got, want, r.Suspects)
		}
	}
}

// The drops of a queue that overflowed are of the few flows that passed just then:
// that they are all of hosts nobody hears speaks little against its device, and a
// loss that is at another port by chance is not taken for them.
func TestDropsOfAMomentMayBeOfSilentHostsAlone(t *testing.T) {
	n, err := build(paper())
	if err != nil {
		t.Fatal(err)
	}
	device, _ := n.Device("p0-tor0")
	at, _ := n.Node("p0-tor0-h3")
	e := &Epoch{During: Span{0, 30}}
	e.watch(n)
	for src := int32(0); src < int32(n.Hosts()); src += 2 { // every other host reports
		for i := range int32(60) {
			e.Clean = append(e.Clean, Flow{Src: src, Dst: (src + 29*i + 1) % int32(n.Hosts()), Packets: 50})
		}
	}
	lose(t, n, e, 1, "p0-tor0-h6", "p0-tor0", "p0-t1-3", "p0-tor5", "p0-tor5-h8")
	for i := range 12 { // noise elsewhere
		from, to := fmt.Sprintf("p0-tor%d", 1+i), fmt.Sprintf("p0-tor%d", 2+i)
		lose(t, n, e, 1, from+"-h10", from, fmt.Sprintf("p0-t1-%d", i%8), to, to+"-h11")
	}
	for i := range e.Lossy {
		e.Lossy[i].When = Span{float64(i), float64(i) + 0.2}
	}
	e.Drops = []Drop{{Device: device, From: -1, To: at, Class: "no-buffer", Count: 12, When: Span{20, 22}}}
	r := Infer(n, e, Options{})
	if got := named(n, r); len(got) > 0 && got[0] != "link p0-tor0>p0-tor0-h3" {
		t.Errorf("named %v for drops at p0-tor0>p0-tor0-h3: %+v", got, r.Components)
	}
}

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
