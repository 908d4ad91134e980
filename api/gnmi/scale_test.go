package gnmi

import (
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
	"google.golang.org/grpc/status"
)

// perSubscriber bounds what a subscriber takes while nothing happens, in bytes, of
// target and client together: goroutines' stacks and the buffers of a gRPC stream,
// some 39 kB, and as much again for another version of either.
const perSubscriber = 80 << 10

// A thousand subscribers, each of which sees state and every event, take a bounded
// amount of memory while nothing happens; one that never reads ends alone.
func TestThousandSubscribers(t *testing.T) {
	const subscribers, conns, batch = 1000, 10, 16
	r := newRig(t, func(c *Config) {
		c.Ring, c.Queue, c.MaxLost = 64, 32, 20
		c.MinSample, c.Sample, c.Scan = 100*time.Millisecond, 5*time.Second, 5*time.Second
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
	each := (int64(after.HeapAlloc) + int64(after.StackInuse) - int64(before.HeapAlloc) - int64(before.StackInuse)) / subscribers
	t.Logf("%d bytes a subscriber, both ends; %d looks at state", each, looks.Load())
	if each > perSubscriber {
		t.Errorf("%d bytes a subscriber, at most %d", each, perSubscriber)
	}
	if n := r.Stats().Subscribers; n != subscribers {
		t.Fatalf("%d subscribers", n)
	}
	// The first reads nothing from here on; events are large, to fill soon what
	// gRPC takes for it.
	seq := uint64(0)
	for begin := time.Now(); r.Stats().Ended == 0; {
		for range batch {
			seq++
			ev := &decafpb.DropEvent{Origin: &decafpb.Origin{BootId: 9, Seq: seq}, TimeNs: 1000 + seq, Class: "no-buffer", Reason: strings.Repeat("x", 4000)}
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
