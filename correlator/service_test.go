package correlator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"decaf/api"
	"decaf/api/bus"
	"decaf/api/decafpb"
	"decaf/api/gnmi"
	"decaf/api/service"
	"decaf/api/yang"
	"decaf/topology"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
)

// bench is everything around a correlator, all of it real: NATS with
// JetStream, a gNMI target over mutual TLS for one device, publishers for the
// hosts.
type bench struct {
	t      *testing.T
	topo   *topology.Topology
	dir    string
	url    string
	nats   service.TLSFiles
	server *bus.Server
	conn   *bus.Conn
	target *gnmi.Target
	hosts  map[string]*bus.Publisher
	state  atomic.Pointer[yang.AgentState] // of the device's agent
	config func(*Config)                   // changes the default
	now    func() time.Time                // nil: the system's clock
}

const instrumented = "t2-0"

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, topo: smallClos(t), dir: t.TempDir(), hosts: map[string]*bus.Publisher{}, config: func(*Config) {}}
	b.state.Store(&yang.AgentState{Name: instrumented, BootID: 99, Version: "test", EventSource: "tp_btf", Fuse: fuseFull})
	ca, err := service.NewCA(t.TempDir())
	must(t, err)
	own, err := ca.Issue("device."+instrumented, "127.0.0.1")
	must(t, err)
	collector, err := ca.Issue("collector.decaf")
	must(t, err)
	b.startTarget(own, "127.0.0.1:0")
	d, _ := b.topo.Device(instrumented)
	d.GNMI = &topology.GNMI{Address: b.target.Addr(t.Context()).String(), TLS: &topology.TLS{CA: collector.CA, Cert: collector.Cert, Key: collector.Key}}

	nats, err := ca.Issue("nats", "127.0.0.1")
	must(t, err)
	admin, err := ca.Issue("admin.test")
	must(t, err)
	b.nats = nats
	b.startNATS("127.0.0.1:0")
	b.conn, err = bus.Connect(t.Context(), bus.ConnConfig{URL: b.url, TLS: &admin, Name: "admin.test", Site: b.topo.Site, MaxBytes: 256 << 20}, quiet())
	must(t, err)
	t.Cleanup(b.conn.Close)
	must(t, b.conn.WaitReady(t.Context()))
	must(t, b.conn.EnsureStreams(t.Context()))
	for _, h := range b.topo.Hosts {
		p := bus.NewPublisher(b.conn, h.Name, bus.PublisherOptions{})
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = p.Close(ctx)
		})
		b.hosts[h.Name] = p
	}
	return b
}

func (b *bench) startNATS(listen string) {
	b.t.Helper()
	var err error
	b.server, err = bus.StartServer(bus.ServerConfig{Listen: listen, Dir: b.dir, Site: b.topo.Site, TLS: &b.nats, MaxBytes: 256 << 20}, quiet())
	must(b.t, err)
	b.t.Cleanup(b.server.Stop)
	b.url = b.server.URL()
}

func (b *bench) startTarget(files service.TLSFiles, listen string) {
	tls, err := files.Server(true)
	must(b.t, err)
	cfg := gnmi.DefaultConfig()
	cfg.Listen, cfg.TLS = listen, tls
	b.target, err = gnmi.New(cfg, gnmi.Deps{
		Schema: yang.Schema(), Models: []*gnmipb.ModelData{yang.Model()}, Log: quiet(),
		State: func(now time.Time) []*gnmipb.Notification {
			return []*gnmipb.Notification{yang.AgentUpdates(*b.state.Load(), now)}
		},
	})
	must(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.target.Run(ctx) }()
	b.t.Cleanup(func() { cancel(); <-done })
}

// start runs a correlator until the returned function is called.
func (b *bench) start() (*Correlator, func()) {
	cfg := DefaultConfig()
	cfg.Topology = b.topo
	b.config(&cfg)
	c, err := New(cfg, Deps{Conn: b.conn, Log: quiet(), Now: b.now})
	must(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("run: %v", err)
		}
	}
	b.t.Cleanup(stop)
	b.until("ready", func() bool { return c.Ready() == nil })
	return c, stop
}

// publish sends the arrivals of a fabric of the mind as their producers would.
func (b *bench) publish(arrivals []arrival) {
	for _, a := range arrivals {
		for _, r := range a.batch.GetRetransmits() {
			p := b.hosts[r.GetOrigin().GetProducer()]
			r.Origin, r.ReceivedNs = nil, 0
			p.Publish(r)
		}
		for _, d := range a.batch.GetDrops() {
			if d.GetOrigin().GetProducer() == instrumented {
				b.target.Publish(yang.EventUpdates(d, d.GetOrigin().GetSeq()%1024, 99))
			}
		}
	}
}

func (b *bench) heartbeats(from, to time.Time) {
	for at := from; !at.After(to); at = at.Add(2 * time.Second) {
		for _, p := range b.hosts {
			p.Publish(&decafpb.Heartbeat{TimeNs: uint64(at.UnixNano()), Role: "host", Version: "test", Source: "tp_btf", Counters: map[string]uint64{"events_lost_ring": 0}})
		}
	}
}

func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			b.t.Fatalf("not within 20 s: %s", what)
		}
		select {
		case <-b.t.Context().Done():
			b.t.Fatal("test ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The whole way with real parts: a report filed before the evidence is answered
// again when it comes, by a drop and a retransmit of the same segment; a
// restart forgets nothing and names nothing twice.
func TestEvidenceToVerdict(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c, stop := b.start()
	ctx := t.Context()
	b.heartbeats(time.Now().Add(-20*time.Second), time.Now())
	b.until("agents fresh", func() bool {
		rows, err := c.Agents(ctx)
		must(t, err)
		n := 0
		for _, r := range rows {
			if r.Fresh {
				n++
			}
		}
		return n == len(b.topo.Hosts)+1
	})

	now := time.Now()
	early, err := c.FileReport(ctx, &decafpb.FaultReport{Src: "p0-tor0-h0", Dst: "p1-tor1-h1", Says: "ssh froze", FromNs: uint64(now.Add(-10 * time.Second).UnixNano())})
	must(t, err)
	if v := early.GetVerdict(); v.GetVerdict() != verdictNotNetwork || v.GetRevision() != 1 || v.GetFinal() {
		t.Errorf("first verdict %v", v)
	}

	// An access list at a T2 takes half of what comes by.
	at := now.UnixNano() - 6*second
	fb := newFabric(b.topo, 3, fault{device: instrumented, class: "policy/l3/acl", rate: .5, at: at, end: 1 << 62})
	fb.tlpNoise, fb.rtoNoise, fb.lossNoise = 0, 0, 0
	arrivals := fb.run(at, now.UnixNano())
	for i, a := range arrivals { // what is still to come then is not published
		if a.at > time.Now().UnixNano() {
			arrivals = arrivals[:i]
			break
		}
	}
	b.publish(arrivals)
	var id string
	b.until("finding on device "+instrumented, func() bool {
		fs, err := c.Findings(ctx, api.Range{})
		must(t, err)
		for _, f := range fs {
			if f.GetComponent() != "device "+instrumented {
				t.Fatalf("named %s: %v", f.GetComponent(), f.GetEvidence().GetReasons())
			}
			id = f.GetId()
		}
		return len(fs) == 1
	})
	b.until("the early report's verdict has a drop and a retransmit of one segment", func() bool {
		r, err := c.Report(ctx, early.GetId())
		must(t, err)
		v := r.GetVerdict()
		return v.GetVerdict() == verdictNetwork && v.GetComponent() == "device "+instrumented && v.GetClass() == "policy/l3/acl" &&
			v.GetFinding() == id && v.GetRevision() > 1 && hasPair(v.GetEvidence())
	})
	drops, err := c.Drops(ctx, api.Range{})
	must(t, err)
	matched := 0
	for _, d := range drops {
		if d.GetPacket().GetIpId() != 1 {
			t.Errorf("a probe among the drops: %v", d.DropEvent)
		}
		if d.Matched {
			matched++
		}
	}
	if matched == 0 {
		t.Error("no drop is matched")
	}
	if paths, err := c.Paths(ctx, api.Range{Limit: 5}); err != nil || len(paths) != 5 {
		t.Errorf("paths: %d, %v", len(paths), err)
	}

	stop()
	c, stop = b.start()
	if fs, err := c.Findings(ctx, api.Range{}); err != nil || len(fs) != 1 || fs[0].GetId() != id {
		t.Errorf("after a restart: %v, %v", fs, err)
	}
	if r, err := c.Report(ctx, early.GetId()); err != nil || r.GetVerdict().GetComponent() != "device "+instrumented || r.GetSays() != "ssh froze" {
		t.Errorf("after a restart: %v, %v", r, err)
	}
	b.until("the finding is resolved", func() bool {
		fs, _ := c.Findings(ctx, api.Range{})
		if len(fs) != 1 {
			t.Fatalf("after a restart named %d", len(fs))
		}
		return fs[0].GetResolvedNs() != 0
	})
	stop()
}

// While NATS is away a report is refused, not lost; when it returns all goes on.
func TestNATSGoesAndReturns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c, _ := b.start()
	ctx := t.Context()
	kept, err := c.FileReport(ctx, &decafpb.FaultReport{Src: "p0-tor0-h0", Dst: "p1-tor1-h1"})
	must(t, err)
	listen := strings.TrimPrefix(b.url, "tls://")
	b.server.Stop()
	b.until("not ready", func() bool { return c.Ready() != nil })
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := c.FileReport(short, &decafpb.FaultReport{Src: "p0-tor0-h0", Dst: "p1-tor1-h1"}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("while NATS is away: %v", err)
	}
	b.startNATS(listen)
	b.until("ready again", func() bool { return c.Ready() == nil })
	b.until("a report is taken again", func() bool {
		_, err := c.FileReport(ctx, &decafpb.FaultReport{Src: "p0-tor0-h1", Dst: "p1-tor1-h1"})
		return err == nil
	})
	if r, err := c.Report(ctx, kept.GetId()); err != nil || r.GetVerdict().GetVerdict() != verdictInsufficient {
		t.Errorf("the report of before: %v, %v", r, err)
	}
	b.heartbeats(time.Now().Add(-4*time.Second), time.Now())
	b.until("evidence flows again", func() bool {
		rows, _ := c.Agents(ctx)
		for _, r := range rows {
			if r.Name == "p0-tor0-h0" {
				return r.Fresh
			}
		}
		return false
	})
}

// A device that cannot be reached is told of, with what to do, and collected
// from when it can.
func TestDeviceOutOfReach(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := ln.Addr().String()
	must(t, ln.Close())
	for _, d := range topo.Devices {
		d.GNMI = nil
	}
	d, _ := topo.Device("t2-1")
	d.GNMI = &topology.GNMI{Address: addr}
	off, _ := topo.Device("t2-0")
	off.GNMI = &topology.GNMI{Address: "192.0.2.1:9339"}

	states := make(chan string, 1000)
	events := make(chan proto.Message, 1000)
	c := &collector{topo: topo, log: quiet(), now: time.Now,
		open: func(string) publisher { return chanPublisher(events) },
		reached: func(device string, err error) {
			select {
			case states <- fmt.Sprintf("%s: %v", device, err):
			default:
			}
		}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.run(ctx) }()
	defer func() { cancel(); <-done }()
	wait := func(prefix string, parts ...string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
	next:
		for {
			select {
			case s := <-states:
				for _, p := range parts {
					if !strings.Contains(s, p) {
						continue next
					}
				}
				if strings.HasPrefix(s, prefix) {
					return
				}
			case <-deadline:
				t.Fatalf("never told: %s … %v", prefix, parts)
			}
		}
	}
	wait("t2-1", addr, "is the agent running there")

	b := &bench{t: t, topo: topo}
	cfg := gnmi.DefaultConfig()
	cfg.Listen = addr
	target, err := gnmi.New(cfg, gnmi.Deps{Schema: yang.Schema(), Log: quiet(), State: func(now time.Time) []*gnmipb.Notification {
		return []*gnmipb.Notification{yang.AgentUpdates(yang.AgentState{BootID: 7, Version: "x"}, now)}
	}})
	must(t, err)
	tctx, tcancel := context.WithCancel(context.Background())
	tdone := make(chan struct{})
	go func() { defer close(tdone); _ = target.Run(tctx) }()
	defer func() { tcancel(); <-tdone }()
	target.Publish(yang.EventUpdates(&decafpb.DropEvent{Origin: &decafpb.Origin{Seq: 5}, TimeNs: 1, Class: "policy/l3/acl"}, 5, 7))
	agg := yang.Aggregate{
		LossAggregate: &decafpb.LossAggregate{
			Origin: &decafpb.Origin{Seq: 3}, StartNs: 5, EndNs: 9, Class: "no-buffer", Reason: "QDISC_DROP", Ingress: "eth1", Egress: "eth2", Packets: 100, Bytes: 9000,
			TopFlows:    []*decafpb.FlowCount{{Flow: &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 0, 0, 2}, SrcPort: 40000, DstPort: 80, Protocol: 6}, Packets: 60, PacketsError: 2}},
			TopPrefixes: []*decafpb.PrefixCount{{Prefix: &decafpb.Prefix{Address: []byte{10, 0, 0, 0}, Length: 24}, Source: true, Packets: 100}},
		},
		Events: 50, Suppressed: yang.Suppressed{Threshold: 20, Fuse: 11, Queue: 10, Duplicate: 6, Filter: 3}, Unattributed: 7,
	}
	target.Publish(yang.AggregateUpdates(agg, 3, 7))
	want := proto.CloneOf(agg.LossAggregate)
	want.Origin = &decafpb.Origin{Producer: "t2-1", BootId: 7, Seq: 3}
	want.SuppressedThreshold, want.SuppressedFuse, want.SuppressedQueue, want.SuppressedDuplicate, want.SuppressedFilter = 20, 11, 10, 6, 3
	want.Events, want.Unattributed = 50, 7
	wait("t2-1: <nil>")
	gotEvent, gotAggregate, gotBeat := false, false, false
	b.until("an event, an aggregate and a heartbeat", func() bool {
		select {
		case m := <-events:
			switch m := m.(type) {
			case *decafpb.DropEvent:
				o := m.GetOrigin()
				gotEvent = o.GetProducer() == "t2-1" && o.GetBootId() == 7 && o.GetSeq() == 5 && m.GetReceivedNs() != 0
			case *decafpb.LossAggregate:
				gotAggregate = m.ReceivedNs != 0
				m.ReceivedNs = 0
				if !proto.Equal(m, want) {
					t.Errorf("aggregate %v, want %v", m, want)
				}
			case *decafpb.Heartbeat:
				gotBeat = m.GetRole() == "device" && m.GetCounters()[counterBoot] == 7
			}
		default:
		}
		return gotEvent && gotAggregate && gotBeat
	})
}

// chanPublisher publishes into a channel.
type chanPublisher chan proto.Message

func (c chanPublisher) Publish(m proto.Message) {
	select {
	case c <- m:
	default:
	}
}
func (c chanPublisher) Close(context.Context) error { return nil }
