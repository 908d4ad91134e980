package blame

import "testing"

// Devices that were silent of all the noise that hosts lost do not see noise: a
// single packet that one of them reports is then of a fault. Where they report
// noise too, it is not.
func TestSilenceOfNoiseSpeaksForASingleDrop(t *testing.T) {
	for _, c := range []struct {
		name  string
		noise bool
		named bool
	}{{"they see none", false, true}, {"they see it", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			s := paper()
			s.low, s.high, s.instrumented, s.visible, s.seesNoise = .00005, .0005, 1, true, c.noise
			n, err := build(s)
			if err != nil {
				t.Fatal(err)
			}
			f, e := scene(n, s, 214)
			r := Infer(n, e.whole, Options{})
			single, named := 0, 0
			for _, at := range f.truth {
				if e.all[0].lost[at.ID] != 1 {
					continue
				}
				single++
				for _, b := range r.Components {
					if b.Component == at {
						named++
					}
				}
			}
			if single == 0 || (named == single) != c.named || !c.named && named > 0 {
				t.Errorf("%d of %d faults that lost one packet are named", named, single)
			}
		})
	}
}
