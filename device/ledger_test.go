package device

import (
	"testing"

	"decaf/api/decafpb"
	"decaf/api/yang"

	"github.com/google/go-cmp/cmp"
)

func TestLedger(t *testing.T) {
	l := newLedger("r", 7)
	for i, class := range []string{NoBuffer, PolicyL3ACL, NoBuffer, Unknown} {
		ev := &decafpb.DropEvent{Class: class}
		l.enter(ev, uint64(i+1), 100, class != Unknown)
		if o := ev.Origin; o.Producer != "r" || o.BootId != 7 || o.Seq != uint64(i+1) {
			t.Errorf("event %d has origin %v", i, o)
		}
	}
	l.ignore()
	want := totals{
		classes: []yang.ClassCounters{
			{Name: NoBuffer, Packets: 4, Bytes: 200, Events: 2},
			{Name: PolicyL3ACL, Packets: 2, Bytes: 100, Events: 1},
			{Name: Unknown, Packets: 4, Bytes: 100, Events: 1},
		},
		seq: 4, ignored: 1, unclassified: 1,
	}
	if d := cmp.Diff(want, l.totals(), cmp.AllowUnexported(totals{})); d != "" {
		t.Error(d)
	}
}
