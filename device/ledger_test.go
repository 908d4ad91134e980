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
		l.count(&drop{class: class, reason: []string{"QDISC_DROP", "", "CPU_BACKLOG", ""}[i], packets: uint64(i + 1), bytes: 100}, 1, class != Unknown)
		l.enter(ev)
		if o := ev.Origin; o.Producer != "r" || o.BootId != 7 || o.Seq != uint64(i+1) {
			t.Errorf("event %d has origin %v", i, o)
		}
	}
	l.ignore(1)
	l.count(&drop{class: NoBuffer, reason: "tbf_drops", packets: 5, bytes: 500}, 3, true) // without an event
	agg, tr := &decafpb.LossAggregate{}, &yang.Transition{}
	l.enterAggregate(agg)
	l.enterTransition(tr)
	if agg.Origin.GetSeq() != 1 || agg.Origin.GetBootId() != 7 || tr.Sequence != 1 || tr.BootID != 7 {
		t.Errorf("aggregate %v, transition %+v", agg.Origin, tr)
	}
	want := totals{
		classes: []yang.ClassCounters{
			{Name: NoBuffer, Packets: 9, Bytes: 700, Events: 2},
			{Name: PolicyL3ACL, Packets: 2, Bytes: 100, Events: 1},
			{Name: Unknown, Packets: 4, Bytes: 100, Events: 1},
		},
		seq: 4, queued: 6, ignored: 1, unclassified: 1, aggregates: 1, transitions: 1,
	}
	if d := cmp.Diff(want, l.totals(), cmp.AllowUnexported(totals{})); d != "" {
		t.Error(d)
	}
}
