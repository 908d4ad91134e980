package yang

import (
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"

	"github.com/google/go-cmp/cmp"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

func fullEvent() *decafpb.DropEvent {
	return &decafpb.DropEvent{
		Origin:   &decafpb.Origin{BootId: 1<<53 - 1, Seq: 1025},
		TimeNs:   1700000000123456789,
		Class:    "policy/l3/acl",
		Reason:   "NETFILTER_DROP",
		Function: "nft_do_chain",
		Source:   "kernel",
		Ingress:  "eth1",
		Egress:   "eth2",
		Queue:    3,

		QueueDepthBytes: 65536, TransitDelayNs: 1500,
		Packet: &decafpb.Packet{
			Flow: &decafpb.Flow{
				Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 0, 0, 2},
				SrcPort: 40000, DstPort: 80, Protocol: 6,
			},
			SrcMac: []byte{2, 0, 0, 0, 0, 1}, DstMac: []byte{2, 0, 0, 0, 0, 2},
			Vlan: 10, IpId: 4711, Ttl: 63, Length: 1500, TcpFlags: 0x18,
			TcpSeq: 0xdeadbeef, TcpAck: 7, Header: []byte{0x45, 0, 0xff, 0x3c},
		},
		Prefixes: []*decafpb.Prefix{{Address: []byte{10, 1, 0, 0}, Length: 16}},
		Inner: &decafpb.Packet{
			Flow: &decafpb.Flow{
				Src: append([]byte{0xfd}, make([]byte, 15)...), Dst: append([]byte{0xfc}, make([]byte, 15)...),
				SrcPort: 50000, DstPort: 443, Protocol: 6,
			},
			SrcMac: []byte{2, 0, 0, 0, 0, 3}, DstMac: []byte{2, 0, 0, 0, 0, 4},
			Vlan: 11, Ttl: 62, Length: 1400, TcpFlags: 0x10, TcpSeq: 1, TcpAck: 2,
		},
		Encapsulation: "vxlan",
	}
}

func eventV6() *decafpb.DropEvent {
	return &decafpb.DropEvent{
		Origin: &decafpb.Origin{BootId: 9, Seq: 1},
		TimeNs: 5,
		Class:  "no-buffer",
		Packet: &decafpb.Packet{Flow: &decafpb.Flow{
			Src: append([]byte{0xfd}, make([]byte, 15)...), Dst: append([]byte{0xfe, 0x80}, make([]byte, 14)...), Protocol: 58,
		}},
	}
}

func TestEventThereAndBack(t *testing.T) {
	for _, ev := range []*decafpb.DropEvent{
		fullEvent(),
		eventV6(),
		{Origin: &decafpb.Origin{BootId: 9, Seq: 1}, TimeNs: 5, Class: "unknown"}, // no packet
	} {
		n := EventUpdates(ev, ev.Origin.Seq%1024, ev.Origin.BootId)
		got, is, err := DecodeEvent(n)
		if err != nil || !is {
			t.Fatalf("%v, %v", is, err)
		}
		if d := cmp.Diff(ev, got, protocmp.Transform()); d != "" {
			t.Error(d)
		}
		// Whom the leaf of a repeated event is not for gets the same event.
		if got, is, err = DecodeEvent(MarkedEventUpdates(ev, 1, ev.Origin.BootId, Mark{Repeats: 12})); err != nil || !is || !proto.Equal(got, ev) {
			t.Errorf("repeated: %v, %v, %v", got, is, err)
		}
	}
}

// What an event carries beside the drop is there when it says something.
func TestEventMark(t *testing.T) {
	for _, tc := range []struct {
		mark Mark
		want map[string]uint64
	}{
		{Mark{}, map[string]uint64{}},
		{Mark{Repeats: 3, PrefixesRouted: 300, PrefixesWidened: true}, map[string]uint64{"repeats": 3, "prefixes-routed": 300, "prefix-widened": 1}},
		{Mark{PrefixesRouted: 2}, map[string]uint64{"prefixes-routed": 2}},
	} {
		got := map[string]uint64{}
		for _, u := range MarkedEventUpdates(eventV6(), 1, 9, tc.mark).GetUpdate() {
			switch name := u.GetPath().GetElem()[0].GetName(); name {
			case "repeats", "prefixes-routed":
				got[name] = u.GetVal().GetUintVal()
			case "prefix-widened":
				got[name] = map[bool]uint64{true: 1}[u.GetVal().GetBoolVal()]
			}
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%+v: %s", tc.mark, d)
		}
	}
}

func TestEventNotification(t *testing.T) {
	n := EventUpdates(fullEvent(), 1, 9)
	if !n.GetAtomic() || n.GetTimestamp() != 1700000000123456789 {
		t.Errorf("atomic %v, timestamp %d", n.GetAtomic(), n.GetTimestamp())
	}
	want := &gnmipb.Path{Elem: []*gnmipb.PathElem{
		{Name: "loss"}, {Name: "events"}, {Name: "event", Key: map[string]string{"slot": "1"}}, {Name: "state"},
	}}
	if d := cmp.Diff(want, n.GetPrefix(), protocmp.Transform()); d != "" {
		t.Error(d)
	}
	schema := Schema().Child("loss").Child("events").Child("event").Child("state")
	for _, u := range n.GetUpdate() {
		at := schema
		for _, e := range u.GetPath().GetElem() {
			if at = at.Child(e.GetName()); at == nil {
				t.Fatalf("%v is not in the schema", u.GetPath())
			}
		}
		if !at.Leaf() {
			t.Errorf("%v is no leaf", u.GetPath())
		}
		if at.Name == "source" {
			t.Error("a leaf named source collides with a tag of collectors")
		}
	}
}

// Other ways to cut and encode the same notification.
func TestDecodeEventForms(t *testing.T) {
	whole := func(n *gnmipb.Notification) { // all of the path in the updates
		for _, u := range n.Update {
			u.Path = &gnmipb.Path{Elem: append(append([]*gnmipb.PathElem{}, n.Prefix.Elem...), u.Path.Elem...)}
		}
		n.Prefix = &gnmipb.Path{Target: "sw1"}
	}
	for what, change := range map[string]func(n *gnmipb.Notification){
		"no prefix":       whole,
		"module prefixes": func(n *gnmipb.Notification) { n.Prefix.Elem[0] = &gnmipb.PathElem{Name: "decaf-loss:loss"} },
		"leaves of a later revision": func(n *gnmipb.Notification) {
			n.Update = append(n.Update, &gnmipb.Update{
				Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "mood"}}},
				Val:  &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: "good"}},
			})
		},
		"JSON": func(n *gnmipb.Notification) {
			for _, u := range n.Update {
				switch v := u.Val.Value.(type) {
				case *gnmipb.TypedValue_StringVal:
					u.Val = &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonVal{JsonVal: []byte(`"` + v.StringVal + `"`)}}
				case *gnmipb.TypedValue_BytesVal:
					u.Val = &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonIetfVal{JsonIetfVal: []byte(`"RQD/PA=="`)}}
				case *gnmipb.TypedValue_LeaflistVal:
					u.Val = &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonVal{JsonVal: []byte(`["10.1.0.0/16"]`)}}
				case *gnmipb.TypedValue_UintVal:
					text := prototext.Format(u.Val) // uint_val: N
					text = strings.TrimSpace(text[strings.Index(text, ":")+1:])
					if u.Path.Elem[0].Name == "sequence" {
						text = `"` + text + `"` // as JSON_IETF does
					}
					u.Val = &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonIetfVal{JsonIetfVal: []byte(text)}}
				}
			}
		},
	} {
		ev := fullEvent()
		n := EventUpdates(ev, 1, ev.Origin.BootId)
		change(n)
		got, is, err := DecodeEvent(n)
		if err != nil || !is {
			t.Errorf("%s: %v, %v", what, is, err)
			continue
		}
		ev.Origin.Producer = n.GetPrefix().GetTarget()
		if d := cmp.Diff(ev, got, protocmp.Transform()); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
}

func TestDecodeEventRefuses(t *testing.T) {
	str := func(s string) *gnmipb.TypedValue {
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: s}}
	}
	num := func(v uint64) *gnmipb.TypedValue {
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_UintVal{UintVal: v}}
	}
	set := func(path string, v *gnmipb.TypedValue) func(n *gnmipb.Notification) {
		return func(n *gnmipb.Notification) {
			for i, u := range n.Update {
				var names []string
				for _, e := range u.Path.Elem {
					names = append(names, e.Name)
				}
				if strings.Join(names, "/") == path {
					if v == nil {
						n.Update = append(n.Update[:i:i], n.Update[i+1:]...)
					} else {
						u.Val = v
					}
					return
				}
			}
			t.Fatalf("no leaf %s", path)
		}
	}
	for _, tc := range []struct {
		what   string
		change func(n *gnmipb.Notification)
		wrong  string
	}{
		{"no sequence", set("sequence", nil), "no sequence"},
		{"no boot id", set("boot-id", nil), "no boot-id"},
		{"no class", set("class", nil), "no class"},
		{"class is a number", set("class", num(3)), "is no string"},
		{"sequence is text", set("sequence", str("many")), "invalid syntax"},
		{"port too large", set("packet/source-port", num(65536)), "65536 is more than 65535"},
		{"no address", set("packet/source-address", str("ten")), "leaf source-address"},
		{"no MAC", set("packet/source-mac", str("00:00:00:00:00:00:00:01")), "no Ethernet address"},
		{"long header", set("packet/header", &gnmipb.TypedValue{Value: &gnmipb.TypedValue_BytesVal{BytesVal: make([]byte, 129)}}), "129 bytes"},
		{"no value", func(n *gnmipb.Notification) { n.Update[0].Val = nil }, "leaf slot"},
		{"two events", func(n *gnmipb.Notification) {
			other := EventUpdates(fullEvent(), 2, 9)
			for _, u := range append(append([]*gnmipb.Update{}, n.Update...), other.Update...) {
				_ = u
			}
			for _, m := range []*gnmipb.Notification{n, other} {
				for _, u := range m.Update {
					u.Path = &gnmipb.Path{Elem: append(append([]*gnmipb.PathElem{}, m.Prefix.Elem...), u.Path.Elem...)}
				}
				m.Prefix = nil
			}
			n.Update = append(n.Update, other.Update...)
		}, "want one each"},
	} {
		n := EventUpdates(fullEvent(), 1, 9)
		tc.change(n)
		ev, is, err := DecodeEvent(n)
		if err == nil || !is || ev != nil || !strings.Contains(err.Error(), tc.wrong) {
			t.Errorf("%s: %v, %v, %v; want %q", tc.what, ev, is, err, tc.wrong)
		}
	}
}

func TestCountersThereAndBack(t *testing.T) {
	now := time.Unix(7, 0)
	class := ClassCounters{Name: "policy/l3/acl", Packets: 3, Bytes: 300, Events: 2}
	agent := AgentState{Name: "sw1", BootID: 9, Version: "v1", StartedNs: 5, EventSource: "tp_btf", Slots: 1024, Events: 4, EventsLost: 1, EventsLostQueue: 2, DropsIgnored: 3, DropsUnclassified: 1, Subscribers: 1,
		AggregatesMerged: 5, Fuse: "sampled", Unreported: []string{"policy/l3/acl", "no-buffer"}, DropsUncounted: 6}
	c, is, err := DecodeClass(ClassUpdates(class, now))
	if err != nil || !is || *c != class {
		t.Errorf("%+v, %v, %v", c, is, err)
	}
	a, is, err := DecodeAgent(AgentUpdates(agent, now))
	if err != nil || !is || !cmp.Equal(*a, agent) {
		t.Errorf("%+v, %v, %v", a, is, err)
	}
	// None of them takes another's.
	ev := EventUpdates(fullEvent(), 1, 9)
	for _, n := range []*gnmipb.Notification{ev, AgentUpdates(agent, now), {}, nil} {
		if _, is, err := DecodeClass(n); is || err != nil {
			t.Errorf("class out of %v: %v, %v", n, is, err)
		}
	}
	for _, n := range []*gnmipb.Notification{ClassUpdates(class, now), AgentUpdates(agent, now), {}, nil} {
		if _, is, err := DecodeEvent(n); is || err != nil {
			t.Errorf("event out of %v: %v, %v", n, is, err)
		}
	}
	if _, is, _ := DecodeAgent(ev); is {
		t.Error("agent out of an event")
	}
}

// FuzzDecode: whatever a device sends, decoding ends with a record or an error,
// and a record goes there and back.
func FuzzDecode(f *testing.F) {
	for _, n := range []*gnmipb.Notification{
		EventUpdates(fullEvent(), 1, 9), EventUpdates(eventV6(), 1, 9),
		AggregateUpdates(fullAggregate(), 1, 9), TransitionUpdates(Transition{Sequence: 1, BootID: 9, Kind: "fuse"}, 1),
		ReportingUpdates(ClassReporting{Name: "unknown"}, time.Unix(1, 0)),
		ClassUpdates(ClassCounters{Name: "unknown"}, time.Unix(1, 0)), AgentUpdates(AgentState{}, time.Unix(1, 0)), {},
	} {
		b, err := proto.Marshal(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := &gnmipb.Notification{}
		if proto.Unmarshal(b, n) != nil {
			return
		}
		DecodeClass(n)
		DecodeAgent(n)
		DecodeTransition(n)
		DecodeReporting(n)
		if agg, is, err := DecodeAggregate(n); is && err == nil {
			again, is, err := DecodeAggregate(AggregateUpdates(*agg, 1, agg.Origin.BootId))
			if err != nil || !is {
				t.Fatalf("%v, %v", is, err)
			}
			again.Origin.Producer = agg.Origin.Producer
			if d := cmp.Diff(agg, again, protocmp.Transform()); d != "" {
				t.Error(d)
			}
		}
		ev, is, err := DecodeEvent(n)
		if err != nil || !is {
			return
		}
		again, is, err := DecodeEvent(EventUpdates(ev, 1, ev.Origin.BootId))
		if err != nil || !is {
			t.Fatalf("%v, %v", is, err)
		}
		again.Origin.Producer = ev.Origin.Producer
		if d := cmp.Diff(ev, again, protocmp.Transform()); d != "" {
			t.Error(d)
		}
	})
}
