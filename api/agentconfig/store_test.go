package agentconfig_test

import (
	"context"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"decaf/api/agentconfig"
	"decaf/api/bus"
	"decaf/topology"

	"github.com/nats-io/nats.go/jetstream"
)

// On a real server: what is set for all, a tag and a host reaches the agents it
// is for, merged; an agent may read its own and nothing else, and hears of it.
func TestStore(t *testing.T) {
	srv, kv := bucket(t)
	log := slog.New(slog.DiscardHandler)
	topo := &topology.Topology{Site: "east", Hosts: []*topology.Host{
		{Name: "a", Tags: map[string]string{"rack": "r1", "cluster": "web"}},
		{Name: "b", Tags: map[string]string{"rack": "r2"}},
	}}
	store := agentconfig.NewStore(kv, topo)
	host, err := bus.Connect(t.Context(), bus.ConnConfig{URL: srv.URL(), Name: "host.a", Site: "east"}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := host.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	heard := make(chan struct{}, 16)
	stop, err := host.WatchAgentConfig("a", func() { heard <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	told := func() (string, uint64) {
		t.Helper()
		value, revision, err := host.AgentConfig(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		return string(value), revision
	}
	if v, rev := told(); v != "" || rev != 0 {
		t.Errorf("before anything was set: %s, revision %d", v, rev)
	}
	set := func(scope, key, value string) agentconfig.View {
		t.Helper()
		s, err := agentconfig.ParseScope(scope)
		if err != nil {
			t.Fatal(err)
		}
		v, err := store.Set(t.Context(), s, []agentconfig.Change{{Key: key, Value: value}})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	set("all", "interval", "10s")
	set("tag:rack=r1", "interval", "20s")
	set("tag:rack=r1", "sample", "1/10")
	set("tag:cluster=web", "sample", "1/2") // cluster comes before rack
	v := set("a", "trace_rate", "3")
	want := `{"interval":"20s","sample":"1/10","trace_rate":3}`
	got, revision := told()
	if got != want || revision != v.Revision || v.Told.From["interval"] != "tag:rack=r1" || v.Told.From["trace_rate"] != "a" {
		t.Errorf("a is told %s, revision %d, want %s, %+v", got, revision, want, v)
	}
	for range 4 { // all, rack twice, a; the cluster's changed nothing
		select {
		case <-heard:
		case <-time.After(10 * time.Second):
			t.Fatal("the agent did not hear of a change")
		}
	}
	select {
	case <-heard:
		t.Error("the agent heard of what changed nothing for it")
	default:
	}
	if v, err := store.Get(t.Context(), agentconfig.Scope{}); err != nil || len(v.Others) != 3 {
		t.Errorf("for all: %+v, %v; want three others", v, err)
	}
	// b takes what is for all, and nothing else.
	if e, err := kv.Get(t.Context(), "b"); err != nil || string(e.Value()) != `{"interval":"10s"}` {
		t.Errorf("b is told %v, %v", e, err)
	}
	set("a", "trace_rate", "")
	if got, next := told(); got != `{"interval":"20s","sample":"1/10"}` || next <= revision {
		t.Errorf("taken back: %s, revision %d after %d", got, next, revision)
	}

	for _, bad := range []struct{ scope, key, value, want string }{
		{"c", "interval", "10s", `no host "c"`},
		{"tag:rack=r9", "interval", "10s", "r1, r2"},
		{"tag:room=1", "interval", "10s", `tag "room"`},
		{"all", "interval", "1s", "5s to 5m0s"},
		{"all", "speed", "1", "there is no setting"},
	} {
		s, err := agentconfig.ParseScope(bad.scope)
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Set(t.Context(), s, []agentconfig.Change{{Key: bad.key, Value: bad.value}})
		if err == nil || !agentconfig.Unfit(err) || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%+v: %v", bad, err)
		}
	}

	// A host that joins the tag takes its settings at the next Sync.
	topo2 := &topology.Topology{Site: "east", Hosts: append(topo.Hosts, &topology.Host{Name: "n", Tags: map[string]string{"rack": "r1"}})}
	if err := agentconfig.NewStore(kv, topo2).Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, err := kv.Get(t.Context(), "n"); err != nil || string(e.Value()) != `{"interval":"20s","sample":"1/10"}` {
		t.Errorf("n is told %v, %v", e, err)
	}

	// An agent may not read another's.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if v, _, err := host.AgentConfig(ctx, "b"); err == nil {
		t.Errorf("a read b's settings: %s", v)
	}
}

// Where nobody sets a rate, a host is told 007's bound for the topology, and it
// follows what a switch is said to answer; who sets a rate goes before it.
func TestTraceBoundIsHandedOut(t *testing.T) {
	_, kv := bucket(t)
	clos, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 4, T1s: 2, T2s: 2, Hosts: 10})
	if err != nil {
		t.Fatal(err)
	}
	want, err := clos.TraceBudget(100)
	if err != nil {
		t.Fatal(err)
	}
	store := agentconfig.NewStore(kv, clos)
	if err := store.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	host := clos.Hosts[0].Name
	check := func(what string, rate *float64, bound float64, from string) {
		t.Helper()
		v, err := store.Get(t.Context(), agentconfig.Scope{Host: host})
		if err != nil {
			t.Fatal(err)
		}
		e, err := kv.Get(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		told, err := agentconfig.DecodeTold(e.Value())
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(told.TraceBound-bound) > 1e-9 || (told.TraceRate == nil) != (rate == nil) || rate != nil && *told.TraceRate != *rate || v.Told.From["trace_rate"] != from {
			t.Errorf("%s: told %s by %q, want a bound of %v", what, e.Value(), v.Told.From["trace_rate"], bound)
		}
		shown, ok := v.Told.Get("trace_rate")
		is := bound
		if rate != nil {
			is = *rate
		}
		if got, err := strconv.ParseFloat(shown, 64); !ok || err != nil || math.Abs(got-is) > 1e-9 {
			t.Errorf("%s: shown %q, want %v", what, shown, is)
		}
	}
	set := func(scope agentconfig.Scope, key, value string) {
		t.Helper()
		if _, err := store.Set(t.Context(), scope, []agentconfig.Change{{Key: key, Value: value}}); err != nil {
			t.Fatal(err)
		}
	}
	check("nothing set", nil, want, agentconfig.FromTopology)
	set(agentconfig.Scope{}, "switch_icmp", "150")
	check("switches that answer more", nil, want*1.5, agentconfig.FromTopology)
	three := 3.0
	set(agentconfig.Scope{}, "trace_rate", "3")
	check("a rate for all", &three, want*1.5, "all")
	set(agentconfig.Scope{}, "trace_rate", "")
	set(agentconfig.Scope{}, "switch_icmp", "")
	check("all taken back", nil, want, agentconfig.FromTopology)
}

// bucket is a real one, on a server of its own.
func bucket(t *testing.T) (*bus.Server, jetstream.KeyValue) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cfg := bus.DefaultServerConfig()
	cfg.Listen, cfg.Dir, cfg.Site = "127.0.0.1:0", t.TempDir(), "east"
	srv, err := bus.StartServer(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	admin, err := bus.Connect(t.Context(), bus.ConnConfig{Server: srv, Site: "east"}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	if err := admin.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	kv, err := admin.KV(bus.BucketAgentConfig)
	if err != nil {
		t.Fatal(err)
	}
	return srv, kv
}
