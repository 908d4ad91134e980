package hostagent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "host.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoadConfig(t *testing.T) {
	t.Setenv("DECAF_TRACE_RATE", "3")
	t.Setenv("DECAF_FLOWS_ENABLED", "false")
	cfg, err := LoadConfig(write(t, `
name: web1
site: east
nats: {url: "tls://192.0.2.1:4222", tls: {ca: ca.pem, cert: c.pem, key: k.pem}}
epoch: 1m
flows: {interval: 10s}
ignore_interfaces: [mgmt0]
ignore_networks: [198.18.0.0/16, "fd00::/8"]
trace: {balancer: {url: "http://lb.example/", networks: [10.9.0.0/16], timeout: 1s}}
survey: {every: 10m, to: ["10.0.1.1:443", "[2001:db8::1]:443"], file: learnt.yaml}
`))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Name != "web1" || cfg.NATS.TLS == nil || cfg.NATS.TLS.Key != "k.pem" || cfg.Epoch != time.Minute || cfg.Trace.Rate != 3 ||
		cfg.Flows.Enabled || cfg.Flows.Interval != 10*time.Second || cfg.Flows.MaxRows != DefaultConfig().Flows.MaxRows ||
		cfg.Trace.Workers != DefaultConfig().Trace.Workers || len(cfg.IgnoreInterfaces) != 1 || len(cfg.IgnoreNetworks) != 2 ||
		cfg.IgnoreNetworks[1].String() != "fd00::/8" ||
		cfg.Trace.Balancer.told().String() != "http://lb.example/,10.9.0.0/16,1s" ||
		cfg.Survey.told().String() != "10m0s,10.0.1.1:443,[2001:db8::1]:443,95%" || cfg.Survey.File != "learnt.yaml" {
		t.Errorf("%+v", cfg)
	}
}

func TestConfigErrors(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, err := LoadConfig(write(t, text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
	f("nme: x", "name")
	f("name: ''", "name:")
	f("site: ''", "site:")
	f("nats: {url: ''}", "nats.url:")
	f("trace: {rate: -1}", "trace.rate:")
	f("trace: {rate: .nan}", "trace.rate:")
	f("trace: {rate: 10001}", "trace.rate:")
	f("trace: {balancer: {url: lb.example, networks: [10.9.0.0/16]}}", "trace.balancer: balancer address")
	f("trace: {balancer: {url: \"http://lb.example/\"}}", "10.9.0.0/16")
	f("trace: {balancer: {networks: [10.9.0.0/16]}}", "no url")
	f("trace: {balancer: {url: \"http://lb.example/\", networks: [10.9.0.0/16], timeout: 1m}}", "at most 10s")
	f("trace: {balancer: {url: \"http://lb.example/\", networks: [10.9.0.0/16], timeout: 0s}}", "more than 0")
	f("trace: {balancer: {uri: x}}", "url")
	f("survey: {every: 1s, to: [\"10.0.1.1:443\"]}", "10s to 24h")
	f("survey: {every: 1m}", "1 to 64")
	f("survey: {to: [\"10.0.1.1:443\"]}", "every")
	f("survey: {every: 1m, to: [\"10.0.1.1\"]}", "ip:port")
	f("survey: {every: 1m, to: [\"10.0.1.1:443\"], confidence: 90}", "95 or 99")
	f("trace: {burst: 0}", "trace.burst:")
	f("trace: {max_ttl: 64}", "trace.max_ttl:")
	f("trace: {resend: 60ms}", "trace.resend")
	f("trace: {workers: 0}", "trace.workers:")
	f("trace: {queue: 0}", "trace.queue:")
	f("flows: {interval: 500ms}", "flows.interval:")
	f("flows: {interval: 6m}", "flows.interval:")
	f("flows: {max_flows: 0}", "flows.max_flows:")
	f("flows: {max_rows: 0}", "flows.max_rows:")
	f("flows: {max_row: 5}", "max_rows")
	f("tables: {interval: 4s}", "tables.interval:")
	f("tables: {interval: 6m}", "tables.interval:")
	f("tables: {max_records: 0}", "tables.max_records:")
	f("tables: {max_services: 0}", "tables.max_services:")
	f("tables: {peaks: some}", "tables.peaks:")
	f("tables: {sample: 3/2}", "1/10")
	f("tables: {only: [10.0.0]}", "10.0.0.0/8")
	f("epoch: 10ms", "epoch:")
	f("heartbeat: 1ms", "heartbeat:")
	f("heartbeat: 11s", "heartbeat: 11s: give 100ms to 10s: an agent counts as silent after three")
	f("ring_bytes: 5000", "ring_bytes:")
	f("ignore_networks: [198.18.0.0]", "198.18.0.0")
	f("epoch: soon", "soon")
}

func TestDefaultConfigIsValid(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name = "web1"
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

func TestCommand(t *testing.T) {
	topo := filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(topo, []byte(labTopologyText), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out strings.Builder
		cmd := Command()
		cmd.SetArgs(args)
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	good := write(t, "name: a\nsite: lab\ntopology: "+topo)
	if out, err := run("--config", good, "--check"); err != nil || !strings.Contains(out, "valid") {
		t.Errorf("check: %q, %v", out, err)
	}
	// What --dump prints is a configuration again.
	out, err := run("--config", good, "--dump")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := run("--config", write(t, out), "--dump"); err != nil || again != out {
		t.Errorf("dumped again: %v\n%s\nwant\n%s", err, again, out)
	}
	for name, c := range map[string]struct{ text, want string }{
		"a host not in the topology": {"name: nobody\nsite: lab\ntopology: " + topo, `no host "nobody"`},
		"another site":               {"name: a\nsite: east\ntopology: " + topo, `site "lab"`},
		"no such topology":           {"name: a\nsite: lab\ntopology: /nonexistent.yaml", "nonexistent"},
		"an unknown key":             {"nam: a", "name"},
	} {
		if _, err := run("--config", write(t, c.text), "--check"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
