package gnmi

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"decaf/api/yang"

	"github.com/google/go-cmp/cmp"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// stuck is a subscriber that reads only when it is told to: what is sent to it hangs.
type stuck struct {
	sent
	hangs   chan struct{} // has a token for each message that does
	release chan error    // ends one
}

func (s *stuck) SendMsg(m any) error {
	if err := s.sent.SendMsg(m); err != nil {
		return err
	}
	s.hangs <- struct{}{}
	return <-s.release
}

// Subscribers who do not read hold, all together, no more events than came last,
// whether those were there before or happened since, and each is told how many it
// lost.
func TestStuckHoldTheLastEvents(t *testing.T) {
	const room, depth, subscribers = 16, 32, 40
	target, err := New(Config{Ring: room, Queue: depth, MaxLost: 1 << 20}, Deps{Schema: yang.Schema()})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Target: target}
	seq := uint64(0)
	var queues []*queue
	for i := range subscribers {
		for range 3 * room {
			seq++
			r.event(seq, "no-buffer")
		}
		// Each wants one event of many, so that its queue is never full.
		p := &plan{mode: gnmipb.SubscriptionList_STREAM, era: present, all: []pattern{{}},
			live: []pattern{{elems: path(fmt.Sprintf("/loss/events/event[slot=%d]", i%room)).Elem}}}
		q := newQueue(target.cfg.Queue, target.cfg.MaxLost, p.wants)
		target.attach(q, p)
		queues = append(queues, q)
	}
	for range 4 * target.keep() {
		seq++
		r.event(seq, "no-buffer")
	}
	held := map[*item]bool{}
	for i, q := range queues {
		for _, it := range q.before {
			held[it] = true
		}
		got := q.pop()
		if got.item == nil || got.gap == 0 {
			t.Fatalf("subscriber %d has %v", i, got)
		}
		for ; got.item != nil; got = q.pop() {
			held[got.item] = true
		}
	}
	if most := int(target.keep()) + room; len(held) > most || len(held) < depth {
		t.Errorf("%d events are held, at most %d", len(held), most)
	}
	if target.Stats().Lost == 0 {
		t.Error("nothing was lost")
	}
}

// A queue's events expire by the list they are of, in whatever place, and what is
// left keeps its order.
func TestQueueExpires(t *testing.T) {
	target, err := New(Config{Ring: 4, Queue: 64, MaxLost: 10}, Deps{Schema: yang.Schema()})
	if err != nil {
		t.Fatal(err)
	}
	p := &plan{era: present, all: []pattern{{}}, live: []pattern{{}}}
	q := newQueue(64, 10, p.wants)
	target.attach(q, p)
	publish := func(list string, at int) {
		target.Publish(&gnmipb.Notification{Timestamp: int64(at), Prefix: path("/loss/" + list + "[slot=1]/state"), Update: []*gnmipb.Update{{Path: path("slot"), Val: number(1)}}})
	}
	publish("transitions/transition", 1)
	for i := range 6 {
		publish("events/event", 2+i)
	}
	publish("transitions/transition", 8)
	if lost, failed := q.expire(4); lost != 2 || failed {
		t.Errorf("lost %d, failed: %v", lost, failed)
	}
	if e := q.pop(); e.at != 1 || e.gap != 2 {
		t.Errorf("%d after a gap of %d", e.at, e.gap)
	}
	if got := drain(q); !slices.Equal(got, []int64{4, 5, 6, 7, 8}) {
		t.Errorf("kept %v", got)
	}
	for i := range 12 {
		publish("events/event", 10+i)
	}
	if lost, failed := q.expire(1); lost != 12 || !failed {
		t.Errorf("lost %d, failed: %v", lost, failed)
	}
	select {
	case <-q.failed:
	default:
		t.Error("does not say that it failed")
	}
	if lost, failed := q.expire(1); lost != 0 || failed {
		t.Errorf("lost %d once more, failed: %v", lost, failed)
	}
}

// While what is sent hangs, the look at the state that it is of is not held; then
// what is left comes from another.
func TestStuckHoldsNoState(t *testing.T) {
	var first weak.Pointer[gnmipb.TypedValue] // something of the first look
	looks := uint64(0)
	state := func(now time.Time) []*gnmipb.Notification {
		looks++
		var out []*gnmipb.Notification
		for i := range 5 {
			if i == 2 && looks > 1 {
				continue // went meanwhile
			}
			out = append(out, yang.ClassUpdates(yang.ClassCounters{Name: fmt.Sprint("c", i), Packets: looks}, now))
		}
		if looks == 1 {
			first = weak.Make(out[4].Update[0].Val)
		}
		return out
	}
	target, err := New(Config{}, Deps{Schema: yang.Schema(), State: state})
	if err != nil {
		t.Fatal(err)
	}
	p := &plan{mode: gnmipb.SubscriptionList_ONCE, era: present, all: []pattern{{}}, key: frameKey{encoding: gnmipb.Encoding_PROTO}}
	out := &stuck{hangs: make(chan struct{}), release: make(chan error)}
	q := newQueue(8, 8, p.wants)
	ended := make(chan error)
	go func() { ended <- (&sender{target, p, out, q}).begin(t.Context(), time.Now()) }()
	for i := range 4 {
		<-out.hangs
		if i == 1 {
			for n := 0; first.Value() != nil; n++ {
				if n == 100 {
					t.Fatal("who does not read holds the state")
				}
				runtime.GC()
			}
		}
		out.release <- nil
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range out.got {
		c, _, err := yang.DecodeClass(n)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(c.Name, " ", c.Packets))
	}
	if want := []string{"c0 1", "c1 1", "c3 2", "c4 2"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// perCall bounds what a call on a connection of its own takes while nothing happens,
// in bytes, of both ends together, whatever it asks for: some 300 kB. What it was sent
// would take 5 MB, for each of its subscriptions.
const perCall = 1 << 20

// A list of as many subscriptions as there may be, each of which is to send only what
// changed of all there is, costs no more than one; it begins, and a stop ends it.
func TestManySubscriptionsInOneCall(t *testing.T) {
	const calls = 8
	r := newRig(t, func(c *Config) {
		c.Ring, c.Sample, c.MinSample, c.Scan = 1024, time.Minute, 50*time.Millisecond, time.Minute
	})
	for seq := range uint64(1024) {
		r.event(seq+1, "no-buffer")
	}
	// What is written for the first to ask is there for all.
	r.subscribe(&gnmipb.SubscriptionList{Mode: gnmipb.SubscriptionList_ONCE, Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: path("/loss")}}}).untilSync()
	for _, tc := range []struct {
		what string
		sub  func(i int) *gnmipb.Subscription
	}{
		{"the same", func(int) *gnmipb.Subscription {
			return &gnmipb.Subscription{Path: path("/loss"), Mode: gnmipb.SubscriptionMode_SAMPLE, SuppressRedundant: true, SampleInterval: uint64(time.Hour)}
		}},
		{"each at an interval of its own", func(i int) *gnmipb.Subscription {
			return &gnmipb.Subscription{Path: path("/loss"), Mode: gnmipb.SubscriptionMode_SAMPLE, SuppressRedundant: true, SampleInterval: uint64(time.Hour) + uint64(i)}
		}},
	} {
		list := &gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO}
		for i := range maxPaths {
			list.Subscription = append(list.Subscription, tc.sub(i))
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var streams []grpc.ClientStream
		for range calls {
			streams = append(streams, r.raw(r.dial(insecure.NewCredentials()), list))
		}
		for _, s := range streams {
			for got := 0; ; got++ {
				var f frames
				if err := s.RecvMsg(&f); err != nil {
					t.Fatal(err)
				}
				if f.bytes == 2 { // sync_response
					if got < 1024 {
						t.Errorf("%s: %d before sync_response", tc.what, got)
					}
					break
				}
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		each := (int64(after.HeapAlloc) + int64(after.StackInuse) - int64(before.HeapAlloc) - int64(before.StackInuse)) / calls
		t.Logf("%s: %d bytes a call", tc.what, each)
		if each > perCall {
			t.Errorf("%s: %d bytes a call, at most %d", tc.what, each, perCall)
		}
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// Many timers due at once end with the call, and with the target, not after all
// their rounds.
func TestTimersEnd(t *testing.T) {
	looks := atomic.Int64{}
	target, err := New(Config{MinSample: time.Millisecond}, Deps{Schema: yang.Schema(), State: func(now time.Time) []*gnmipb.Notification {
		looks.Add(1)
		return []*gnmipb.Notification{yang.AgentUpdates(yang.AgentState{Name: "sw1"}, now)}
	}})
	if err != nil {
		t.Fatal(err)
	}
	var timers []*timer
	for range maxPaths {
		timers = append(timers, &timer{spec: timerSpec{every: time.Hour, kinds: setOf(yang.State)}})
	}
	p := &plan{era: present}
	out := &sent{}
	ctx, cancel := context.WithCancel(t.Context())
	s := &sender{target, p, out, newQueue(1, 1, p.wants)}
	cancel()
	if err := s.due(ctx, timers, false); status.Code(err) != codes.Canceled || len(out.got) > 0 {
		t.Errorf("after the call: %v, %d sent", err, len(out.got))
	}
	close(target.stopping)
	if err := s.due(t.Context(), timers, false); err != nil || len(out.got) > 0 {
		t.Errorf("after the target: %v, %d sent", err, len(out.got))
	}
	if looks.Load() != 0 {
		t.Errorf("%d looks", looks.Load())
	}
}

// What changed, came and went is known once for all, by versions.
func TestChanges(t *testing.T) {
	schema := yang.Schema()
	var c changes
	look := func(classes ...yang.ClassCounters) *view {
		v := &view{}
		for _, class := range classes {
			v.list = append(v.list, yang.ClassUpdates(class, time.Unix(1, 0)))
		}
		c.compare(schema, v)
		return v
	}
	news := func(v *view, version uint64) (out []string) {
		for i, n := range v.list {
			for _, u := range v.since(i, n.Update, version) {
				out = append(out, show(absolute(n, u)))
			}
		}
		for _, p := range v.goneSince(version, pattern{elems: path("/loss").Elem}, setOf(yang.State)) {
			out = append(out, "gone "+show(p.Elem))
		}
		return out
	}
	check := func(what string, v *view, version uint64, want ...string) {
		t.Helper()
		if d := cmp.Diff(want, news(v, version)); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	const a, b = "/loss/classes/class[name=a]", "/loss/classes/class[name=b]"
	one := look(yang.ClassCounters{Name: "a", Packets: 1})
	two := look(yang.ClassCounters{Name: "a", Packets: 1})
	check("nothing", two, one.version)
	three := look(yang.ClassCounters{Name: "a", Packets: 2}, yang.ClassCounters{Name: "b"})
	check("a leaf and an entry", three, two.version, a+"/state/packets", b+"/state/name", b+"/state/packets", b+"/state/bytes", b+"/state/events")
	four := look(yang.ClassCounters{Name: "b"})
	check("an entry went", four, three.version, "gone "+a)
	check("once", look(yang.ClassCounters{Name: "b"}), four.version)
	check("to who was there longer", four, one.version, b+"/state/name", b+"/state/packets", b+"/state/bytes", b+"/state/events", "gone "+a)
	five := look(yang.ClassCounters{Name: "a", Packets: 2}, yang.ClassCounters{Name: "b"})
	check("it is back", five, four.version, a+"/state/name", a+"/state/packets", a+"/state/bytes", a+"/state/events")
	check("and not gone to who was there before", five, three.version, a+"/state/name", a+"/state/packets", a+"/state/bytes", a+"/state/events")
	check("what an earlier look saw stays", four, three.version, "gone "+a)
	if five.forgotten != 0 {
		t.Errorf("forgotten up to %d", five.forgotten)
	}
}

// Of what went no more than so much is remembered; who was not told of the rest in
// time is told that it was too slow.
func TestChangesForget(t *testing.T) {
	schema := yang.Schema()
	var c changes
	n := 0
	look := func() *view {
		v := &view{}
		for range 4096 {
			n++
			v.list = append(v.list, yang.ClassUpdates(yang.ClassCounters{Name: fmt.Sprint(n)}, time.Unix(1, 0)))
		}
		c.compare(schema, v)
		return v
	}
	begin := look()
	var last *view
	for range 12 {
		last = look()
		if len(c.leaves) > maxGone+4*4096 || len(last.gone) > maxGone {
			t.Fatalf("%d leaves, %d gone", len(c.leaves), len(last.gone))
		}
	}
	if last.forgotten <= begin.version || last.forgotten >= last.version {
		t.Errorf("forgotten up to %d of %d", last.forgotten, last.version)
	}
	target, err := New(Config{}, Deps{Schema: schema, State: func(time.Time) []*gnmipb.Notification { return last.list }})
	if err != nil {
		t.Fatal(err)
	}
	target.changes = c
	p := &plan{era: present}
	s := &sender{target, p, &sent{}, newQueue(1, 1, p.wants)}
	for version, want := range map[uint64]codes.Code{begin.version: codes.ResourceExhausted, last.forgotten: codes.OK} {
		tm := &timer{spec: timerSpec{every: time.Hour, kinds: setOf(yang.State), changed: true, onChange: true, pattern: pattern{elems: path("/loss/agent").Elem}}, version: version}
		if err := s.due(t.Context(), []*timer{tm}, false); status.Code(err) != want {
			t.Errorf("told up to version %d: %v", version, err)
		}
	}
}
