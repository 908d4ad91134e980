package api

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"decaf/api/agentconfig"
	"decaf/api/bus"
)

// serveSettings is a server with settings in a real bucket.
func serveSettings(t *testing.T) string {
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
	f := newFake(t)
	f.topo.Hosts[0].Tags = map[string]string{"rack": "r1"}
	s, err := NewServer(Config{Settings: agentconfig.NewStore(kv, f.topo)}, f, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	return h.URL
}

// Settings are set and shown by the command line, over HTTP, in a real bucket.
func TestAgentsConfig(t *testing.T) {
	t.Setenv("DECAF_SERVER", serveSettings(t))
	out, errOut, err := run(t, "agents", "config", "get")
	if err != nil || !strings.Contains(errOut, "nothing set") {
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
