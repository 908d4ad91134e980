package hostagent

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/tracer"

	"google.golang.org/protobuf/proto"
)

// labTopologyText is a - r - b.
const labTopologyText = `
site: lab
devices:
  - {name: r}
hosts:
  - {name: a, addresses: [10.1.0.1, "fd00:1::1"]}
  - {name: b, addresses: [10.2.0.1, "fd00:2::1"]}
links:
  - {a: "a:eth0", a_addr: 10.1.0.1/24, b: "r:eth1", b_addr: 10.1.0.254/24}
  - {a: "b:eth0", a_addr: 10.2.0.1/24, b: "r:eth2", b_addr: 10.2.0.254/24}
`

// recorder keeps what is published.
type recorder struct {
	mu   sync.Mutex
	got  []*decafpb.Retransmit
	beat []*decafpb.Heartbeat
	flow []*decafpb.FlowRecord
	news chan struct{}
}

func newRecorder() *recorder { return &recorder{news: make(chan struct{}, 1)} }

func (r *recorder) Publish(m proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch m := m.(type) {
	case *decafpb.Retransmit:
		// As bus.Publisher does.
		m.Origin = &decafpb.Origin{Producer: "a", BootId: 1, Seq: uint64(len(r.got) + 1)}
		r.got = append(r.got, m)
	case *decafpb.Heartbeat:
		r.beat = append(r.beat, m)
	case *decafpb.FlowRecord:
		r.flow = append(r.flow, proto.CloneOf(m)) // it is the agent's again
	}
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *recorder) all() []*decafpb.Retransmit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*decafpb.Retransmit(nil), r.got...)
}

func (r *recorder) beats() []*decafpb.Heartbeat {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*decafpb.Heartbeat(nil), r.beat...)
}

func (r *recorder) flows() []*decafpb.FlowRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*decafpb.FlowRecord(nil), r.flow...)
}

// wait waits for a record that want likes.
func (r *recorder) wait(t *testing.T, what string, want func(*decafpb.Retransmit) bool) *decafpb.Retransmit {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		for _, m := range r.all() {
			if want(m) {
				return m
			}
		}
		select {
		case <-r.news:
		case <-deadline:
			for _, m := range r.all() {
				t.Logf("seen: %v", m)
			}
			t.Fatalf("no record of %s", what)
		}
	}
}

// tracerFunc is a tracer made of a function.
type tracerFunc func(context.Context, packet.Flow, int64) *decafpb.Path

// Spent says that there is budget.
func (f tracerFunc) Spent() time.Duration { return 0 }

func (f tracerFunc) Refuse() *decafpb.Path {
	return &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_REFUSED}
}

func (f tracerFunc) Do(ctx context.Context, r tracer.Request) *decafpb.Path {
	return f(ctx, r.Flow, r.Epoch)
}

// complete finds a path of one hop at once.
func complete(context.Context, packet.Flow, int64) *decafpb.Path {
	return &decafpb.Path{
		Status: decafpb.PathStatus_PATH_STATUS_COMPLETE, ProbeSeq: 7, ProbeId: 64, Distance: 1,
		Hops: []*decafpb.Hop{{Ttl: 1, Status: decafpb.HopStatus_HOP_STATUS_ANSWERED, Address: []byte{10, 1, 0, 254}}},
	}
}

// testLog writes to the test's own log.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
