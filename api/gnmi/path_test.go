package gnmi

import (
	"testing"
	"time"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
)

func TestCovers(t *testing.T) {
	const leaf = "/loss/events/event[slot=3]/state/packet/ttl"
	for _, tc := range []struct {
		pattern string
		want    bool
	}{
		{"/", true},
		{"/loss", true},
		{leaf, true},
		{"/loss/events/event", true},
		{"/loss/events/event[slot=*]", true},
		{"/loss/events/event[slot=4]", false},
		{"/loss/*/event/state", true},
		{"/*/*/*/*/*/*", true},
		{"/*/*/*/*/*/*/*", false},
		{"/...", true},
		{"/.../ttl", true},
		{"/.../state", true},
		{"/.../class", false},
		{"/loss/.../packet/...", true},
		{"/loss/events/event/state/packet/ttl/...", true},
		{"/loss/classes", false},
		{leaf + "/more", false},
	} {
		if got := (pattern{elems: path(tc.pattern).Elem}).covers(path(leaf).Elem); got != tc.want {
			t.Errorf("%s: %v", tc.pattern, got)
		}
		// The cheap test may not say no where the real one says yes.
		if prefix := path("/loss/events/event[slot=3]/state").Elem; tc.want && !mayCover(path(tc.pattern).Elem, prefix) {
			t.Errorf("%s: the cheap test fails", tc.pattern)
		}
	}
}

func TestKinds(t *testing.T) {
	state, event, setting := setOf(yang.State), setOf(yang.Event), setOf(yang.Setting)
	for p, want := range map[string]kindSet{
		"/":                            state | event | setting,
		"/loss/events":                 event,
		"/loss/classes/class":          state | setting,
		"/loss/classes/class/state":    state,
		"/loss/filters/filter/state":   state | setting,
		"/loss/classes/class/*/config": setting,
		"/loss/*/*/state/class":        event,
		"/.../boot-id":                 state | event,
		"/loss/agent/state/slots":      state,
	} {
		nodes, err := resolve(yang.Schema(), path(p).Elem)
		if err != nil {
			t.Errorf("%s: %v", p, err)
		}
		if got := kinds(nodes); got != want {
			t.Errorf("%s: %b, want %b", p, got, want)
		}
	}
}

// Levels count from what the pattern means; of several ways to take "..." the
// nearest counts.
func TestDepth(t *testing.T) {
	const leaf = "/loss/events/event[slot=3]/state/packet/ttl"
	for _, tc := range []struct {
		pattern string
		want    int // levels below it, -1: not covered
	}{
		{leaf, 0}, {"/loss/events/event/state/packet", 1}, {"/loss/events/event/state", 2}, {"/loss/events", 4}, {"/", 6},
		{"/...", 0}, {"/.../state", 2}, {"/.../ttl", 0}, {"/loss/classes", -1},
	} {
		if got := reach(path(tc.pattern).Elem, path(leaf).Elem); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.pattern, got, tc.want)
		}
		for depth := 1; depth < 8; depth++ {
			if got := (pattern{path(tc.pattern).Elem, depth}).covers(path(leaf).Elem); got != (tc.want >= 0 && tc.want <= depth) {
				t.Errorf("%s with depth %d: %v", tc.pattern, depth, got)
			}
		}
	}
}

// FuzzGet: whatever a client asks, the answer is data or a status.
func FuzzGet(f *testing.F) {
	target, err := New(Config{Ring: 4}, Deps{Schema: yang.Schema(), Models: []*gnmipb.ModelData{yang.Model()},
		State: (&state{classes: map[string]uint64{"no-buffer": 1}}).notifications})
	if err != nil {
		f.Fatal(err)
	}
	r := &rig{Target: target}
	for seq := range uint64(6) {
		r.event(seq+1, "no-buffer")
	}
	for _, p := range []string{"/", "/loss", "/.../ttl", "/loss/events/event[slot=*]/state", "/*/*/*"} {
		for _, e := range encodings {
			b, err := proto.Marshal(&gnmipb.GetRequest{Path: []*gnmipb.Path{path(p)}, Encoding: e})
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := &gnmipb.GetRequest{}
		if proto.Unmarshal(b, req) != nil {
			return
		}
		resp, err := target.Get(t.Context(), req)
		if err == nil {
			if _, err := proto.Marshal(resp); err != nil {
				t.Error(err)
			}
		}
		subs := &gnmipb.SubscriptionList{Prefix: req.GetPrefix(), Encoding: req.GetEncoding()}
		for _, p := range req.GetPath() {
			subs.Subscription = append(subs.Subscription, &gnmipb.Subscription{Path: p, SampleInterval: uint64(time.Second)})
		}
		target.newPlan(subs, extensions{depth: 2}, time.Now())
	})
}
