package device

import (
	"context"
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

// heard is what subscribers are told, by kind.
type heard struct {
	events      map[string]int // by class
	aggregates  map[string]uint64
	transitions map[string]string // what it went to, by kind and class
	routes      int
}

func newHeard() *heard {
	return &heard{events: map[string]int{}, aggregates: map[string]uint64{}, transitions: map[string]string{}}
}

func (h *heard) take(t *testing.T, n *gnmipb.Notification) {
	t.Helper()
	ev, isEvent, err1 := yang.DecodeEvent(n)
	g, isAggregate, err2 := yang.DecodeAggregate(n)
	tr, isTransition, err3 := yang.DecodeTransition(n)
	_, isRoute, err4 := yang.DecodeRoute(n)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatalf("%v: %v", err, n)
		}
	}
	switch {
	case isEvent:
		h.events[ev.Class]++
	case isAggregate:
		h.aggregates[g.Class] += g.Packets
	case isTransition:
		h.transitions[tr.Kind+" "+tr.Class] = tr.To
	case isRoute:
		h.routes++
	}
}

// At its end the agent still tells its subscribers of the drops seen last, one by
// one and in aggregates of intervals that had not ended, and then that it ends.
func TestAgentTellsAllBeforeItEnds(t *testing.T) {
	const drops = 100
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen = "r", "127.0.0.1:0"
	cfg.Fuse.CPU, cfg.Fuse.MemoryBytes = 1024, 1<<40 // the process is the test's too
	cfg.Report.Interval = time.Hour
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, &sources{kernel: &told{handed: make(chan struct{})}}) }()
	var streams []gnmipb.GNMI_SubscribeClient
	for range 3 {
		conn, err := grpc.NewClient(a.Addr(ctx).String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		s, err := gnmipb.NewGNMIClient(conn).Subscribe(t.Context())
		if err == nil {
			err = s.Send(&gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: &gnmipb.SubscriptionList{
				Encoding: gnmipb.Encoding_PROTO, Subscription: []*gnmipb.Subscription{{Path: &gnmipb.Path{Elem: []*gnmipb.PathElem{{Name: "loss"}}}}}}}})
		}
		for synced := false; err == nil && !synced; {
			var m *gnmipb.SubscribeResponse
			m, err = s.Recv()
			synced = m.GetSyncResponse()
		}
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	for i := range drops {
		a.told1(PolicyL3ACL, i, 0, time.Now())
	}
	cancel()
	for i, s := range streams {
		h := newHeard()
		for {
			m, err := s.Recv()
			if err != nil {
				if status.Code(err) != codes.Unavailable {
					t.Errorf("subscriber %d ended with %v", i, err)
				}
				break
			}
			h.take(t, m.GetUpdate())
		}
		if h.events[PolicyL3ACL] != drops || h.aggregates[PolicyL3ACL] != drops {
			t.Errorf("subscriber %d: %d events, %d packets in aggregates, of %d drops", i, h.events[PolicyL3ACL], h.aggregates[PolicyL3ACL], drops)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A filter for a path test keeps back events of other flows and nothing else:
// losses that show no packet, anomalies, crossings, steps of the fuse, route
// events and aggregates, which count what was kept back too, go on.
func TestOnlyKeepsBackOtherFlows(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Report.Interval = 100 * time.Millisecond
	threshold := 10.0
	cfg.Classes = map[string]ClassConfig{PolicyL3Policer: {Threshold: &threshold}}
	a, c := startTold(t, cfg)
	updates := subscribe(t, c)
	if _, err := c.Set(t.Context(), change(filterJSON("path-1", time.Now().Add(time.Hour), `,"dscp":46`))); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	a.told1(NoBuffer, 1, 46<<2, now)
	for i := range 3 {
		a.told1(PolicyL3ACL, i, 0, now) // of other flows
	}
	for i := range worthIt { // above its threshold, and what the fuse steps down for
		a.told1(PolicyL3Policer, i, 0, now)
	}
	a.enterNow(observed{event: &decafpb.DropEvent{Class: ErrorsL2RxCRC, Ingress: "eth1", TimeNs: uint64(now.UnixNano())}, packets: 4, known: true})
	a.anomaly(loopEvent(&decafpb.DropEvent{Class: ErrorsL3RxTTL, TimeNs: uint64(now.UnixNano()), Packet: &decafpb.Packet{Flow: testFlow(9).PB(), Header: []byte{0x45, 0}}}, "the same packet again"))
	a.route(&decafpb.RouteEvent{TimeNs: uint64(now.UnixNano()), Prefix: &decafpb.Prefix{Address: []byte{10, 0, 0, 0}, Length: 8}, Change: decafpb.RouteChange_ROUTE_CHANGE_WITHDRAWN})
	a.reporting.Lock()
	a.reporter.look(now, load{cpu: 1 << 20})
	a.transitions()
	a.reporting.Unlock()

	h := newHeard()
	timeout := time.After(10 * time.Second)
	for h.aggregates[PolicyL3ACL] < 3 || h.aggregates[PolicyL3Policer] < worthIt || h.aggregates[ErrorsL2RxCRC] < 4 || h.aggregates[NoBuffer] < 1 {
		select {
		case n := <-updates:
			h.take(t, n)
		case <-timeout:
			t.Fatalf("told so far: %+v", h)
		}
	}
	// Aggregates come after what they count.
	if h.events[NoBuffer] != 1 || h.events[ErrorsL2RxCRC] != 1 || h.events[AnomalyLoop] != 1 || h.routes != 1 {
		t.Errorf("kept back: %+v", h)
	}
	if h.events[PolicyL3ACL] != 0 || h.events[PolicyL3Policer] != 0 {
		t.Errorf("events of other flows: %+v", h)
	}
	if h.transitions["threshold "+PolicyL3Policer] != "aggregates" || h.transitions["fuse "+PolicyL3Policer] != "sampled" {
		t.Errorf("transitions: %v", h.transitions)
	}
	a.reporting.Lock()
	defer a.reporting.Unlock()
	for _, r := range a.reporter.reporting() {
		if want := map[string]uint64{PolicyL3ACL: 3, PolicyL3Policer: 10}[r.Name]; r.Suppressed.Filter != want {
			t.Errorf("%s: %d for want of a filter, want %d", r.Name, r.Suppressed.Filter, want)
		}
	}
}
