package gnmi

import (
	"context"
	"crypto/tls"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/service"
	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
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
	ctx, cancel := context.WithCancel(r.t.Context())
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

// mutual returns what a target that asks for certificates needs, and a client's.
func mutual(t testing.TB) (target *tls.Config, client credentials.TransportCredentials) {
	t.Helper()
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue("sw1", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if target, err = files.Server(true); err != nil {
		t.Fatal(err)
	}
	if files, err = ca.Issue("collector.test"); err != nil {
		t.Fatal(err)
	}
	conf, err := files.Client("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return target, credentials.NewTLS(conf)
}

// audience are subscribers to all events, each on a connection of its own: one
// that decodes and checks every sequence, the others only count.
type audience struct {
	read  []atomic.Uint64 // by subscriber
	bytes atomic.Int64
	ended sync.WaitGroup
}

// listen has so many read events until they have seen that many.
func (r *rig) listen(creds credentials.TransportCredentials, subscribers int, events uint64) *audience {
	r.t.Helper()
	a := &audience{read: make([]atomic.Uint64, subscribers)}
	checking, err := gnmipb.NewGNMIClient(r.dial(creds)).Subscribe(r.t.Context())
	if err == nil {
		err = checking.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: eventsOnly}})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	s := &subscription{checking, r.t}
	s.untilSync()
	a.ended.Go(func() {
		for want := uint64(1); want <= events; want++ {
			m, err := s.Recv()
			if err != nil {
				r.t.Errorf("before event %d: %v", want, err)
				return
			}
			ev, is, err := yang.DecodeEvent(m.GetUpdate())
			if err != nil || !is || ev.Origin.Seq != want {
				r.t.Errorf("%v, %v, want event %d", ev, err, want)
				return
			}
			a.read[0].Store(want)
		}
	})
	for i := 1; i < subscribers; i++ {
		s := r.raw(r.dial(creds), eventsOnly)
		var f frames
		if err := s.RecvMsg(&f); err != nil { // sync_response
			r.t.Fatal(err)
		}
		a.ended.Go(func() {
			for n := range events {
				if err := s.RecvMsg(&f); err != nil {
					r.t.Errorf("after %d events: %v", n, err)
					return
				}
				a.bytes.Add(int64(f.bytes))
				a.read[i].Store(n + 1)
			}
		})
	}
	return a
}

// least is how many events all of them have read.
func (a *audience) least() uint64 {
	least := a.read[0].Load()
	for i := range a.read {
		least = min(least, a.read[i].Load())
	}
	return least
}

// realEvent is an event as the kernel source makes it.
func realEvent(seq uint64) *decafpb.DropEvent {
	header := make([]byte, 96)
	header[0] = 0x45
	return &decafpb.DropEvent{
		Origin: &decafpb.Origin{BootId: 9, Seq: seq}, TimeNs: 1_700_000_000_000_000_000 + seq, Class: "policy/l3/acl", Reason: "NETFILTER_DROP",
		Source: "kernel", Ingress: "eth1", Egress: "eth2",
		Packet: &decafpb.Packet{
			Flow: &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 0, 0, 2}, SrcPort: 40000, DstPort: 443, Protocol: 6},
			Ttl:  63, TcpFlags: 2, TcpSeq: uint32(seq), Length: 60, Header: header,
		},
	}
}

// 10,000 events a second reach 16 subscribers over mutual TLS without loss. 15
// count what comes, the 16th decodes it and checks every sequence; a 17th that
// never reads ends and holds up nobody. On a machine too slow for it the pace
// gives way, not the events: the log has the rate.
func TestFanOut(t *testing.T) {
	const perSecond, events, subscribers, ahead = 10_000, 30_000, 16, 8192
	target, client := mutual(t)
	r := newRig(t, func(c *Config) { c.TLS, c.Ring, c.Queue, c.MaxLost = target, 1024, 2*ahead, 4096 })
	a := r.listen(client, subscribers, events)
	// A window that does not grow: how much gRPC takes for who does not read is
	// the client's choice.
	stuck, err := gnmipb.NewGNMIClient(r.dial(client, grpc.WithInitialWindowSize(1<<16), grpc.WithInitialConnWindowSize(1<<16))).Subscribe(t.Context())
	if err == nil {
		err = stuck.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: eventsOnly}})
	}
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for seq := uint64(0); seq < events; {
		<-pace.C
		if t.Failed() {
			t.Fatalf("at event %d: %+v", seq, r.Stats())
		}
		for due := min(uint64(time.Since(begin).Seconds()*perSecond), events, a.least()+ahead); seq < due; {
			seq++
			r.event(seq, "no-buffer")
		}
	}
	published := time.Since(begin)
	a.ended.Wait()
	t.Logf("%d events, %.0f/s, in %s to %d subscribers, the last of them %s later; %d bytes an event", events, events/published.Seconds(), published.Round(time.Millisecond), subscribers, (time.Since(begin) - published).Round(time.Millisecond), a.bytes.Load()/(subscribers-1)/events)
	if s := r.Stats(); s.Ended != 1 || s.Published != events {
		t.Fatalf("%+v", s)
	}
	for _, it := range r.snapshot() {
		if n := len(*it.frames.Load()); n != 1 {
			t.Errorf("event %d was written %d times", it.number, n)
		}
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

// An op is an event to 16 subscribers, both ends in this process; cpu-ns is the
// processor time it takes. At 10,000 events a second they come one by one and
// wake everybody, which at most speed they do not.
func BenchmarkFanOut(b *testing.B) {
	const subscribers, ahead = 16, 4096
	target, client := mutual(b)
	for _, transport := range []struct {
		name   string
		tls    *tls.Config
		client credentials.TransportCredentials
	}{{"plain", nil, insecure.NewCredentials()}, {"tls", target, client}} {
		for _, pace := range []struct {
			name string
			gap  time.Duration
			at   uint64 // so many at a time
		}{{"most", 0, 0}, {"10000", 100 * time.Microsecond, 1}} {
			b.Run("transport="+transport.name+"/rate="+pace.name, func(b *testing.B) {
				r := newRig(b, func(c *Config) { c.TLS, c.Ring, c.Queue = transport.tls, 1024, 2*ahead })
				a := r.listen(transport.client, subscribers, uint64(b.N))
				b.ReportAllocs()
				b.ResetTimer()
				before := processorTime(b)
				begin := time.Now()
				for seq := uint64(0); seq < uint64(b.N) && !b.Failed(); {
					due := min(uint64(b.N), a.least()+ahead)
					if pace.gap > 0 {
						due = min(due, uint64(time.Since(begin)/pace.gap)*pace.at)
					}
					if seq >= due {
						time.Sleep(pace.gap/2 + time.Microsecond)
					}
					for ; seq < due; seq++ {
						r.Publish(yang.EventUpdates(realEvent(seq+1), (seq+1)%uint64(r.cfg.Ring), 9))
					}
				}
				a.ended.Wait()
				b.StopTimer()
				b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
				if s := r.Stats(); s.Lost != 0 {
					b.Errorf("%+v", s)
				}
			})
		}
	}
}
