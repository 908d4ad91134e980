package correlator

import (
	"testing"

	"decaf/api/decafpb"
)

// A host that stops to say anything is shown as silent when its third heartbeat
// is due, and at once as heard again; one that speaks and reports no loss is not
// silent.
func TestSilentAfterThreeHeartbeats(t *testing.T) {
	const second = int64(1e9)
	a := newAgents()
	every := map[string]uint64{"often": 100e6, "rarely": 8e9, "never ends": 3600e9}
	beat := func(name string, seq uint64, at int64) {
		a.beat(&decafpb.Heartbeat{
			Origin: &decafpb.Origin{Producer: name, BootId: 1, Seq: seq}, TimeNs: uint64(at), Role: "host", IntervalNs: every[name],
		}, at)
	}
	// Each by its own interval, within bounds.
	for name := range every {
		a.of(name, "host")
		beat(name, 1, 100*second)
	}
	a.of("quiet", "host")
	a.of("gone", "host")
	a.of("never", "host")
	for i := range int64(5) {
		beat("quiet", uint64(i+1), 100*second+2*i*second)
		if i < 2 {
			beat("gone", uint64(i+1), 100*second+2*i*second)
		}
	}
	for _, c := range []struct {
		name string
		at   int64
		want bool
	}{
		{"gone", 107*second + 999e6, true}, {"gone", 108 * second, false},
		{"quiet", 108 * second, true}, {"never", 108 * second, false},
		{"often", 102 * second, true}, {"often", 103 * second, false},
		{"rarely", 123 * second, true}, {"rarely", 124 * second, false},
		{"never ends", 129 * second, true}, {"never ends", 130 * second, false},
	} {
		if got := a.fresh(c.name, c.at); got != c.want {
			t.Errorf("%s at %d ms: heard of lately %v, want %v", c.name, c.at/1e6, got, c.want)
		}
	}
	// One that is heard every 8 s was heard all through, one that was missing three
	// times and more was not.
	for i := range int64(10) {
		beat("rarely", uint64(i+2), 108*second+8*i*second)
	}
	if ok, why := a.freshAll("rarely", 105*second, 178*second); !ok {
		t.Error(why)
	}
	beat("rarely", 20, 220*second)
	if ok, _ := a.freshAll("rarely", 105*second, 220*second); ok {
		t.Error("heard all through, with a pause of 40 s")
	}
	beat("gone", 3, 120*second)
	if !a.fresh("gone", 120*second) {
		t.Error("heard again, and still silent")
	}
}
