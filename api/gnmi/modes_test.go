package gnmi

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
)

// TestModes walks every mode of a list and of its subscriptions, in every
// encoding, with and without each flag: what comes before sync_response, what
// after it when something happens, and how the call goes on.
func TestModes(t *testing.T) {
	const once, poll, stream = gnmipb.SubscriptionList_ONCE, gnmipb.SubscriptionList_POLL, gnmipb.SubscriptionList_STREAM
	const targetDefined, onChange, sample = gnmipb.SubscriptionMode_TARGET_DEFINED, gnmipb.SubscriptionMode_ON_CHANGE, gnmipb.SubscriptionMode_SAMPLE
	// What a client is told, by kind: events by their sequence, the class's
	// packets, the setting.
	type seen struct {
		events  []uint64
		packets []uint64
		dscp    []uint64
		gone    []string
	}
	for _, tc := range []struct {
		what        string
		mode        gnmipb.SubscriptionList_Mode
		sub         *gnmipb.Subscription
		updatesOnly bool
		before      seen
		// after: event 3 happens, the class has 4 packets, the filter's dscp
		// becomes 11, and then the filter goes. Of what is sent again and again
		// each is seen once.
		after seen
	}{
		{what: "ONCE", mode: once, before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}}},
		{what: "ONCE, updates only", mode: once, updatesOnly: true},
		{what: "ONCE, what is for STREAM left aside", mode: once, sub: &gnmipb.Subscription{Mode: targetDefined, SampleInterval: 1, HeartbeatInterval: 1, SuppressRedundant: true},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}}},
		{what: "POLL", mode: poll, before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after: seen{events: []uint64{1, 2, 3}, packets: []uint64{4}, dscp: []uint64{11}}},
		{what: "POLL, updates only", mode: poll, updatesOnly: true,
			after: seen{events: []uint64{1, 2, 3}, packets: []uint64{4}, dscp: []uint64{11}}},
		{what: "TARGET_DEFINED", mode: stream, sub: &gnmipb.Subscription{Mode: targetDefined},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{3}, packets: []uint64{3, 4}, dscp: []uint64{11}, gone: []string{filter}}},
		{what: "TARGET_DEFINED, updates only", mode: stream, sub: &gnmipb.Subscription{Mode: targetDefined}, updatesOnly: true,
			after: seen{events: []uint64{3}, packets: []uint64{3, 4}, dscp: []uint64{11}, gone: []string{filter}}},
		{what: "TARGET_DEFINED, no more than changes", mode: stream, sub: &gnmipb.Subscription{Mode: targetDefined, SuppressRedundant: true},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{3}, packets: []uint64{4}, dscp: []uint64{11}, gone: []string{filter}}},
		{what: "TARGET_DEFINED with a heartbeat", mode: stream, sub: &gnmipb.Subscription{Mode: targetDefined, HeartbeatInterval: 20e6},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{1, 2, 3}, packets: []uint64{3, 4}, dscp: []uint64{10, 11}, gone: []string{filter}}},
		{what: "TARGET_DEFINED, no more than changes, with a heartbeat", mode: stream, sub: &gnmipb.Subscription{Mode: targetDefined, SuppressRedundant: true, HeartbeatInterval: 20e6},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{1, 2, 3}, packets: []uint64{3, 4}, dscp: []uint64{10, 11}, gone: []string{filter}}},
		{what: "ON_CHANGE", mode: stream, sub: &gnmipb.Subscription{Mode: onChange},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{3}, packets: []uint64{4}, dscp: []uint64{11}, gone: []string{filter}}},
		{what: "ON_CHANGE, updates only", mode: stream, sub: &gnmipb.Subscription{Mode: onChange}, updatesOnly: true,
			after: seen{events: []uint64{3}, packets: []uint64{4}, dscp: []uint64{11}, gone: []string{filter}}},
		{what: "ON_CHANGE, no more than changes, which it is", mode: stream, sub: &gnmipb.Subscription{Mode: onChange, SuppressRedundant: true},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{3}, packets: []uint64{4}, dscp: []uint64{11}, gone: []string{filter}}},
		{what: "ON_CHANGE with a heartbeat", mode: stream, sub: &gnmipb.Subscription{Mode: onChange, HeartbeatInterval: 20e6},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{1, 2, 3}, packets: []uint64{3, 4}, dscp: []uint64{10, 11}, gone: []string{filter}}},
		{what: "SAMPLE", mode: stream, sub: &gnmipb.Subscription{Mode: sample, SampleInterval: 10e6},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{1, 2, 3}, packets: []uint64{3, 4}, dscp: []uint64{10, 11}}},
		{what: "SAMPLE, as fast as can be, updates only", mode: stream, sub: &gnmipb.Subscription{Mode: sample}, updatesOnly: true,
			after: seen{events: []uint64{1, 2, 3}, packets: []uint64{3, 4}, dscp: []uint64{10, 11}}},
		{what: "SAMPLE with a heartbeat", mode: stream, sub: &gnmipb.Subscription{Mode: sample, SampleInterval: 10e6, HeartbeatInterval: 20e6},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{1, 2, 3}, packets: []uint64{3, 4}, dscp: []uint64{10, 11}}},
		{what: "SAMPLE, no more than changes", mode: stream, sub: &gnmipb.Subscription{Mode: sample, SuppressRedundant: true},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{3}, packets: []uint64{4}, dscp: []uint64{11}}},
		{what: "SAMPLE, no more than changes, with a heartbeat", mode: stream, sub: &gnmipb.Subscription{Mode: sample, SuppressRedundant: true, HeartbeatInterval: 20e6},
			before: seen{events: []uint64{1, 2}, packets: []uint64{3}, dscp: []uint64{10}},
			after:  seen{events: []uint64{1, 2, 3}, packets: []uint64{3, 4}, dscp: []uint64{10, 11}}},
	} {
		for _, e := range encodings {
			t.Run(fmt.Sprintf("%s/%s", tc.what, e), func(t *testing.T) {
				r := newRig(t, nil)
				r.event(1, "no-buffer")
				r.event(2, "no-buffer")
				set := func(req *gnmipb.SetRequest) {
					if _, err := r.client.Set(t.Context(), req); err != nil {
						t.Fatal(err)
					}
				}
				set(&gnmipb.SetRequest{Update: update(filter+"/config/dscp", number(10))})
				sub := &gnmipb.Subscription{Path: path("/loss"), Mode: tc.sub.GetMode(), SampleInterval: tc.sub.GetSampleInterval(),
					SuppressRedundant: tc.sub.GetSuppressRedundant(), HeartbeatInterval: tc.sub.GetHeartbeatInterval()}
				s := r.subscribe(&gnmipb.SubscriptionList{Mode: tc.mode, UpdatesOnly: tc.updatesOnly, Encoding: e,
					Prefix: &gnmipb.Path{Target: "sw1", Origin: "decaf-loss"}, Subscription: []*gnmipb.Subscription{sub}})
				add := func(to *seen, n *gnmipb.Notification) {
					t.Helper()
					if n.GetPrefix().GetTarget() != "sw1" || n.GetPrefix().GetOrigin() != "decaf-loss" || n.GetTimestamp() == 0 {
						t.Fatalf("prefix %v, timestamp %d", n.GetPrefix(), n.GetTimestamp())
					}
					once := func(list *[]uint64, v uint64) {
						if !slices.Contains(*list, v) {
							*list = append(*list, v)
						}
					}
					if ev, is, err := yang.DecodeEvent(n); err != nil {
						t.Fatal(err)
					} else if is {
						if !n.GetAtomic() {
							t.Errorf("an event that is not atomic: %v", n)
						}
						once(&to.events, ev.Origin.Seq)
					}
					for _, u := range n.GetUpdate() {
						at := show(absolute(n, u))
						leaf := walk(yang.Schema(), absolute(n, u))
						if leaf == nil || u.GetDuplicates() != 0 && tc.sub.GetMode() != sample && tc.sub.GetMode() != targetDefined {
							t.Errorf("%s, %d duplicates", at, u.GetDuplicates())
							continue
						}
						for p, list := range map[string]*[]uint64{acl + "/state/packets": &to.packets, filter + "/config/dscp": &to.dscp} {
							if at == p {
								v, err := yang.Native(leaf.Type, u.GetVal())
								if err != nil {
									t.Errorf("%s: %v", at, err)
								}
								once(list, v.GetUintVal())
							}
						}
					}
					for _, d := range n.GetDelete() {
						to.gone = append(to.gone, show(d.GetElem()))
					}
				}
				check := func(when string, got, want seen) {
					t.Helper()
					if fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("%s: %v, want %v", when, got, want)
					}
				}
				var before, after seen
				for _, n := range s.untilSync() {
					add(&before, n)
				}
				check("before sync_response", before, tc.before)
				if tc.mode == once {
					if _, err := s.Recv(); err != io.EOF {
						t.Errorf("after it: %v", err)
					}
					return
				}
				// Sampled at least once as it was, where that is to be seen.
				until := func(done func() bool) {
					for !done() {
						add(&after, s.next())
					}
				}
				if tc.mode == stream {
					until(func() bool {
						return len(after.packets) >= len(tc.after.packets)-1 && len(after.dscp) >= len(tc.after.dscp)-1
					})
				}
				r.event(3, "no-buffer")
				r.state.set("policy/l3/acl", 4)
				set(&gnmipb.SetRequest{Update: update(filter+"/config/dscp", number(11))})
				if tc.mode == poll {
					if err := s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Poll{Poll: &gnmipb.Poll{}}}); err != nil {
						t.Fatal(err)
					}
					for _, n := range s.untilSync() {
						add(&after, n)
					}
					check("when polled", after, tc.after)
					return
				}
				until(func() bool {
					return slices.Contains(after.events, 3) && slices.Contains(after.packets, 4) && slices.Contains(after.dscp, 11) && len(after.events) >= len(tc.after.events)
				})
				set(&gnmipb.SetRequest{Delete: []*gnmipb.Path{path(filter)}})
				until(func() bool { return len(after.gone) >= len(tc.after.gone) })
				slices.Sort(after.events)
				check("after it", after, tc.after)
			})
		}
	}
}

// sent collects what a sender sends.
type sent struct {
	gnmipb.GNMI_SubscribeServer
	got []*gnmipb.Notification
}

func (s *sent) SendMsg(m any) error {
	resp := &gnmipb.SubscribeResponse{}
	if err := proto.Unmarshal(m.(*frame).data.Materialize(), resp); err != nil {
		return err
	}
	s.got = append(s.got, resp.GetUpdate())
	return nil
}

// What a subscriber was too slow for is told as duplicates: rounds of a sample,
// and events that fell out of its queue.
func TestDuplicates(t *testing.T) {
	target, err := New(Config{}, Deps{Schema: yang.Schema(), State: (&state{classes: map[string]uint64{"no-buffer": 1}}).notifications})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range encodings {
		out := &sent{}
		s := &sender{target, &plan{key: frameKey{encoding: e}, era: present, live: []pattern{{}}}, out, nil}
		leaf := pattern{elems: path("/loss/classes/class/state/packets").Elem}
		tm := &timer{spec: timerSpec{pattern: leaf, every: time.Hour, kinds: setOf(yang.State)}, next: time.Now().Add(-3*time.Hour - time.Minute)}
		for range 2 {
			if err := s.due(t.Context(), []*timer{tm}, false); err != nil {
				t.Fatal(err)
			}
			tm.next = time.Now()
		}
		if len(out.got) != 2 || out.got[0].Update[0].GetDuplicates() != 3 || out.got[1].Update[0].GetDuplicates() != 0 {
			t.Errorf("%s: %v", e, out.got)
		}
		it := newItem(&gnmipb.Notification{Prefix: path("/loss/events/event[slot=1]/state"), Atomic: true, Update: []*gnmipb.Update{
			{Path: path("sequence"), Val: number(9)}, {Path: path("class"), Val: word("no-buffer")}}})
		for _, gap := range []int{7, 0} {
			if err := s.queued(queued{item: it, whole: true, gap: gap}); err != nil {
				t.Fatal(err)
			}
			n := out.got[len(out.got)-1]
			for _, u := range n.GetUpdate() {
				if int(u.GetDuplicates()) != gap {
					t.Errorf("%s: %v after a gap of %d", e, u, gap)
				}
			}
			if len(n.GetUpdate()) != 2 || !n.GetAtomic() {
				t.Errorf("%s: %v", e, n)
			}
		}
	}
}
