package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"decaf/api"
	"decaf/topology"
)

// config is that of a service watching a small network of which nothing runs.
func config(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	topo, err := topology.Clos(topology.ClosSpec{Site: "test", Pods: 1, ToRs: 2, T1s: 2, T2s: 1, Hosts: 1})
	if err != nil {
		t.Fatal(err)
	}
	// A device that cannot be reached: nothing listens at a port just closed.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	topo.Devices[0].GNMI = &topology.GNMI{Address: ln.Addr().String()}
	data, err := topo.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "topology.yaml")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Topology, cfg.Data = file, filepath.Join(dir, "data")
	cfg.API.Listen = "127.0.0.1:0"
	return cfg
}

// start runs the service; stop ends it in order and waits.
func start(t *testing.T, cfg Config) (client *api.Client, url string, stop func()) {
	t.Helper()
	_, client, url, stop = startService(t, cfg, func(*Service) {})
	return client, url, stop
}

// startService is start, with a change before.
func startService(t *testing.T, cfg Config, change func(*Service)) (s *Service, client *api.Client, url string, stop func()) {
	t.Helper()
	s, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the service ended with %v", err)
		}
	}
	t.Cleanup(stop)
	limit, giveUp := context.WithTimeout(t.Context(), 20*time.Second)
	defer giveUp()
	if url, err = s.URL(limit); err != nil {
		t.Fatalf("the API does not listen: %v", err)
	}
	if client, err = api.NewClient(url, nil); err != nil {
		t.Fatal(err)
	}
	poll(t, "ready", func() error {
		resp, err := http.Get(url + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(resp.Body)
			return errors.New(string(body))
		}
		return nil
	})
	return s, client, url, stop
}

// metricsOf reads /metrics.
func metricsOf(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func poll(t *testing.T, what string, ok func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// A report that was acknowledged is there after a stop and a start.
func TestReportsOutliveTheService(t *testing.T) {
	cfg := config(t)
	client, _, stop := start(t, cfg)
	filed, _, err := client.FileReport(t.Context(), api.ReportRequest{Src: "p0-tor0-h0", Dst: "192.0.2.7", Says: "nothing loads"})
	if err != nil {
		t.Fatal(err)
	}
	if filed.Verdict == nil || filed.Verdict.Verdict != "outside" {
		t.Errorf("verdict %+v, want outside: the topology has no 192.0.2.7", filed.Verdict)
	}
	stop()

	client, _, _ = start(t, cfg)
	again, _, err := client.Report(t.Context(), filed.ID)
	if err != nil {
		t.Fatal(err)
	}
	if again.Says != "nothing loads" || again.FiledNS != filed.FiledNS {
		t.Errorf("after the restart the report is %+v, want %+v", again, filed)
	}
}

// A device that cannot be reached is shown with the reason, and stops nothing.
func TestUnreachableDeviceIsShown(t *testing.T) {
	client, url, _ := start(t, config(t))
	poll(t, "told of the device", func() error {
		var agents api.List[api.AgentView]
		if _, err := client.Get(t.Context(), "agents", nil, &agents); err != nil {
			return err
		}
		for _, a := range agents.Items {
			if a.Role == "device" && strings.Contains(a.Error, "is the agent running there") {
				return nil
			}
		}
		return errors.New("no agent with that error")
	})
	metrics := metricsOf(t, url)
	for _, name := range []string{"decaf_nats_up 1", "decaf_tallies_total", "decaf_findings_open 0", "decaf_probe_drops_total 0"} {
		if !strings.Contains(metrics, name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	good := config(t)
	for _, c := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"no topology", "write learned where there is none", func(c *Config) { c.Topology = "" }},
		{"a site beside a file's", "topology: learned", func(c *Config) { c.Site = "east" }},
		{"no data", "data", func(c *Config) { c.Data = "" }},
		{"no such method", "fused, vote", func(c *Config) { c.Method = "vore" }},
		{"tables too small for a host", "1048576", func(c *Config) { c.Tables.MaxBytes = 64 }},
		{"tables of less than nothing", "0 to keep no", func(c *Config) { c.Tables.MaxBytes = -1 }},
		{"both servers", "exclude each other", func(c *Config) { c.NATS.URL, c.NATS.Listen = "nats://127.0.0.1:1", "127.0.0.1:0" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.change(&cfg)
			if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %s", err, c.want)
			}
		})
	}
	for _, c := range []struct {
		name, listen, nats, want string
	}{
		{"no such descriptor", "fd://x", "", "fd://x"},
		{"the page off loopback without TLS", "0.0.0.0:0", "", "TLS"},
		{"agents off loopback without TLS", "127.0.0.1:0", "0.0.0.0:0", "tls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(t)
			cfg.API.Listen, cfg.NATS.Listen = c.listen, c.nats
			s, err := New(cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Run(t.Context()); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(c.want)) {
				t.Errorf("error %v, want one about %s", err, c.want)
			}
		})
	}
}

// The memory for what hosts tell of connections is set by file and environment; where
// none is given, it is said that they are not kept.
func TestTablesAreBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "serve.yaml")
	if err := os.WriteFile(file, []byte("topology: t.yaml\ndata: d\ntables: {max_bytes: 2097152}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(file)
	if err != nil || cfg.Tables.MaxBytes != 2<<20 {
		t.Fatalf("%+v, %v", cfg.Tables, err)
	}
	t.Setenv("DECAF_TABLES_MAX_BYTES", "0")
	if cfg, err = LoadConfig(file); err != nil || cfg.Tables.MaxBytes != 0 {
		t.Fatalf("%+v, %v", cfg.Tables, err)
	}
	ask := func(change func(*Config)) error {
		t.Helper()
		cfg := config(t)
		change(&cfg)
		client, _, _ := start(t, cfg)
		var rows api.TableView[api.ConnectionView]
		_, err := client.Get(t.Context(), "flows", nil, &rows)
		return err
	}
	if err := ask(func(*Config) {}); err != nil {
		t.Errorf("by default: %v", err)
	}
	if err := ask(func(c *Config) { c.Tables.MaxBytes = 0 }); !errors.Is(err, api.ErrNotFound) || !strings.Contains(err.Error(), "tables.max_bytes") {
		t.Errorf("of a service that keeps none: %v", err)
	}
}
