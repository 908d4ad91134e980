package api

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"decaf/api/agentconfig"
	"decaf/api/bus"
	"decaf/api/service"
	"decaf/topology"

	"github.com/nats-io/nats.go/jetstream"
)

// serveSettings is a server with settings in a real bucket.
func serveSettings(t *testing.T) string {
	t.Helper()
	f := newFake(t)
	f.topo.Hosts[0].Tags = map[string]string{"rack": "r1"}
	return serveSettingsOf(t, f)
}

func serveSettingsOf(t *testing.T, f *fake) string {
	t.Helper()
	s, err := NewServer(Config{Settings: agentconfig.NewStore(settingsBucket(t), f.topo)}, f, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	return h.URL
}

// settingsBucket is a real one.
func settingsBucket(t *testing.T) jetstream.KeyValue {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cfg := bus.DefaultServerConfig()
	cfg.Dir, cfg.Site, cfg.Listen = t.TempDir(), "test", "127.0.0.1:0"
	srv, err := bus.StartServer(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	conn, err := bus.Connect(t.Context(), bus.ConnConfig{Server: srv, Site: "test"}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := conn.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	kv, err := conn.KV(bus.BucketAgentConfig)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// Settings are set and shown by the command line, over HTTP, in a real bucket.
func TestAgentsConfig(t *testing.T) {
	t.Setenv("DECAF_SERVER", serveSettings(t))
	out, errOut, err := run(t, "agents", "config", "get")
	if err != nil || !strings.Contains(out, "trace_rate  50     topology") || errOut != "" {
		t.Fatal(out, errOut, err)
	}
	for _, args := range [][]string{
		{"all", "interval=10s", "sample=1/10"},
		{"tag:rack=r1", "interval=1m", "ignore=10.0.0.0/8,:22"},
		{"p0-tor0-h0", "tracking=off", "trace_rate=2.5"},
	} {
		if out, _, err := run(t, append([]string{"agents", "config", "set"}, args...)...); err != nil {
			t.Fatalf("%v: %s %v", args, out, err)
		}
	}
	show := func(args ...string) string {
		t.Helper()
		out, _, err := run(t, append([]string{"agents", "config", "get", "--output", "csv"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got, want := show("p0-tor0-h0"), `for,key,value,set_for
p0-tor0-h0,tracking,off,p0-tor0-h0
p0-tor0-h0,interval,1m0s,tag:rack=r1
p0-tor0-h0,sample,1/10,all
p0-tor0-h0,ignore,"10.0.0.0/8,:22",tag:rack=r1
p0-tor0-h0,trace_rate,2.5,p0-tor0-h0
`; got != want {
		t.Errorf("of a host:\n%s\nwant\n%s", got, want)
	}
	if got, want := show(), `for,key,value,set_for
all,trace_rate,50,topology
all,interval,10s,all
all,sample,1/10,all
p0-tor0-h0,tracking,off,p0-tor0-h0
p0-tor0-h0,trace_rate,2.5,p0-tor0-h0
tag:rack=r1,interval,1m0s,tag:rack=r1
tag:rack=r1,ignore,"10.0.0.0/8,:22",tag:rack=r1
`; got != want {
		t.Errorf("of all:\n%s\nwant\n%s", got, want)
	}
	if _, _, err := run(t, "agents", "config", "set", "p0-tor0-h0", "tracking="); err != nil {
		t.Fatal(err)
	}
	out, _, err = run(t, "agents", "config", "get", "p0-tor0-h0", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var v SettingsView
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if _, ok := v.Told["tracking"]; ok || v.Revision == 0 || v.From["interval"] != "tag:rack=r1" {
		t.Errorf("taken back: %s", out)
	}

	for _, bad := range []struct {
		args []string
		want string
	}{
		{[]string{"set", "all"}, "decaf agents config set all interval=10s"},
		{[]string{"set", "all", "interval"}, "KEY=VALUE"},
		{[]string{"set", "all", "interval=10"}, "30s"},
		{[]string{"set", "all", "speed=10"}, "tracking, interval"},
		{[]string{"set", "all", "sample=1/2", "sample=1/3"}, "twice"},
		{[]string{"set", "nobody", "sample=1/2"}, `no host "nobody"`},
		{[]string{"set", "tag:rack", "sample=1/2"}, "tag:NAME=VALUE"},
		{[]string{"get", "tag:rack=r2"}, "rack is r1"},
	} {
		if out, _, err := run(t, append([]string{"agents", "config"}, bad.args...)...); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%v: %s %v, want an error with %q", bad.args, out, err, bad.want)
		}
	}
	for _, verb := range []string{"get", "set"} {
		out, _, err := run(t, "agents", "config", verb, "--help")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "help/agents-config-"+verb+".txt", out)
	}
	out, _, err = run(t, "agents", "config", "--help")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "help/agents-config.txt", out)
}

// The rate that follows from the topology is shown where nobody sets one.
func TestAgentsConfigShowsTheTraceBound(t *testing.T) {
	f := newFake(t)
	clos, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 4, T1s: 2, T2s: 2, Hosts: 10})
	if err != nil {
		t.Fatal(err)
	}
	f.topo = clos
	t.Setenv("DECAF_SERVER", serveSettingsOf(t, f))
	host := clos.Hosts[0].Name
	show := func(args ...string) string {
		t.Helper()
		out, _, err := run(t, append([]string{"agents", "config", "get", "--output", "csv"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	// 100/(4·10)·min(2, 2·(4·2−1)/(4·(2−1))), on 80 hosts.
	for _, c := range []struct{ of, want string }{{"all", "all,trace_rate,5,topology\n"}, {host, host + ",trace_rate,5,topology\n"}} {
		if got := show(c.of); got != "for,key,value,set_for\n"+c.want {
			t.Errorf("%s, nothing set:\n%s", c.of, got)
		}
	}
	if _, _, err := run(t, "agents", "config", "set", "all", "trace_rate=7", "switch_icmp=50"); err != nil {
		t.Fatal(err)
	}
	if got := show(host); got != "for,key,value,set_for\n"+host+",trace_rate,7,all\n"+host+",switch_icmp,50,all\n" {
		t.Errorf("a rate set:\n%s", got)
	}
	if _, _, err := run(t, "agents", "config", "set", "all", "trace_rate="); err != nil {
		t.Fatal(err)
	}
	if got := show("all"); got != "for,key,value,set_for\nall,trace_rate,2.5,topology\nall,switch_icmp,50,all\n" {
		t.Errorf("switches that answer less:\n%s", got)
	}
}

// Over HTTP what is wrong is a 400 that says so, and nothing is set.
func TestAgentsConfigRefused(t *testing.T) {
	base := serveSettings(t)
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, c := range []struct{ method, path, body, want string }{
		{"PATCH", "", `{"for":"all","set":{"interval":"1s"}}`, "5s to 5m0s"},
		{"PATCH", "", `{"for":"all","set":{"interval":"10s","x":"1"}}`, "there is no setting"},
		{"PATCH", "", `{"for":"all","set":{}}`, "nothing to set"},
		{"PATCH", "", `{"for":"all","sett":{}}`, "sett"},
		{"PATCH", "", `{"for":"all","set":{"interval":"10s"}} {}`, "more follows"},
		{"PATCH", "", `x`, "cannot be read"},
		{"PATCH", "?for=all", `{"for":"all","set":{"interval":"10s"}}`, "unknown parameter"},
		{"GET", "?fro=all", "", "unknown parameter"},
		{"GET", "?for=a=b", "", "tag:NAME=VALUE"},
		{"PATCH", "", `{"set":{"only":"` + strings.Repeat("x", maxSettingsBody) + `"}}`, "cannot be read"},
	} {
		if status, body := ask(c.method, "/api/v1/agents/config"+c.path, c.body); status != http.StatusBadRequest || !strings.Contains(body, c.want) {
			t.Errorf("%s %s %.80s: %d %s, want 400 with %q", c.method, c.path, c.body, status, body, c.want)
		}
	}
	if status, body := ask("GET", "/api/v1/agents/config", ""); status != http.StatusOK || strings.Contains(body, "interval") {
		t.Errorf("after all that: %d %s", status, body)
	}
	// A server without a store says so.
	f := newFake(t)
	if status, _ := func() (int, string) { base = serve(t, f); return ask("GET", "/api/v1/agents/config", "") }(); status != http.StatusNotFound {
		t.Errorf("without a store: %d", status)
	}
}

// Over TLS settings are changed by administrators alone: by their certificate of
// the server's own authority. Anybody who trusts the server may read them.
func TestOnlyAdministratorsChangeSettings(t *testing.T) {
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(ca *service.CA, cn string, sans ...string) service.TLSFiles {
		t.Helper()
		files, err := ca.Issue(cn, sans...)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	server := issue(ca, "decaf", "127.0.0.1")
	f := newFake(t)
	s, err := NewServer(Config{Listen: "127.0.0.1:0", TLS: &server, Settings: agentconfig.NewStore(settingsBucket(t), f.topo)}, f, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	t.Setenv("DECAF_SERVER", s.URL())
	other, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	set := func(who *service.TLSFiles) error {
		t.Helper()
		args := []string{"agents", "config", "set", "all", "interval=10s", "--ca", server.CA}
		if who != nil {
			args = append(args, "--cert", who.Cert, "--key", who.Key)
		}
		_, _, err := run(t, args...)
		return err
	}
	host, admin := issue(ca, "host.p0-tor0-h0"), issue(ca, "admin.ops")
	almost, foreign := issue(ca, "admin"), issue(other, "admin.ops")
	for _, c := range []struct {
		what string
		who  *service.TLSFiles
		want string
	}{
		{"nobody", nil, "shows no certificate"},
		{"a host's agent", &host, `is for "host.p0-tor0-h0"`},
		{"a certificate without a name", &almost, `is for "admin"`},
		{"another authority's administrator", &foreign, "certificate"},
	} {
		if err := set(c.who); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.what, err, c.want)
		}
	}
	shown := func() string {
		t.Helper()
		out, _, err := run(t, "agents", "config", "get", "--ca", server.CA)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := shown(); strings.Contains(out, "interval") {
		t.Errorf("set by somebody else: %s", out)
	}
	if err := set(&admin); err != nil {
		t.Error(err)
	}
	if out := shown(); !strings.Contains(out, "interval") {
		t.Errorf("not set by the administrator: %s", out)
	}
}
