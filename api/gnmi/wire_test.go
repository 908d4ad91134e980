package gnmi

import (
	"math"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/yang"

	"github.com/google/go-cmp/cmp"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

// response is the message that appendResponse is to write the bytes of.
func response(n *gnmipb.Notification, k frameKey, duplicates uint32) *gnmipb.SubscribeResponse {
	out := &gnmipb.Notification{
		Timestamp: n.GetTimestamp(),
		Prefix:    &gnmipb.Path{Target: k.target, Origin: k.origin, Elem: n.GetPrefix().GetElem()},
		Atomic:    n.GetAtomic(),
		Delete:    n.GetDelete(),
	}
	base := walk(yang.Schema(), n.GetPrefix().GetElem())
	for _, u := range n.GetUpdate() {
		val := u.GetVal()
		if k.encoding != gnmipb.Encoding_PROTO {
			val = jsonValue(plain(walk(base, u.GetPath().GetElem()), val, k.encoding), k.encoding)
		}
		out.Update = append(out.Update, &gnmipb.Update{Path: u.GetPath(), Val: val, Duplicates: duplicates})
	}
	return &gnmipb.SubscribeResponse{Response: &gnmipb.SubscribeResponse_Update{Update: out}}
}

// wire reads back what appendResponse writes.
func wire(t *testing.T, n *gnmipb.Notification, k frameKey, duplicates uint32) *gnmipb.SubscribeResponse {
	t.Helper()
	out := &gnmipb.SubscribeResponse{}
	if err := proto.Unmarshal(appendResponse(nil, yang.Schema(), n, n.GetUpdate(), k, duplicates), out); err != nil {
		t.Fatalf("%v of %v: %v", k, n, err)
	}
	return out
}

// What is written straight away is what protobuf's own encoder would have.
func TestResponseBytes(t *testing.T) {
	double := &gnmipb.TypedValue{Value: &gnmipb.TypedValue_DoubleVal{DoubleVal: 1.5}}
	list := &gnmipb.TypedValue{Value: &gnmipb.TypedValue_LeaflistVal{LeaflistVal: &gnmipb.ScalarArray{Element: []*gnmipb.TypedValue{word("a"), number(0)}}}}
	long := make([]byte, 20_000) // a length of three bytes
	for i, n := range []*gnmipb.Notification{
		{},
		yang.EventUpdates(realEvent(7), 3, 9),
		yang.AggregateUpdates(yang.Aggregate{LossAggregate: &decafpb.LossAggregate{Origin: &decafpb.Origin{BootId: 9, Seq: 2}, Class: "no-buffer", Packets: 1 << 60}}, 2, 9),
		yang.ClassUpdates(yang.ClassCounters{Name: "policy/l3/acl", Packets: math.MaxUint64}, time.Unix(1, 2)),
		{Timestamp: -1, Atomic: true, Prefix: path("/loss/classes/class[name=a/b]/state"), Update: []*gnmipb.Update{
			{Path: path("name"), Val: word("\x00\"\\\u2028<é>\x7f")}, {Path: path("name"), Val: word("")}, {Path: path("packets"), Val: number(0)}}},
		{Prefix: path("/a[k=v][l=w]/b[m=]"), Update: []*gnmipb.Update{{Path: path("x/y[z=1]/u"), Val: double}, {Path: path("w"), Val: list}, {Path: path("b"), Val: &gnmipb.TypedValue{Value: &gnmipb.TypedValue_BoolVal{}}},
			{Path: path("i"), Val: &gnmipb.TypedValue{Value: &gnmipb.TypedValue_IntVal{IntVal: -7}}}, {Path: path("o"), Val: &gnmipb.TypedValue{Value: &gnmipb.TypedValue_BytesVal{BytesVal: long}}}}},
		{Timestamp: 5, Delete: []*gnmipb.Path{path("/loss/classes/class[name=x]"), {}}},
	} {
		for _, e := range encodings {
			for _, k := range []frameKey{{encoding: e}, {e, "sw1", "openconfig"}} {
				for _, duplicates := range []uint32{0, 1, math.MaxUint32} {
					if got, want := wire(t, n, k, duplicates), response(n, k, duplicates); !proto.Equal(got, want) {
						t.Errorf("%d, %v: %s", i, k, cmp.Diff(want, got, protocmp.Transform()))
					}
				}
			}
		}
	}
}

// One event that protobuf has no form for does not end the stream of all.
func TestResponseMendsText(t *testing.T) {
	for _, e := range encodings {
		n := &gnmipb.Notification{Prefix: path("/loss/classes/class[name=\xff]/state"), Update: []*gnmipb.Update{{Path: path("name"), Val: word("a\xffb")}}}
		got := wire(t, n, frameKey{e, "\xfe", ""}, 0).GetUpdate()
		text := got.Update[0].GetVal().GetStringVal() + string(got.Update[0].GetVal().GetJsonVal()) + string(got.Update[0].GetVal().GetJsonIetfVal())
		if key := got.Prefix.Elem[2].Key["name"]; key != "\ufffd" || got.Prefix.Target != "\ufffd" || text != "a\ufffdb" && text != `"a`+"\ufffd"+`b"` {
			t.Errorf("%s: %q, %q, %q", e, key, got.Prefix.Target, text)
		}
	}
}

// FuzzResponse: whatever text and numbers come, the bytes are those of the
// message, and JSON is what encoding/json writes.
func FuzzResponse(f *testing.F) {
	f.Add("name", "policy/l3/acl", uint64(3), []byte{1}, int64(5), true, uint8(0))
	f.Add("", "\"\\\u2029\x00", uint64(math.MaxUint64), []byte{}, int64(-5), false, uint8(2))
	f.Fuzz(func(t *testing.T, key, text string, number uint64, bytes []byte, at int64, yes bool, form uint8) {
		key, text = mended(key), mended(text)
		n := &gnmipb.Notification{Timestamp: at, Atomic: yes,
			Prefix: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss"}, {Name: key, Key: map[string]string{key: text, "k": key}}}},
			Update: []*gnmipb.Update{
				{Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: text}}}, Val: word(text)},
				{Path: &gnmipb.Path{}, Val: &gnmipb.TypedValue{Value: &gnmipb.TypedValue_UintVal{UintVal: number}}},
				{Path: path("a/b"), Val: &gnmipb.TypedValue{Value: &gnmipb.TypedValue_BytesVal{BytesVal: bytes}}},
				{Path: path("c"), Val: &gnmipb.TypedValue{Value: &gnmipb.TypedValue_DoubleVal{DoubleVal: math.Float64frombits(number)}}},
			}}
		k := frameKey{encodings[int(form)%len(encodings)], key, text}
		if got, want := wire(t, n, k, uint32(number)), response(n, k, uint32(number)); !proto.Equal(got, want) {
			t.Error(cmp.Diff(want, got, protocmp.Transform()))
		}
	})
}
