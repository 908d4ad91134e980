package yang

import (
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"

	"github.com/google/go-cmp/cmp"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/testing/protocmp"
)

func fullAggregate() Aggregate {
	return Aggregate{
		LossAggregate: &decafpb.LossAggregate{
			Origin: &decafpb.Origin{BootId: 9, Seq: 1030}, StartNs: 5e9, EndNs: 6e9,
			Class: "policy/l3/acl", Reason: "NETFILTER_DROP", Ingress: "eth1", Egress: "eth2",
			Packets: 1000, Bytes: 90000, SuppressedThreshold: 600, SuppressedFuse: 20, SuppressedQueue: 10,
			SuppressedDuplicate: 60, SuppressedFilter: 10,
			TopFlows: []*decafpb.FlowCount{
				{Flow: &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 0, 0, 2}, SrcPort: 40000, DstPort: 80, Protocol: 6}, Packets: 700, PacketsError: 3},
				{Flow: &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 0, 0, 3}, Protocol: 47}, Packets: 300},
			},
			TopPrefixes: []*decafpb.PrefixCount{
				{Prefix: &decafpb.Prefix{Address: []byte{10, 0, 0, 0}, Length: 24}, Source: true, Packets: 1000},
				{Prefix: &decafpb.Prefix{Address: append([]byte{0xfd}, make([]byte, 15)...), Length: 48}, Packets: 4, PacketsError: 4},
			},
		},
		Events:       300,
		Suppressed:   Suppressed{Threshold: 600, Fuse: 20, Queue: 10, Duplicate: 60, Filter: 10},
		Unattributed: 10,
	}
}

func TestAggregateThereAndBack(t *testing.T) {
	small := Aggregate{LossAggregate: &decafpb.LossAggregate{Origin: &decafpb.Origin{BootId: 9, Seq: 1}, Class: "unknown", Packets: 1}}
	for _, agg := range []Aggregate{fullAggregate(), small} {
		n := AggregateUpdates(agg, 6, 9)
		if !n.GetAtomic() || n.GetTimestamp() != int64(agg.EndNs) {
			t.Errorf("atomic %v, timestamp %d", n.GetAtomic(), n.GetTimestamp())
		}
		got, is, err := DecodeAggregate(n)
		if err != nil || !is {
			t.Fatalf("%v, %v", is, err)
		}
		if d := cmp.Diff(&agg, got, protocmp.Transform()); d != "" {
			t.Error(d)
		}
		// Every path is in the schema, and a leaf.
		for _, u := range n.GetUpdate() {
			at := Schema()
			for _, e := range append(append([]*gnmipb.PathElem{}, n.Prefix.Elem...), u.Path.Elem...) {
				if at = at.Child(e.GetName()); at == nil {
					t.Fatalf("%v is not in the schema", u.GetPath())
				}
				for k := range e.GetKey() {
					if !at.HasKey(k) {
						t.Errorf("%s has no key %s", at.Name, k)
					}
				}
			}
			if !at.Leaf() || at.Kind != Event {
				t.Errorf("%v is no leaf of an event", u.GetPath())
			}
		}
	}
	if _, is, err := DecodeAggregate(EventUpdates(fullEvent(), 1, 9)); is || err != nil {
		t.Errorf("aggregate out of an event: %v, %v", is, err)
	}
	if _, is, err := DecodeEvent(AggregateUpdates(small, 1, 9)); is || err != nil {
		t.Errorf("event out of an aggregate: %v, %v", is, err)
	}
}

func TestDecodeAggregateRefuses(t *testing.T) {
	for _, tc := range []struct {
		what   string
		change func(n *gnmipb.Notification)
		wrong  string
	}{
		{"no sequence", func(n *gnmipb.Notification) { n.Update = append(n.Update[:1:1], n.Update[2:]...) }, "no sequence"},
		{"no class", func(n *gnmipb.Notification) { n.Update = append(n.Update[:5:5], n.Update[6:]...) }, "no class"},
		{"a rank left out", func(n *gnmipb.Notification) {
			for _, u := range n.Update {
				if e := u.Path.Elem; e[0].Name == "flows" {
					u.Path = &gnmipb.Path{Elem: []*gnmipb.PathElem{e[0], {Name: "flow", Key: map[string]string{"rank": "7"}}, e[2], e[3]}}
				}
			}
		}, "flow with rank 7, and none with rank 1"},
		{"a rank that is none", func(n *gnmipb.Notification) {
			u := n.Update[len(n.Update)-1]
			u.Path = &gnmipb.Path{Elem: []*gnmipb.PathElem{u.Path.Elem[0], {Name: "prefix"}, u.Path.Elem[2], u.Path.Elem[3]}}
		}, `prefix with rank ""`},
		{"a direction that is none", func(n *gnmipb.Notification) {
			for _, u := range n.Update {
				if u.Path.Elem[len(u.Path.Elem)-1].Name == "direction" {
					u.Val = &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: "up"}}
				}
			}
		}, `"up" is neither`},
	} {
		n := AggregateUpdates(fullAggregate(), 1, 9)
		tc.change(n)
		if a, is, err := DecodeAggregate(n); err == nil || !is || a != nil || !strings.Contains(err.Error(), tc.wrong) {
			t.Errorf("%s: %v, %v, %v; want %q", tc.what, a, is, err, tc.wrong)
		}
	}
}

func TestTransitionThereAndBack(t *testing.T) {
	for _, tr := range []Transition{
		{Sequence: 3, BootID: 9, TimeNs: 5, Kind: "threshold", Class: "no-buffer", From: "events", To: "aggregates", Cause: "rate", Measured: 1200, Limit: 1000},
		{Sequence: 4, BootID: 9, TimeNs: 6, Kind: "fuse", From: "full", To: "sampled", Cause: "cpu", Measured: 300, Limit: 250},
		{Sequence: 5, BootID: 9, TimeNs: 7, Kind: "flow", Class: "no-buffer", To: "stopped", Cause: "packets", Measured: 12,
			Flow: &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 0, 0, 2}, SrcPort: 1, DstPort: 2, Protocol: 17}},
	} {
		got, is, err := DecodeTransition(TransitionUpdates(tr, tr.Sequence))
		if err != nil || !is {
			t.Fatalf("%v, %v", is, err)
		}
		if d := cmp.Diff(&tr, got, protocmp.Transform()); d != "" {
			t.Error(d)
		}
	}
	if _, is, err := DecodeTransition(TransitionUpdates(Transition{Sequence: 1, BootID: 9}, 1)); !is || err == nil {
		t.Errorf("a transition of no kind: %v, %v", is, err)
	}
}

func TestReportingThereAndBack(t *testing.T) {
	now := time.Unix(7, 0)
	r := ClassReporting{Name: "policy/l3/acl", Stream: "aggregates", Fuse: "full", Threshold: 1000, Settings: ReportSettings{5, 6, 7, 8, true}, Suppressed: Suppressed{1, 2, 3, 4, 9}}
	got, is, err := DecodeReporting(ReportingUpdates(r, now))
	if err != nil || !is || *got != r {
		t.Errorf("%+v, %v, %v", got, is, err)
	}
	if _, is, err := DecodeClass(ReportingUpdates(r, now)); is || err != nil {
		t.Errorf("counters out of it: %v, %v", is, err)
	}
	if _, is, err := DecodeReporting(ClassUpdates(ClassCounters{Name: "unknown"}, now)); is || err != nil {
		t.Errorf("it out of counters: %v, %v", is, err)
	}
}
