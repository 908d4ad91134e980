package gnmi

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// frames is what a client that does not decode receives: the size of a message.
type frames struct{ bytes int }

// byteCodec leaves what is received as bytes.
type byteCodec struct{ encoding.CodecV2 }

func (c byteCodec) Unmarshal(data mem.BufferSlice, v any) error {
	v.(*frames).bytes = data.Len()
	return nil
}

// raw subscribes without decoding what comes.
func (r *rig) raw(conn *grpc.ClientConn, list *gnmipb.SubscriptionList) grpc.ClientStream {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	r.t.Cleanup(cancel)
	s, err := conn.NewStream(ctx, &gnmipb.GNMI_ServiceDesc.Streams[0], gnmipb.GNMI_Subscribe_FullMethodName,
		grpc.ForceCodecV2(byteCodec{encoding.GetCodecV2(grpcproto.Name)}))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := s.SendMsg(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: list}}); err != nil {
		r.t.Fatal(err)
	}
	return s
}

var eventsOnly = &gnmipb.SubscriptionList{Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: path("/loss/events")}}}

// 10,000 events a second reach 16 subscribers without loss. 15 count what
// comes, the 16th decodes it and checks every sequence; a 17th that never reads
// ends and holds up nobody. On a machine too slow for it the pace gives way, not
// the events: the log has the rate.
func TestFanOut(t *testing.T) {
	const perSecond, events, counting = 10_000, 30_000, 15
	r := newRig(t, func(c *Config) { c.Ring, c.Queue, c.MaxLost = 1024, 16384, 4096 })
	var wg sync.WaitGroup
	var synced sync.WaitGroup
	synced.Add(counting)
	var bytes atomic.Int64
	read := make([]atomic.Int64, counting+1)
	for i := range counting {
		s := r.raw(r.dial(insecure.NewCredentials()), eventsOnly)
		wg.Go(func() {
			var f frames
			for n := range 1 + events { // with sync_response
				if err := s.RecvMsg(&f); err != nil {
					t.Errorf("after %d events: %v", n, err)
					return
				}
				bytes.Add(int64(f.bytes))
				read[i].Store(int64(n))
				if n == 0 {
					synced.Done()
				}
			}
		})
	}
	checking := r.subscribe(eventsOnly)
	checking.untilSync()
	wg.Go(func() {
		for want := uint64(1); want <= events; want++ {
			m, err := checking.Recv()
			if err != nil {
				t.Error(err)
				return
			}
			ev, is, err := yang.DecodeEvent(m.GetUpdate())
			if err != nil || !is || ev.Origin.Seq != want {
				t.Errorf("%v, %v, want event %d", ev, err, want)
				return
			}
			read[counting].Store(int64(want))
		}
	})
	deaf := gnmipb.NewGNMIClient(r.dial(insecure.NewCredentials()))
	stuck, err := deaf.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stuck.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: eventsOnly}}); err != nil {
		t.Fatal(err)
	}
	synced.Wait()
	begin := time.Now()
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for seq := uint64(0); seq < events; {
		<-pace.C
		due := min(uint64(time.Since(begin).Seconds()*perSecond), events)
		for i := range read {
			due = min(due, uint64(read[i].Load())+8192)
		}
		if t.Failed() {
			t.Fatalf("at event %d: %+v", seq, r.Stats())
		}
		for seq < due {
			seq++
			r.event(seq, "no-buffer")
		}
	}
	published := time.Since(begin)
	wg.Wait()
	t.Logf("%d events, %.0f/s, in %s to %d subscribers, the last of them %s later; %d bytes an event", events, events/published.Seconds(), published.Round(time.Millisecond), counting+1, (time.Since(begin) - published).Round(time.Millisecond), bytes.Load()/counting/events)
	if s := r.Stats(); s.Ended != 1 || s.Published != events {
		t.Fatalf("%+v", s)
	}
	for {
		if _, err := stuck.Recv(); err != nil {
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("who never read: %v", err)
			}
			break
		}
	}
}

// A thousand subscribers, each of which sees state and every event, cost a few
// kilobytes each while nothing happens; one that never reads ends alone.
func TestThousandSubscribers(t *testing.T) {
	const subscribers, conns, batch = 1000, 10, 16
	r := newRig(t, func(c *Config) {
		c.Ring, c.Queue, c.MaxLost = 64, 64, 50
		c.MinSample, c.Sample, c.Scan = 100*time.Millisecond, time.Second, time.Second
	})
	start := time.Now()
	looks := atomic.Int64{}
	state := r.deps.State
	r.deps.State = func(now time.Time) []*gnmipb.Notification { looks.Add(1); return state(now) }
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	list := &gnmipb.SubscriptionList{Subscription: []*gnmipb.Subscription{
		{Path: path("/loss/events")}, {Path: path("/loss/classes"), Mode: gnmipb.SubscriptionMode_ON_CHANGE}}}
	var streams []grpc.ClientStream
	for range conns {
		// A window that does not grow: who does not read is found out soon.
		conn := r.dial(insecure.NewCredentials(), grpc.WithInitialWindowSize(1<<16), grpc.WithInitialConnWindowSize(1<<20))
		for range subscribers / conns {
			streams = append(streams, r.raw(conn, list))
		}
	}
	var f frames
	for _, s := range streams { // the class, sync_response
		for range 2 {
			if err := s.RecvMsg(&f); err != nil {
				t.Fatal(err)
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes a subscriber, both ends; %d looks at state", (int64(after.HeapAlloc)+int64(after.StackInuse)-int64(before.HeapAlloc)-int64(before.StackInuse))/subscribers, looks.Load())
	if n := r.Stats().Subscribers; n != subscribers {
		t.Fatalf("%d subscribers", n)
	}
	// The first reads nothing from here on; events are large, to fill soon what
	// gRPC takes for it.
	seq := uint64(0)
	for begin := time.Now(); r.Stats().Ended == 0; {
		for range batch {
			seq++
			ev := &decafpb.DropEvent{Origin: &decafpb.Origin{BootId: 9, Seq: seq}, TimeNs: 1000 + seq, Class: "no-buffer", Reason: strings.Repeat("x", 1000)}
			r.Publish(yang.EventUpdates(ev, seq%uint64(r.cfg.Ring), 9))
		}
		var wg sync.WaitGroup
		for _, s := range streams[1:] {
			wg.Go(func() {
				var f frames
				for range batch {
					if err := s.RecvMsg(&f); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if t.Failed() || seq > 10_000 {
			t.Fatalf("who does not read has not ended: %+v", r.Stats())
		}
		if r.Stats().Ended > 0 {
			t.Logf("%d events to %d subscribers in %s", seq, subscribers-1, time.Since(begin).Round(time.Millisecond))
		}
	}
	for {
		if err := streams[0].RecvMsg(&f); err != nil {
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("who does not read: %v", err)
			}
			break
		}
	}
	if s := r.Stats(); s.Ended != 1 || s.Subscribers != subscribers-1 {
		t.Errorf("%+v", s)
	}
	// One each to begin with, then one for all.
	if n, most := looks.Load(), subscribers+int64(time.Since(start)/(r.cfg.MinSample/2))+1; n > most {
		t.Errorf("%d looks at state, at most %d", n, most)
	}
}
