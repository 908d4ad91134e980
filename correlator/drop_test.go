package correlator

import (
	"testing"

	"decaf/api/decafpb"
)

// The class says whether a drop is the device's or a link's, and which end saw it.
func TestDropComponent(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	l, ok := topo.Link("p0-t1-0>t2-1")
	if !ok {
		t.Fatal("no such link")
	}
	for _, c := range []struct{ name, device, class, ingress, egress, want string }{
		{"a queue that overflowed", "p0-t1-0", "no-buffer", "", l.From.Name, "link p0-t1-0>t2-1"},
		{"a kind of it", "p0-t1-0", "no-buffer/backlog", "", l.From.Name, "link p0-t1-0>t2-1"},
		{"a queue of no port", "p0-t1-0", "no-buffer", l.From.Name, "", "device p0-t1-0"},
		{"a frame that arrived damaged", "t2-1", "errors/l2/rx/crc-error", l.To.Name, "", "link p0-t1-0>t2-1"},
		{"a frame that could not be sent", "p0-t1-0", "errors/l2/tx", "", l.From.Name, "link p0-t1-0>t2-1"},
		{"damaged on a port that nobody knows", "t2-1", "errors/l2/rx", "eth99", "", "device t2-1"},
		{"a rule", "t2-1", "policy/l3/acl", l.To.Name, "eth1", "device t2-1"},
		{"a route that is not there", "t2-1", "errors/l3/rx/no-route", l.To.Name, "", "device t2-1"},
	} {
		e := &decafpb.DropEvent{Class: c.class, Ingress: c.ingress, Egress: c.egress}
		if got := dropComponent(topo, c.device, e).String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
