package device

import (
	"net/netip"
	"testing"
	"time"
)

func keyOf(prefix string) flapKey {
	return flapKey{prefix: netip.MustParsePrefix(prefix), table: 254}
}

func TestFlaps(t *testing.T) {
	start := time.Unix(1000, 0)
	p := keyOf("10.1.0.0/16")
	f := newFlaps(4, 10*time.Second, 10)
	told := 0
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	for i, s := range []float64{0, 3, 6, 9, 9.5} { // the fourth makes it one
		n := f.change(at(s), p)
		if (n == 4) != (i == 3) || n != 0 && n != 4 {
			t.Errorf("change %d: %d", i, n)
		}
		if n > 0 {
			told++
		}
	}
	if told != 1 || f.flapping != 1 {
		t.Errorf("told %d times, %d flapping", told, f.flapping)
	}
	if got := f.tick(at(18.9)); got != nil {
		t.Errorf("before a window has passed: %+v", got)
	}
	// It goes on: once a window.
	for _, s := range []float64{11, 13, 15} {
		f.change(at(s), p)
	}
	if got := f.tick(at(19)); len(got) != 1 || got[0].ended || got[0].changes != 4 {
		t.Errorf("%+v", got)
	}
	// Fewer changes, but more than half as many: it still flaps.
	for _, s := range []float64{20, 23, 26} {
		f.change(at(s), p)
	}
	if got := f.tick(at(29)); len(got) != 1 || got[0].ended || got[0].changes != 3 {
		t.Errorf("%+v", got)
	}
	f.change(at(30), p)
	f.change(at(31), p)
	if got := f.tick(at(39)); len(got) != 1 || !got[0].ended || got[0].changes != 2 || f.flapping != 0 {
		t.Errorf("%+v, %d flapping", got, f.flapping)
	}
	// From the start again.
	for i, s := range []float64{40, 41, 42, 43} {
		if n := f.change(at(s), p); (n > 0) != (i == 3) {
			t.Errorf("after the end: change %d: %d", i, n)
		}
	}
}

func TestSlowChangesAreNoFlap(t *testing.T) {
	start := time.Unix(1000, 0)
	f := newFlaps(4, 10*time.Second, 10)
	for i := range 50 {
		now := start.Add(time.Duration(i) * 4 * time.Second) // three in ten seconds
		if n := f.change(now, keyOf("10.1.0.0/16")); n > 0 {
			t.Fatalf("change %d: %d", i, n)
		}
		if got := f.tick(now); got != nil {
			t.Fatalf("%+v", got)
		}
	}
	if f.tick(start.Add(time.Hour)); len(f.known) != 0 || f.order.Len() != 0 {
		t.Errorf("%d remembered", len(f.known))
	}
}

// However many prefixes change, those that changed last are remembered.
func TestFlapsAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	f := newFlaps(2, time.Minute, 3)
	bad := keyOf("10.99.0.0/16")
	f.change(now, bad)
	f.change(now, bad)
	for i := range 10 {
		f.change(now.Add(time.Second), flapKey{prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)})
	}
	if len(f.known) != 3 || f.order.Len() != 3 || f.forgotten != 8 || f.flapping != 0 {
		t.Errorf("%d known, %d forgotten, %d flapping", len(f.known), f.forgotten, f.flapping)
	}
}

// A clock that steps back neither makes a flap nor keeps one for ever.
func TestFlapsWithAClockThatJumps(t *testing.T) {
	start := time.Unix(100_000, 0)
	f := newFlaps(3, 10*time.Second, 10)
	p := keyOf("10.1.0.0/16")
	f.change(start, p)
	f.change(start.Add(time.Second), p)
	if n := f.change(start.Add(-time.Hour), p); n > 0 {
		t.Errorf("a flap over an hour: %d", n)
	}
	f.change(start.Add(-time.Hour+time.Second), p)
	if n := f.change(start.Add(-time.Hour+2*time.Second), p); n != 3 {
		t.Errorf("the third change by the new time: %d", n)
	}
	f.tick(start.Add(-2 * time.Hour))
	if got := f.tick(start.Add(-2*time.Hour + 11*time.Second)); len(got) != 1 || !got[0].ended {
		t.Errorf("%+v", got)
	}
	if n := f.change(start.Add(10*time.Hour), p); n > 0 {
		t.Errorf("a jump forward makes a flap: %d", n)
	}
}
