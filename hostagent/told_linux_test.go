package hostagent

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"decaf/api/agentconfig"
	"decaf/api/bus"
	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// What agents are told reaches the tracer, over a real NATS: the rate that
// follows from the topology, a load balancer that is a real HTTP server, and a
// survey of all paths, whose finds are kept as a topology file.
func TestServeDoesAsItIsTold(t *testing.T) {
	needKernel(t)
	if !inOwnNamespace(t) {
		return
	}
	l := labAround(t)
	s := newSite(t)
	dir := t.TempDir()
	topo, learnt := filepath.Join(dir, "lab.yaml"), filepath.Join(dir, "learnt.yaml")
	if err := os.WriteFile(topo, []byte(labTopologyText), 0o600); err != nil {
		t.Fatal(err)
	}
	kv, err := s.conn.KV(bus.BucketAgentConfig)
	if err != nil {
		t.Fatal(err)
	}
	clos := closWith(t, "a")
	bound, err := clos.TraceBudget(100)
	if err != nil {
		t.Fatal(err)
	}
	store := agentconfig.NewStore(kv, clos)
	if err := store.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}

	// The balancer says that b's other address is b's own; or nothing.
	var silent atomic.Bool
	release := make(chan struct{})
	lb := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if silent.Load() {
			<-release
			return
		}
		if r.URL.Query().Get("dst") != strangerB {
			t.Errorf("asked about %s", r.URL.RawQuery)
		}
		json.NewEncoder(w).Encode(map[string]string{"dst": addrB})
	}))
	defer lb.Close()
	defer close(release)

	cfg := DefaultConfig()
	cfg.Name, cfg.Site, cfg.Topology, cfg.NATS.URL = "a", "lab", topo, s.srv.URL()
	cfg.IgnoreInterfaces = []string{"lo"}
	cfg.Heartbeat = 200 * time.Millisecond
	cfg.Trace.Timeout = time.Second // the router answers at once, but the machine may be busy
	cfg.Survey.File = learnt
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, cfg, s.log) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	counter := func(what, name string, ok func(uint64) bool) {
		t.Helper()
		until(t, what, func() bool {
			beats := s.rec.beats()
			return len(beats) > 0 && ok(beats[len(beats)-1].GetCounters()[name])
		})
	}
	rate := func(perSecond float64) func(uint64) bool {
		return func(n uint64) bool { return n == uint64(math.Round(1000*perSecond)) }
	}
	set := func(changes ...agentconfig.Change) {
		t.Helper()
		v, err := store.Set(t.Context(), agentconfig.Scope{Host: "a"}, changes)
		if err != nil {
			t.Fatal(err)
		}
		until(t, "the settings are in force", func() bool {
			beats := s.rec.beats()
			return len(beats) > 0 && beats[len(beats)-1].GetConfigRevision() == v.Revision
		})
	}
	counter("the rate of the topology", countTraceRate, rate(bound))

	set(agentconfig.Change{Key: "trace_rate", Value: "20"},
		agentconfig.Change{Key: "balancer", Value: lb.URL + "/flow," + strangerB + ",500ms"},
		agentconfig.Change{Key: "survey", Value: "10s," + addrB + ":7"})
	counter("a rate that somebody set", countTraceRate, rate(20))

	// lossy opens a connection to the balanced address and loses what it sends.
	lossy := func() *decafpb.Path {
		t.Helper()
		p := l.connect(strangerB, false)
		f := l.drop("eth1", longerThan(80)...)
		defer f.remove()
		if _, err := p.client.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		return s.rec.wait(t, "a retransmit", ofFlow(p.flow(), kindTLP, kindRTO)).GetPath()
	}
	path := lossy()
	probed, err := packet.FlowFromPB(path.GetProbed())
	if err != nil || probed.Dst.Addr() != netip.MustParseAddr(addrB) || len(path.GetHops()) != 1 ||
		path.GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE {
		t.Errorf("path %v, want that of the server behind the balancer", path)
	}
	silent.Store(true)
	if path := lossy(); path.GetStatus() != decafpb.PathStatus_PATH_STATUS_SKIPPED || !strings.Contains(path.GetWhy(), "did not answer within 500ms") {
		t.Errorf("path %v, want none: the balancer is silent", path)
	}
	counter("what is not resolved is counted", "traces_unresolved_timeout", func(n uint64) bool { return n == 1 })

	counter("a survey", countSurveys, func(n uint64) bool { return n >= 1 })
	counter("its paths", countSurveyPaths, func(n uint64) bool { return n == 1 })
	found, err := topology.Load(learnt)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := found.HostAt(netip.MustParseAddr(addrA)); !ok || len(found.Devices) != 1 {
		t.Errorf("learnt %d devices and %d hosts", len(found.Devices), len(found.Hosts))
	}

	// All taken back: nobody is asked, nothing surveyed, the bound goes again.
	set(agentconfig.Change{Key: "trace_rate"}, agentconfig.Change{Key: "balancer"}, agentconfig.Change{Key: "survey"})
	counter("the rate of the topology again", countTraceRate, rate(bound))
	counter("no survey", countSurveyPaths, func(n uint64) bool { return n == 0 })
	path = lossy()
	if path.GetStatus() == decafpb.PathStatus_PATH_STATUS_SKIPPED || path.GetProbed() != nil {
		t.Errorf("path %v, want that of the flow as it is", path)
	}
}

// closWith is a small Clos with a host of that name.
func closWith(t *testing.T, name string) *topology.Topology {
	t.Helper()
	c, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 4, T1s: 2, T2s: 2, Hosts: 3})
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	c, err = topology.Parse("clos.yaml", []byte(strings.ReplaceAll(string(text), c.Hosts[0].Name, name)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
