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
	beat := func(name string, seq uint64, at int64) {
		a.beat(&decafpb.Heartbeat{
			Origin: &decafpb.Origin{Producer: name, BootId: 1, Seq: seq}, TimeNs: uint64(at), Role: "host",
		}, at)
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
	} {
		if got := a.fresh(c.name, c.at); got != c.want {
			t.Errorf("%s at %d ms: heard of lately %v, want %v", c.name, c.at/1e6, got, c.want)
		}
	}
	beat("gone", 3, 120*second)
	if !a.fresh("gone", 120*second) {
		t.Error("heard again, and still silent")
	}
}
