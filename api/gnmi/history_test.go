package gnmi

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"testing"
	"time"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/openconfig/gnmi/proto/gnmi_ext"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func rangeOf(from, to int64) *gnmi_ext.Extension {
	return &gnmi_ext.Extension{Ext: &gnmi_ext.Extension_History{History: &gnmi_ext.History{Request: &gnmi_ext.History_Range{Range: &gnmi_ext.TimeRange{Start: from, End: to}}}}}
}

func snapshotAt(at int64) *gnmi_ext.Extension {
	return &gnmi_ext.Extension{Ext: &gnmi_ext.Extension_History{History: &gnmi_ext.History{Request: &gnmi_ext.History_SnapshotTime{SnapshotTime: at}}}}
}

func depthOf(level uint32) *gnmi_ext.Extension {
	return &gnmi_ext.Extension{Ext: &gnmi_ext.Extension_Depth{Depth: &gnmi_ext.Depth{Level: level}}}
}

// ask subscribes with extensions.
func (r *rig) ask(list *gnmipb.SubscriptionList, ext ...*gnmi_ext.Extension) *subscription {
	r.t.Helper()
	s, err := r.client.Subscribe(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: list}, Extension: ext}); err != nil {
		r.t.Fatal(err)
	}
	return &subscription{s, r.t}
}

// The rig's events happen at 1001, 1002, … ns; the ring has the last eight of
// ten.
func TestHistory(t *testing.T) {
	r := newRig(t, nil)
	for seq := range uint64(10) {
		r.event(seq+1, "no-buffer")
	}
	all := []uint64{3, 4, 5, 6, 7, 8, 9, 10}
	soon := time.Now().Add(time.Hour).UnixNano()
	const once, stream, poll = gnmipb.SubscriptionList_ONCE, gnmipb.SubscriptionList_STREAM, gnmipb.SubscriptionList_POLL
	for _, tc := range []struct {
		what        string
		mode        gnmipb.SubscriptionList_Mode
		updatesOnly bool
		ext         *gnmi_ext.Extension
		want        []uint64
		code        codes.Code
	}{
		{what: "a range", mode: stream, ext: rangeOf(1004, 1007), want: []uint64{4, 5, 6}},
		{what: "updates only", mode: stream, updatesOnly: true, ext: rangeOf(1004, 1007), want: []uint64{4, 5, 6}},
		{what: "from before the ring", mode: stream, ext: rangeOf(math.MinInt64, 1005), want: []uint64{3, 4}},
		{what: "until now", mode: stream, ext: rangeOf(0, time.Now().UnixNano()), want: all},
		{what: "of no length", mode: stream, ext: rangeOf(1004, 1004)},
		{what: "after all", mode: stream, ext: rangeOf(2000, 3000)},
		{what: "backwards", mode: stream, ext: rangeOf(1007, 1004), code: codes.InvalidArgument},
		{what: "a range once", mode: once, ext: rangeOf(1004, 1007), code: codes.InvalidArgument},
		{what: "a range polled", mode: poll, ext: rangeOf(1004, 1007), code: codes.InvalidArgument},
		{what: "a range to come", mode: stream, ext: rangeOf(soon, math.MaxInt64), code: codes.Unimplemented},
		{what: "a snapshot", mode: once, ext: snapshotAt(1006), want: []uint64{3, 4, 5, 6}},
		{what: "a snapshot without data", mode: once, updatesOnly: true, ext: snapshotAt(1006)},
		{what: "from before all", mode: once, ext: snapshotAt(7)},
		{what: "a snapshot streamed", mode: stream, ext: snapshotAt(1006), code: codes.InvalidArgument},
		{what: "a snapshot polled", mode: poll, ext: snapshotAt(1006), code: codes.InvalidArgument},
		{what: "a snapshot to come", mode: once, ext: snapshotAt(soon), code: codes.Unimplemented},
		{what: "neither", mode: once, ext: &gnmi_ext.Extension{Ext: &gnmi_ext.Extension_History{}}, code: codes.InvalidArgument},
	} {
		s := r.ask(&gnmipb.SubscriptionList{Mode: tc.mode, UpdatesOnly: tc.updatesOnly, Encoding: gnmipb.Encoding_PROTO,
			Subscription: []*gnmipb.Subscription{{Path: path("/loss")}}}, tc.ext)
		var got []uint64
		synced := 0
		for {
			m, err := s.Recv()
			if err != nil {
				if tc.code == codes.OK && err != io.EOF || tc.code != codes.OK && status.Code(err) != tc.code {
					t.Errorf("%s ends with %v", tc.what, err)
				}
				break
			}
			if m.GetSyncResponse() {
				synced++
				continue
			}
			ev, is, err := yang.DecodeEvent(m.GetUpdate())
			if err != nil || !is {
				t.Errorf("%s: %v, %v: state has no past", tc.what, m, err)
				continue
			}
			got = append(got, ev.Origin.Seq)
		}
		if !slices.Equal(got, tc.want) || tc.code == codes.OK && synced != 1 {
			t.Errorf("%s: %v with %d sync_responses, want %v", tc.what, got, synced, tc.want)
		}
	}
}

// A range without end goes on with what happens, and state is part of it; one
// that ends soon goes on until then.
func TestHistoryGoesOn(t *testing.T) {
	r := newRig(t, nil)
	for seq := range uint64(4) {
		r.event(seq+1, "no-buffer")
	}
	s := r.ask(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: path("/loss")}}}, rangeOf(1003, math.MaxInt64))
	var before []uint64
	agent := 0
	for _, n := range s.untilSync() {
		if ev, is, _ := yang.DecodeEvent(n); is {
			before = append(before, ev.Origin.Seq)
		} else if _, is, _ := yang.DecodeAgent(n); is {
			agent++
		}
	}
	if !slices.Equal(before, []uint64{3, 4}) || agent != 1 {
		t.Errorf("before sync: %v, the agent %d times", before, agent)
	}
	r.event(5, "no-buffer")
	for {
		if ev, is, _ := yang.DecodeEvent(s.next()); is {
			if ev.Origin.Seq != 5 {
				t.Errorf("event %d", ev.Origin.Seq)
			}
			break
		}
	}

	end := time.Now().Add(200 * time.Millisecond)
	s = r.ask(&gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: path("/loss/events")}}}, rangeOf(1005, end.UnixNano()))
	if got := sequences(t, s.untilSync()); !slices.Equal(got, []uint64{5}) {
		t.Errorf("before sync: %v", got)
	}
	r.event(6, "no-buffer")
	var after []uint64
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		after = append(after, sequences(t, []*gnmipb.Notification{m.GetUpdate()})...)
	}
	if !slices.Equal(after, []uint64{6}) || time.Now().Before(end) {
		t.Errorf("until its end: %v", after)
	}
}

// Levels below what is asked for, in every call and encoding.
func TestDepthOverTheWire(t *testing.T) {
	r := newRig(t, nil)
	r.event(1, "no-buffer")
	for _, tc := range []struct {
		path  string
		level uint32
		want  []string // leaves, the last two names of each
	}{
		{"/loss/events/event[slot=1]/state", 0, []string{"state/slot", "state/sequence", "state/boot-id", "state/time", "state/class", "packet/ttl", "packet/header"}},
		{"/loss/events/event[slot=1]/state", 1, []string{"state/slot", "state/sequence", "state/boot-id", "state/time", "state/class"}},
		{"/loss/events/event[slot=1]", 2, []string{"state/slot", "state/sequence", "state/boot-id", "state/time", "state/class"}},
		{"/loss/events", 1, nil},
		{"/loss/events", 4, []string{"state/slot", "state/sequence", "state/boot-id", "state/time", "state/class", "packet/ttl", "packet/header"}},
		{"/loss/events/event[slot=1]/state/packet/ttl", 1, []string{"packet/ttl"}},
	} {
		leaf := func(p []*gnmipb.PathElem) string {
			return fmt.Sprintf("%s/%s", p[len(p)-2].GetName(), p[len(p)-1].GetName())
		}
		resp, err := r.client.Get(t.Context(), &gnmipb.GetRequest{Path: []*gnmipb.Path{path(tc.path)}, Encoding: gnmipb.Encoding_PROTO, Extension: []*gnmi_ext.Extension{depthOf(tc.level)}})
		if err != nil {
			t.Errorf("%s, %d: %v", tc.path, tc.level, err)
			continue
		}
		var got []string
		for _, u := range resp.Notification[0].GetUpdate() {
			got = append(got, leaf(u.GetPath().GetElem()))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("get %s, %d: %v", tc.path, tc.level, got)
		}
		for _, mode := range []gnmipb.SubscriptionList_Mode{gnmipb.SubscriptionList_ONCE, gnmipb.SubscriptionList_POLL, gnmipb.SubscriptionList_STREAM} {
			got = nil
			for _, n := range r.ask(&gnmipb.SubscriptionList{Mode: mode, Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: path(tc.path)}}}, depthOf(tc.level)).untilSync() {
				for _, u := range n.GetUpdate() {
					got = append(got, leaf(absolute(n, u)))
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%s of %s, %d: %v", mode, tc.path, tc.level, got)
			}
		}
	}
	if _, err := r.client.Capabilities(t.Context(), &gnmipb.CapabilityRequest{Extension: []*gnmi_ext.Extension{depthOf(1)}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("capabilities: %v", err)
	}
	s := r.ask(&gnmipb.SubscriptionList{Subscription: []*gnmipb.Subscription{{}}}, &gnmi_ext.Extension{Ext: &gnmi_ext.Extension_ConfigSubscription{}})
	if _, err := s.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("config_subscription: %v", err)
	}
	// What changes nothing is passed over.
	s = r.ask(&gnmipb.SubscriptionList{Mode: gnmipb.SubscriptionList_ONCE, Subscription: []*gnmipb.Subscription{{}}},
		&gnmi_ext.Extension{Ext: &gnmi_ext.Extension_RegisteredExt{RegisteredExt: &gnmi_ext.RegisteredExtension{Id: gnmi_ext.ExtensionID_EID_EXPERIMENTAL}}},
		&gnmi_ext.Extension{Ext: &gnmi_ext.Extension_MasterArbitration{}})
	s.untilSync()
}
