package device

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"decaf/api/service"
)

func TestLoadConfig(t *testing.T) {
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue("r", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	tls := "tls: {ca: " + files.CA + ", cert: " + files.Cert + ", key: " + files.Key + "}\n"
	for _, tc := range []struct{ what, yaml, wrong string }{
		{"all keys", "name: r\nlisten: 192.0.2.1:9339\n" + tls + "ring: 10\nignore_interfaces: [mgmt0]\nhealth: 127.0.0.1:0\nlog: {level: warn, format: json}\n", ""},
		{"defaults", "name: r\n", ""},
		{"unknown key", "name: r\nignore_interface: [mgmt0]\n", `:2: unknown key "ignore_interface": did you mean "ignore_interfaces"?`},
		{"no name", "name: ''\n", "name is empty"},
		{"name that is no subject token", "name: a.b\n", `name "a.b": use letters`},
		{"plain text off loopback", "name: r\nlisten: 192.0.2.1:9339\n", "give tls ca, cert and key"},
		{"everywhere in plain text", "name: r\nlisten: :9339\n", "give tls ca, cert and key"},
		{"no ring", "name: r\nring: 0\n", "ring 0"},
		{"what is reported", "name: r\nreport: {threshold: 500, burst: 2000, hold: 5s, interval: 10s, deduplicate: 0s, ignore: false}\nclasses:\n  policy/l3: {threshold: 0}\n  policy/l3/acl: {deduplicate: 10s, interval: 250ms}\n  errors: {ignore: true}\naggregates: {prefix_v4: 16, prefix_v6: 32}\nfuse: {cpu: 0.05, memory_bytes: 67108864, events: 1000, queue: 0.3, back_off: 10s, max_back_off: 1m}\n", ""},
		{"unknown class", "name: r\nclasses: {policy/l4: {ignore: true}}\n", `"policy/l4" is no class: the classes are`},
		{"unknown key of a class", "name: r\nclasses: {policy/l3: {treshold: 1}}\n", `:2: unknown key "treshold": did you mean "threshold"?`},
		{"threshold below 0", "name: r\nclasses: {policy/l3: {threshold: -1}}\n", "classes: policy/l3: threshold -1: give drops per second"},
		{"threshold that is none", "name: r\nreport: {threshold: .nan}\n", "report: threshold NaN"},
		{"interval without unit", "name: r\nreport: {interval: 1}\n", "has no unit"},
		{"interval too short", "name: r\nclasses: {no-buffer: {interval: 1ms}}\n", "classes: no-buffer: interval 1ms: give a duration from 100ms"},
		{"de-duplication too long", "name: r\nreport: {deduplicate: 3h}\n", "deduplicate 3h"},
		{"prefix too long", "name: r\naggregates: {prefix_v4: 33}\n", "prefix_v4 33"},
		{"fuse without memory", "name: r\nfuse: {memory_bytes: 0}\n", "fuse: memory_bytes 0"},
		{"fuse without queue", "name: r\nfuse: {queue: 50}\n", "fuse: queue 50"},
		{"back-off the wrong way round", "name: r\nfuse: {back_off: 1m, max_back_off: 1s}\n", "max_back_off is less"},
		{"all sources", "name: r\nnflog: {groups: [12, 13], classes: [{prefix: rate-, class: policy/l3/policer}]}\nsflow: {listen: '127.0.0.1:6343', switches: [{name: leaf1, listen: '127.0.0.1:9340', agent: 192.0.2.1, from: [192.0.2.0/24], interfaces: {1: swp1}, ignore_interfaces: [swp1]}]}\n", ""},
		{"a log group of no kind", "name: r\nnflog: {groups: [70000]}\n", "70000"},
		{"a log group twice", "name: r\nnflog: {groups: [12, 12]}\n", "nflog: group 12 twice"},
		{"switches alone", "name: r\nkernel: false\nsflow: {listen: '127.0.0.1:6343', switches: [{name: r, listen: '127.0.0.1:9339', agent: 192.0.2.1}]}\n", ""},
		{"no source", "name: r\nkernel: false\ncounters: {interval: 0s}\n", "no source of drops: leave kernel true"},
		{"no switches", "name: r\nsflow: {listen: '127.0.0.1:6343'}\n", "sflow: no switches"},
		{"a switch in plain text off loopback", "name: r\nsflow: {listen: '127.0.0.1:6343', switches: [{name: leaf1, listen: '192.0.2.1:9340', agent: 192.0.2.1}]}\n", "sflow: switch leaf1: listen 192.0.2.1:9340 can be reached from outside"},
		{"a switch with our name", "name: r\nsflow: {listen: '127.0.0.1:6343', switches: [{name: r, listen: '127.0.0.1:9340', agent: 192.0.2.1}]}\n", "has the name of this device"},
		{"a switch at our address", "name: r\nsflow: {listen: '127.0.0.1:6343', switches: [{name: leaf1, listen: '127.0.0.1:9339', agent: 192.0.2.1}]}\n", "listens on 127.0.0.1:9339, as this device does"},
		{"unknown key of a switch", "name: r\nsflow: {listen: '127.0.0.1:6343', switches: [{nam: leaf1}]}\n", `:2: unknown key "nam": did you mean "name"?`},
		{"huge ring", "name: r\nring: 2000000\n", "ring 2000000"},
	} {
		file := filepath.Join(t.TempDir(), "device.yaml")
		if err := os.WriteFile(file, []byte(tc.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := LoadConfig(file)
		switch {
		case tc.wrong == "" && err != nil:
			t.Errorf("%s: %v", tc.what, err)
		case tc.wrong == "" && cfg.Name != "r":
			t.Errorf("%s: %+v", tc.what, cfg)
		case tc.wrong != "" && (err == nil || !strings.Contains(err.Error(), tc.wrong)):
			t.Errorf("%s: %v, want %q in it", tc.what, err, tc.wrong)
		}
	}
}

// A file that cannot be written is told of at the start, not when a client has set
// something.
func TestSettingsWithoutAFolder(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name, cfg.Settings = "s1", filepath.Join(t.TempDir(), "none", "s1.json")
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "there is no folder") {
		t.Errorf("error %v", err)
	}
}

// The nearest class that gives a key counts, key by key.
func TestSettingsAreInherited(t *testing.T) {
	cfg := DefaultConfig()
	err := service.DecodeConfig("c.yaml", []byte("report: {threshold: 500}\nclasses:\n  policy: {threshold: 7, deduplicate: 5s}\n  policy/l3/acl: {threshold: 9}\n  policy/l3: {ignore: true}\n"), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	for class, want := range map[string]classSettings{
		NoBuffer:    {Threshold: 500, Burst: 500, Hold: 2 * time.Second, Interval: time.Second},
		PolicyL2ACL: {Threshold: 7, Burst: 7, Hold: 2 * time.Second, Interval: time.Second, Deduplicate: 5 * time.Second},
		PolicyL3RPF: {Threshold: 7, Burst: 7, Hold: 2 * time.Second, Interval: time.Second, Deduplicate: 5 * time.Second, Ignore: true},
		PolicyL3ACL: {Threshold: 9, Burst: 9, Hold: 2 * time.Second, Interval: time.Second, Deduplicate: 5 * time.Second, Ignore: true},
	} {
		if got := cfg.settings(class); got != want {
			t.Errorf("%s: %+v, want %+v", class, got, want)
		}
	}
}

func TestCommandChecks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "device.yaml")
	if err := os.WriteFile(file, []byte("name: r\ntls: {cert: none.pem, key: none.pem}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := Command()
		cmd.SetArgs(args)
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	if _, err := run("--config", file, "--check"); err == nil || !strings.Contains(err.Error(), "none.pem") {
		t.Errorf("check with a certificate that is not there: %v", err)
	}
	out, err := run("--config", file, "--dump")
	if err != nil || !strings.Contains(out, "name: r\n") || !strings.Contains(out, "ring: 1024") || !strings.Contains(out, "threshold: 1000") || !strings.Contains(out, "hold: 2s") ||
		!strings.Contains(out, "kernel: true") || !strings.Contains(out, "nflog:\n  groups: []") || !strings.Contains(out, "sflow:\n  listen: \"\"") {
		t.Errorf("dump: %v\n%s", err, out)
	}
	if _, err := run("--config", filepath.Join(t.TempDir(), "none.yaml")); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("no such file: %v", err)
	}
}
