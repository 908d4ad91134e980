package device

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/service"
	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// told is a source that hands on given records, then waits for its end. It
// names everything after its number.
type told struct {
	records      [][]byte
	handed       chan struct{} // closed when all was handed on
	closed       bool
	lost, passed uint64
	err          error // of counts
}

func (s *told) read(ctx context.Context, handle func(r *record, at time.Time)) error {
	for _, b := range s.records {
		r, err := parseRecord(b)
		if err != nil {
			return err
		}
		handle(&r, time.Unix(0, int64(r.time)))
	}
	close(s.handed)
	<-ctx.Done()
	return nil
}

func (s *told) reason(n uint32) string {
	return map[uint32]string{1: netfilterDrop, 2: "SKB_CONSUMED", 3: "UNHEARD_OF"}[n]
}
func (s *told) function(uint64) string { return "some_function" }
func (s *told) ifname(i uint32) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprintf("eth%d", i)
}
func (s *told) counts() (lost, passed uint64, err error) { return s.lost, s.passed, s.err }
func (s *told) close()                                   { s.closed = true }

// The agent on any system: what it makes of a source's records, and of its end.
func TestAgentWithAnySource(t *testing.T) {
	drop := func(reason, in uint32) []byte {
		return rawRecord(func(b []byte) {
			binary.NativeEndian.PutUint32(b[recReason:], reason)
			binary.NativeEndian.PutUint32(b[recInIf:], in)
		})
	}
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen, cfg.IgnoreInterfaces = "r", "127.0.0.1:0", []string{"eth9"}
	a, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	src := &told{
		records: [][]byte{drop(1, 2), drop(1, 9), drop(2, 2), drop(3, 2), drop(1, 2)},
		handed:  make(chan struct{}), lost: 5, passed: 7,
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, &sources{kernel: src}) }()
	<-src.handed
	s := a.State()
	// Two drops at eth2 and one of a reason nobody knows are events; the one at
	// eth9 and the one that is no loss are ignored, with the 7 of the source.
	if s.Events != 3 || s.DropsUnclassified != 1 || s.DropsIgnored != 2+7 || s.EventsLost != 5 {
		t.Errorf("state: %+v", s)
	}
	classes := a.ledger.totals().classes
	if len(classes) != 2 || classes[0].Name != PolicyL3ACL || classes[0].Packets != 2 || classes[1].Name != Unknown || classes[1].Packets != 1 {
		t.Errorf("classes: %+v", classes)
	}
	cancel()
	if err := <-ended; err != nil || !src.closed {
		t.Errorf("ended with %v, source closed: %v", err, src.closed)
	}
	if s := a.State(); s.EventsLost != 5 || s.DropsIgnored != 9 {
		t.Errorf("the source's last counts are gone: %+v", s)
	}
}

// A source whose counters cannot be read leaves the last that could.
func TestAgentKeepsTheLastCounts(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name = "r"
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	src := &told{lost: 5, passed: 7}
	a.sources = &sources{kernel: src}
	a.counts()
	src.lost, src.err = 6, errors.New("gone")
	if lost, passed := a.counts(); lost != 5 || passed != 7 {
		t.Errorf("%d lost, %d passed", lost, passed)
	}
}

// The command's help says what it runs on.
func TestHelpNamesTheSystem(t *testing.T) {
	if long := Command().Long; !strings.Contains(long, "Linux 5.17") || !strings.Contains(long, "--check") || !strings.Contains(long, "report.threshold") {
		t.Errorf("help:\n%s", long)
	}
}

// poll tries until it holds.
func poll(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// subscribe opens a subscription to all of /loss and returns what it sends.
func subscribe(t testing.TB, c gnmipb.GNMIClient) <-chan *gnmipb.Notification {
	t.Helper()
	out := make(chan *gnmipb.Notification, 65536)
	receive(t, c, func(n *gnmipb.Notification) { out <- n }, func() { close(out) }, "loss")
	return out
}

// receive subscribes to a path and hands on what comes, and then that the stream
// has ended; it returns when the subscription is in sync.
func receive(t testing.TB, c gnmipb.GNMIClient, each func(*gnmipb.Notification), ended func(), names ...string) {
	t.Helper()
	stream, err := c.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := &gnmipb.Path{}
	for _, n := range names {
		path.Elem = append(path.Elem, &gnmipb.PathElem{Name: n})
	}
	err = stream.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: &gnmipb.SubscriptionList{
		Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: path}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	synced := make(chan struct{})
	go func() {
		defer ended()
		for {
			m, err := stream.Recv()
			switch {
			case err != nil:
				return
			case m.GetSyncResponse():
				close(synced)
			default:
				each(m.GetUpdate())
			}
		}
	}()
	select {
	case <-synced:
	case <-time.After(10 * time.Second):
		t.Fatal("no sync_response")
	}
}

// runTold runs an agent whose source tells nothing, until the test ends.
func runTold(t *testing.T, cfg Config) *Agent {
	t.Helper()
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, &sources{kernel: &told{handed: make(chan struct{})}}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if a.Addr(ctx) == nil {
		t.Fatal("does not listen")
	}
	return a
}

// startTold runs an agent whose source tells nothing, until the test ends, and
// returns a client of it.
func startTold(t *testing.T, cfg Config) (*Agent, gnmipb.GNMIClient) {
	t.Helper()
	cfg.Name, cfg.Listen = "r", "127.0.0.1:0"
	cfg.Fuse.CPU, cfg.Fuse.MemoryBytes = 1024, 1<<40 // the process is the test's too
	a := runTold(t, cfg)
	conn, err := grpc.NewClient(a.Addr(t.Context()).String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return a, gnmipb.NewGNMIClient(conn)
}

// TestAgentServesAggregates: an aggregate can be asked for as a tree and, leaf
// by leaf, be subscribed to.
func TestAgentServesAggregates(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Report.Interval = 100 * time.Millisecond
	a, c := startTold(t, cfg)
	now := time.Now()
	for i := range 3 {
		ev := &decafpb.DropEvent{Class: NoBuffer, Ingress: "eth1", Packet: &decafpb.Packet{Flow: testFlow(i / 2).PB()}}
		a.enter(observed{event: ev, packets: 1, bytes: 100, known: true}, now)
	}
	path := func(names ...string) *gnmipb.Path {
		p := &gnmipb.Path{}
		for _, n := range names {
			p.Elem = append(p.Elem, &gnmipb.PathElem{Name: n})
		}
		return p
	}
	deadline := time.Now().Add(10 * time.Second)
	text := ""
	for !strings.Contains(text, `"flows"`) {
		r, err := c.Get(t.Context(), &gnmipb.GetRequest{Path: []*gnmipb.Path{path("loss", "aggregates")}, Encoding: gnmipb.Encoding_JSON_IETF})
		if err != nil && status.Code(err) != codes.NotFound { // none yet
			t.Fatal(err)
		}
		for _, n := range r.GetNotification() {
			for _, u := range n.GetUpdate() {
				text = string(u.GetVal().GetJsonIetfVal())
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no aggregate: %s", text)
		}
	}
	var tree struct {
		Aggregate []struct {
			Slot  string
			State struct{ Class, Packets, Events string }
			Flows struct {
				Flow []struct {
					Rank  uint32
					State struct{ Packets string }
				}
			}
			Prefixes struct {
				Prefix []struct {
					State struct{ Prefix, Direction, Packets string }
				}
			}
		} `json:"decaf-loss:aggregate"`
	}
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if len(tree.Aggregate) != 1 {
		t.Fatalf("%d aggregates:\n%s", len(tree.Aggregate), text)
	}
	g := tree.Aggregate[0]
	if g.Slot != "1" || g.State.Class != NoBuffer || g.State.Packets != "3" || g.State.Events != "3" || len(g.Flows.Flow) != 2 ||
		g.Flows.Flow[0].Rank != 1 || g.Flows.Flow[0].State.Packets != "2" || len(g.Prefixes.Prefix) != 2 || g.Prefixes.Prefix[1].State.Direction != "destination" {
		t.Errorf("tree:\n%s", text)
	}

	stream, err := c.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leaf := path("loss", "aggregates", "aggregate", "flows", "flow", "state", "packets")
	leaf.Elem[4].Key = map[string]string{"rank": "1"}
	err = stream.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: &gnmipb.SubscriptionList{
		Mode: gnmipb.SubscriptionList_ONCE, Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: leaf}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if u := m.GetUpdate().GetUpdate(); len(u) != 1 || u[0].GetVal().GetUintVal() != 2 {
		t.Errorf("the leaf: %v", m)
	}
}

// TestAgentTellsOfItsFuse: a client is told of every step down and back, and
// what the agent left out meanwhile.
func TestAgentTellsOfItsFuse(t *testing.T) {
	a, c := startTold(t, DefaultConfig())
	updates := subscribe(t, c)

	now := time.Now()
	step := func(l load) {
		a.reporting.Lock()
		defer a.reporting.Unlock()
		for before := a.reporter.fuse.allows(""); a.reporter.fuse.allows("") == before; now = now.Add(time.Second) {
			a.reporter.look(now, l)
		}
		a.transitions()
	}
	for range 4 {
		step(load{queue: 1})
	}
	// Off: nothing is counted but that.
	a.enter(observed{event: &decafpb.DropEvent{Class: NoBuffer}, packets: 1, bytes: 100, known: true}, now)
	if s := a.State(); s.Fuse != "off" || s.DropsUncounted != 1 || s.Events != 0 || len(a.ledger.totals().classes) != 0 {
		t.Errorf("off: %+v", s)
	}
	for range 4 {
		step(load{})
	}
	a.enter(observed{event: &decafpb.DropEvent{Class: NoBuffer}, packets: 1, bytes: 100, known: true}, now)
	if s := a.State(); s.Fuse != "full" || s.Events != 1 || s.Transitions != 8 {
		t.Errorf("full again: %+v", s)
	}
	want := []string{"full>sampled", "sampled>aggregates", "aggregates>counters", "counters>off", "off>counters", "counters>aggregates", "aggregates>sampled", "sampled>full"}
	timeout := time.After(10 * time.Second)
	for got := 0; got < len(want); {
		select {
		case n := <-updates:
			tr, is, err := yang.DecodeTransition(n)
			if err != nil {
				t.Fatal(err)
			}
			if !is {
				continue
			}
			cause := "queue"
			if got >= 4 {
				cause = "healed"
			}
			if tr.Kind != "fuse" || tr.From+">"+tr.To != want[got] || tr.Cause != cause || tr.Sequence != uint64(got+1) || tr.BootID != a.ledger.bootID {
				t.Errorf("transition %+v, want %s", tr, want[got])
			}
			got++
		case <-timeout:
			t.Fatal("not all steps arrive")
		}
	}
}

// What the help shows of classes and sources are configurations that work.
func TestHelpShowsWhatWorks(t *testing.T) {
	example := func(begin string) Config {
		_, rest, _ := strings.Cut(Command().Long, begin)
		example, _, ok := strings.Cut(rest, "\n\n")
		if !ok {
			t.Fatalf("no example in the help:\n%s", Command().Long)
		}
		cfg := DefaultConfig()
		cfg.Name = "r"
		if err := service.DecodeConfig("help", []byte(begin+example+"\n"), &cfg); err != nil {
			t.Fatal(err)
		}
		if err := cfg.Validate(); err != nil {
			t.Error(err)
		}
		return cfg
	}
	cfg := example("  classes:\n")
	if s := cfg.settings(ErrorsL2RxCRC); !s.Ignore {
		t.Errorf("%+v", s)
	}
	cfg = example("  kernel: true ")
	if len(cfg.NFLOG.Groups) != 1 || len(cfg.NFLOG.Classes) != 1 || len(cfg.SFlow.Switches) != 1 || cfg.SFlow.Switches[0].Interfaces[1] != "swp1" {
		t.Errorf("%+v", cfg)
	}
}

// BenchmarkSuppressedDrop is what a drop of a flood costs the agent.
func BenchmarkSuppressedDrop(b *testing.B) {
	cfg := DefaultConfig()
	cfg.Name = "r"
	a, err := New(cfg, nil)
	if err != nil {
		b.Fatal(err)
	}
	r, err := parseRecord(rawRecord(func(b []byte) { binary.NativeEndian.PutUint32(b[recReason:], 1) }))
	if err != nil {
		b.Fatal(err)
	}
	src := &sources{kernel: &told{}}
	for b.Loop() {
		a.drop(src, &r, time.Unix(0, 0))
	}
	if s := a.State(); s.Events > uint64(b.N/2)+2000 {
		b.Errorf("%d events of %d drops", s.Events, b.N)
	}
}
