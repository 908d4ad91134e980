package gnmi

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"decaf/api/yang"

	"github.com/google/go-cmp/cmp"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

// Large events of some time ago, which aggregates are and drops are not, are kept as
// bytes, and are what they were to who asks for them, in every form.
func TestRingPacksLargeEvents(t *testing.T) {
	const room, published = 100, 250
	for _, c := range []struct {
		what   string
		event  func(seq uint64) *gnmipb.Notification
		packed int // of those that are held
	}{
		{"drops", func(seq uint64) *gnmipb.Notification { return yang.EventUpdates(realEvent(seq), seq%room, 9) }, 0},
		{"aggregates of one flow", func(seq uint64) *gnmipb.Notification {
			return yang.AggregateUpdates(realAggregate(seq, 1, 2), seq%room, 9)
		}, room - packAfter},
		{"of many", func(seq uint64) *gnmipb.Notification {
			return yang.AggregateUpdates(realAggregate(seq, 10, 20), seq%room, 9)
		}, room - packAfter},
	} {
		r := newRings(room)
		for i := range uint64(published) {
			it := newItem(c.event(i))
			it.whole(yang.Schema(), frameKey{})
			r.add(it)
		}
		packed := 0
		for i, it := range r.all() {
			want := c.event(uint64(published - room + i))
			if it.n.Load() == nil {
				packed++
				if it.made(frameKey{}) != nil {
					t.Errorf("%s: event %d is packed, and its frame is kept", c.what, i)
				}
			}
			if n, updates := it.pick([]pattern{{}}); !proto.Equal(n, want) || len(updates) != len(want.Update) {
				t.Fatalf("%s: event %d is not what it was: %s", c.what, i, cmp.Diff(want, n, protocmp.Transform()))
			}
			if i%20 != 0 {
				continue
			}
			for _, e := range encodings {
				for _, duplicates := range []uint32{0, 7} {
					k := frameKey{e, "sw1", "openconfig"}
					got := &gnmipb.SubscribeResponse{}
					if err := proto.Unmarshal(it.again(yang.Schema(), k, duplicates).data.Materialize(), got); err != nil {
						t.Fatal(err)
					}
					if want := response(want, k, duplicates); !proto.Equal(want, got) {
						t.Fatalf("%s: event %d in %s: %s", c.what, i, e, cmp.Diff(want, got, protocmp.Transform()))
					}
				}
			}
		}
		if packed != c.packed {
			t.Errorf("%s: %d packed, want %d", c.what, packed, c.packed)
		}
	}
}

// What some paths mean of an event is the same whether it is packed or not.
func TestPackedPick(t *testing.T) {
	n := yang.AggregateUpdates(realAggregate(1, 3, 12), 5, 9)
	n.Update = append(n.Update, // keys that come and go
		&gnmipb.Update{Path: path("x[a=1][b=2]/y[c=3]"), Val: number(1)},
		&gnmipb.Update{Path: path("x[b=2]/y"), Val: number(2)},
		&gnmipb.Update{Path: path("x/y[c=4]"), Val: number(3)},
		&gnmipb.Update{Path: path("x[a=][d=2]/y[c=4]/z"), Val: number(4)})
	packed := newItem(proto.CloneOf(n))
	packed.pack()
	for _, p := range []string{"/", "/loss/aggregates/aggregate", "/loss/aggregates/aggregate[slot=4]", "/loss/events", "/loss/aggregates/aggregate/state/class",
		"/.../packets", "/loss/aggregates/aggregate/flows/flow[rank=2]", "/loss/aggregates/*/prefixes/prefix[rank=12]/state/*", "/loss/aggregates/aggregate/flows/flow[rank=9]",
		"/.../x[a=1]", "/.../x[b=2]", "/.../y[c=4]", "/.../x[d=2]/y", "/.../y/z"} {
		for _, depth := range []int{0, 1, 3} {
			at := []pattern{{path(p).GetElem(), depth}, {path("/loss/aggregates/aggregate/state/bytes").GetElem(), 0}}
			_, want := newItem(n).pick(at)
			_, got := packed.pick(at)
			if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
				t.Errorf("%s, %d: %s", p, depth, d)
			}
		}
	}
}

// perAggregate bounds the bytes that an aggregate with one flow takes in a full ring:
// 2 kB are its updates, and a sixteenth of them are not packed yet, 11 kB each.
const perAggregate = 5 << 10

// A ring full of the aggregates of a simple flood takes a bounded amount of memory.
func TestRingMemory(t *testing.T) {
	const room = 1024
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := newRings(room)
	for seq := range uint64(2 * room) {
		it := newItem(yang.AggregateUpdates(realAggregate(seq, 1, 2), seq%room, 9))
		it.whole(yang.Schema(), frameKey{})
		r.add(it)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / room
	t.Logf("%d bytes an aggregate", each)
	if each > perAggregate {
		t.Errorf("%d bytes an aggregate, at most %d", each, perAggregate)
	}
	runtime.KeepAlive(r)
}

// Who asks for one leaf has no event decoded for it, and who asks for all of one
// form does not either: but Get in JSON, which is one value.
func TestNothingDecoded(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Ring = 256 })
	r.aggregates(256, 10, 20)
	decoded := func() (n uint32) {
		for _, it := range r.snapshot() {
			n += it.decoded.Load()
		}
		return n
	}
	const once, stream = gnmipb.SubscriptionList_ONCE, gnmipb.SubscriptionList_STREAM
	const leaf, all, class = "/loss/agent/state/name", "/loss", "/loss/aggregates/aggregate/state/class"
	subscribe := func(mode gnmipb.SubscriptionList_Mode, sub gnmipb.SubscriptionMode, e gnmipb.Encoding, p string) func() {
		return func() {
			s := r.subscribe(&gnmipb.SubscriptionList{Mode: mode, Encoding: e, Subscription: []*gnmipb.Subscription{{Path: path(p), Mode: sub}}})
			if len(s.untilSync()) == 0 {
				t.Errorf("%s %s of %s: nothing", mode, sub, p)
			}
			if mode == stream && sub == gnmipb.SubscriptionMode_SAMPLE { // a round of it
				s.next()
			}
		}
	}
	for _, c := range []struct {
		what string
		ask  func()
		want uint32
	}{
		{"get", func() {
			if _, err := r.client.Get(t.Context(), &gnmipb.GetRequest{Path: []*gnmipb.Path{path(leaf)}}); err != nil {
				t.Error(err)
			}
		}, 0},
		{"once", subscribe(once, 0, gnmipb.Encoding_JSON, leaf), 0},
		{"stream on change", subscribe(stream, gnmipb.SubscriptionMode_ON_CHANGE, gnmipb.Encoding_JSON, leaf), 0},
		{"stream sample", subscribe(stream, gnmipb.SubscriptionMode_SAMPLE, gnmipb.Encoding_JSON, leaf), 0},
		{"all in JSON", subscribe(once, 0, gnmipb.Encoding_JSON, all), 0},
		{"all in PROTO", subscribe(once, 0, gnmipb.Encoding_PROTO, all), 0},
		{"some of an aggregate", subscribe(once, 0, gnmipb.Encoding_PROTO, class), 256 - packAfter},
	} {
		before := decoded()
		if c.ask(); decoded()-before != c.want {
			t.Errorf("%s: %d decoded, want %d", c.what, decoded()-before, c.want)
		}
	}
}

// More than a client takes in one message is refused with what to do instead, and
// just so much is not; neither is the next.
func TestGetTooLarge(t *testing.T) {
	const room, large = 64, 80_000 // bytes of an event
	for _, e := range encodings {
		target, err := New(Config{Ring: room}, Deps{Schema: yang.Schema(), State: (&state{}).notifications})
		if err != nil {
			t.Fatal(err)
		}
		get := func(p string) (*gnmipb.GetResponse, error) {
			return target.Get(t.Context(), &gnmipb.GetRequest{Encoding: e, Path: []*gnmipb.Path{path(p)}})
		}
		size := 0
		for seq := range uint64(room) {
			ev := realEvent(seq + 1)
			ev.Reason = strings.Repeat("x", large)
			target.Publish(yang.EventUpdates(ev, seq, 9))
			if seq < maxAnswer/large-5 {
				continue
			}
			resp, err := get("/loss/events")
			if err == nil {
				size = proto.Size(resp)
				continue
			}
			if s := status.Convert(err); s.Code() != codes.ResourceExhausted || s.Message() != status.Convert(errAnswer).Message() {
				t.Fatalf("%s: %d events: %v", e, seq+1, err)
			}
		}
		if size > maxAnswer || size < maxAnswer-2*large {
			t.Errorf("%s: the largest answer has %d bytes", e, size)
		}
		if _, err := get("/loss/agent"); err != nil {
			t.Errorf("%s: then: %v", e, err)
		}
		if e != gnmipb.Encoding_JSON {
			continue
		}
		// Leaves that are small and many are refused before all are collected, and
		// leave their turn to the next.
		for seq := range uint64(room) {
			target.Publish(yang.AggregateUpdates(realAggregate(seq, 1000, 1000), seq, 9))
		}
		for range 2 {
			if _, err := get("/loss/aggregates"); status.Code(err) != codes.ResourceExhausted {
				t.Errorf("%s: many leaves: %v", e, err)
			}
		}
	}
}

func TestOutermost(t *testing.T) {
	for _, c := range []struct{ list, want []string }{
		{[]string{"/loss", "/loss", "/loss"}, []string{"/loss"}},
		{[]string{"/loss/events", "/loss/classes", "/loss"}, []string{"/loss"}},
		{[]string{"/a/b[k=1]", "/a/b[k=*]", "/a/b[k=2]/c"}, []string{"/a/b[k=*]"}},
		{[]string{"/a/*/c", "/a/b/c", "/a/b/d"}, []string{"/a/*/c", "/a/b/d"}},
		{[]string{"/a/*", "/a/...", "/a/.../c"}, []string{"/a/...", "/a/.../c"}}, // what "..." stands for is not looked into
		{[]string{"/a/*", "/a/.../c"}, []string{"/a/*", "/a/.../c"}},             // it may be nothing
		{[]string{"/.../c", "/a/b/c", "/.../c"}, []string{"/.../c"}},
	} {
		var list []pattern
		for _, p := range c.list {
			list = append(list, pattern{elems: path(p).Elem})
		}
		var got []string
		for _, p := range outermost(list, pattern.contains) {
			got = append(got, show(p.elems))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.list, got, c.want)
		}
	}
	a, b := pattern{elems: path("/a").Elem, depth: 2}, pattern{elems: path("/a/b").Elem, depth: 2}
	if a.contains(b) || !a.contains(a) {
		t.Error("levels below /a are not those below /a/b")
	}
}
