package yang

import (
	"strings"
	"testing"

	"decaf/api/decafpb"

	"github.com/google/go-cmp/cmp"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/testing/protocmp"
)

func TestRouteThereAndBack(t *testing.T) {
	v6 := func(last byte) []byte { return append(append([]byte{0xfd}, make([]byte, 14)...), last) }
	for _, ev := range []*decafpb.RouteEvent{
		{
			Origin: &decafpb.Origin{BootId: 1<<53 - 1, Seq: 1025}, TimeNs: 1700000000123456789,
			Prefix: &decafpb.Prefix{Address: []byte{10, 1, 0, 0}, Length: 16}, Change: decafpb.RouteChange_ROUTE_CHANGE_CHANGED,
			OldNextHops: [][]byte{{10, 0, 0, 1}, {10, 0, 0, 2}}, NewNextHops: [][]byte{{10, 0, 0, 2}}, Interface: "eth1",
		},
		{
			Origin: &decafpb.Origin{BootId: 9, Seq: 1}, TimeNs: 5,
			Prefix: &decafpb.Prefix{Address: v6(0), Length: 64}, Change: decafpb.RouteChange_ROUTE_CHANGE_WITHDRAWN, OldNextHops: [][]byte{v6(1)},
		},
		{
			Origin: &decafpb.Origin{BootId: 9, Seq: 2}, TimeNs: 6,
			Prefix: &decafpb.Prefix{Address: make([]byte, 4)}, Change: decafpb.RouteChange_ROUTE_CHANGE_FLAPPING, Changes: 7,
		},
	} {
		n := RouteUpdates(ev, ev.Origin.Seq%1024, ev.Origin.BootId)
		if !n.GetAtomic() || n.GetTimestamp() != int64(ev.TimeNs) {
			t.Errorf("atomic %v, timestamp %d", n.GetAtomic(), n.GetTimestamp())
		}
		got, is, err := DecodeRoute(n)
		if err != nil || !is {
			t.Fatalf("%v, %v", is, err)
		}
		if d := cmp.Diff(ev, got, protocmp.Transform()); d != "" {
			t.Error(d)
		}
	}
	if _, is, err := DecodeRoute(EventUpdates(fullEvent(), 1, 9)); is || err != nil {
		t.Errorf("an event: %v, %v", is, err)
	}
}

func TestRouteThatIsNone(t *testing.T) {
	good := func() *gnmipb.Notification {
		return RouteUpdates(&decafpb.RouteEvent{
			Origin: &decafpb.Origin{BootId: 9, Seq: 1}, Prefix: &decafpb.Prefix{Address: []byte{10, 0, 0, 0}, Length: 8},
			Change: decafpb.RouteChange_ROUTE_CHANGE_CHANGED, NewNextHops: [][]byte{{10, 0, 0, 1}},
		}, 1, 9)
	}
	text := func(s string) *gnmipb.TypedValue {
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: s}}
	}
	list := func(s ...string) *gnmipb.TypedValue {
		a := &gnmipb.ScalarArray{}
		for _, s := range s {
			a.Element = append(a.Element, text(s))
		}
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_LeaflistVal{LeaflistVal: a}}
	}
	for leaf, tc := range map[string]struct {
		v    *gnmipb.TypedValue
		want string
	}{
		"prefix":       {text("10.0.0.0/33"), "prefix"},
		"change":       {text("unspecified"), "want withdrawn, changed or flapping"},
		"new-next-hop": {list("10.0.0"), "ParseAddr"},
		"old-next-hop": {list(make([]string, maxNextHops+1)...), "more than"},
		"changes":      {text("-1"), "changes"},
		"sequence":     {text("0"), "subscribe to whole"},
	} {
		n := good()
		n.Update = append(n.Update, &gnmipb.Update{Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: leaf}}}, Val: tc.v})
		if _, is, err := DecodeRoute(n); !is || err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v", leaf, is, err)
		}
	}
}
