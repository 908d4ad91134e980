package service

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

type testConfig struct {
	Name  string        `yaml:"name"`
	Every time.Duration `yaml:"every"`
	Ring  int           `yaml:"ring"`
	Rate  float64       `yaml:"rate"`
	On    bool          `yaml:"on"`
	NATS  struct {
		URL string    `yaml:"url"`
		TLS *TLSFiles `yaml:"tls"`
	} `yaml:"nats"`
	Address netip.Addr        `yaml:"address"`
	Ignore  []string          `yaml:"ignore_interfaces"`
	Parts   []testPart        `yaml:"parts"`
	Tags    map[string]string `yaml:"tags"`
}

type testPart struct {
	Wait time.Duration `yaml:"wait"`
}

func (c *testConfig) Validate() error {
	if c.Ring < 0 {
		return errors.New("ring must not be negative")
	}
	return nil
}

func write(t *testing.T, text string) string {
	f := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLoadConfigFillsAndKeepsDefaults(t *testing.T) {
	f := write(t, `
name: p0-tor0   # a comment
every: 1h30m
rate: 0.5
nats:
  url: tls://192.0.2.1:4222
  tls: {ca: ca.pem, cert: c.pem, key: k.pem}
ignore_interfaces: [mgmt0, lo]
parts:
  - wait: 250us
  - wait: 2d
tags: {dc: a, anything: goes}
`)
	got := testConfig{Name: "default", Ring: 64, On: true}
	if err := LoadConfig(f, &got, "DECAF"); err != nil {
		t.Fatal(err)
	}
	want := testConfig{
		Name: "p0-tor0", Every: 90 * time.Minute, Ring: 64, Rate: 0.5, On: true,
		Ignore: []string{"mgmt0", "lo"},
		Parts:  []testPart{{250 * time.Microsecond}, {48 * time.Hour}},
		Tags:   map[string]string{"dc": "a", "anything": "goes"},
	}
	want.NATS.URL = "tls://192.0.2.1:4222"
	want.NATS.TLS = &TLSFiles{"ca.pem", "c.pem", "k.pem"}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
	// And what is dumped reads back the same.
	text, err := DumpConfig(got)
	if err != nil {
		t.Fatal(err)
	}
	var again testConfig
	if err := LoadConfig(write(t, string(text)), &again, ""); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if d := cmp.Diff(got, again, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
}

func TestLoadConfigSaysWhatIsWrongAndWhere(t *testing.T) {
	f := func(text string, says ...string) {
		t.Helper()
		file := write(t, text)
		err := LoadConfig(file, new(testConfig), "")
		if err == nil {
			t.Errorf("no error for %q", text)
			return
		}
		if !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q: want one line with the file", err)
		}
		for _, w := range says {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q does not say %q", err, w)
			}
		}
	}
	f("name: a\nevry: 1s\n", "config.yaml:2: ", `unknown key "evry"`, `did you mean "every"?`)
	f("nats:\n  url: x\n  tsl: {}\n", "config.yaml:3: ", `did you mean "tls"?`)
	f("nats:\n  tls:\n    certificate: x\n", "config.yaml:3: ", `unknown key "certificate"`, "known here are ca, cert, key")
	f("parts:\n  - wait: 1s\n  - wiat: 1s\n", "config.yaml:3: ", `did you mean "wait"?`)
	f("Name: x\n", `did you mean "name"?`)
	f("name: a\nname: b\n", "config.yaml:2: ", "name")
	f("name: a\nevery: soon\n", `"soon" is no duration`)
	f("every: 10\n", "no unit", "10s or 10ms")
	f("ring: many\n", "config.yaml:1: ", `ring: "many" will not do: give a whole number`)
	f("name: a\nnats:\n  url: b\n  tls: c\n", "config.yaml:4: ", `nats.tls: "c" will not do: give settings of its own`)
	f("parts:\n- wait: 1s\nrate: fast\n", "config.yaml:3: ", `rate: "fast" will not do: give a number such as 0.5`)
	f("on: perhaps\n", `on: "perhaps" will not do: give true or false`)
	f("ignore_interfaces: lo\n", `ignore_interfaces: "lo" will not do: give a list such as [a, b]`)
	f("ring: -1\n", "ring must not be negative")
	f("name: [a\n", "config.yaml:1: ")
	f("- a\n- b\n", "config.yaml")
	f("name: a\n---\nname: b\n", "config.yaml:3: ", "second document")
	f("\tname: a\n", "config.yaml:1: ")
	if err := LoadConfig("nosuch.yaml", new(testConfig), ""); err == nil || !strings.Contains(err.Error(), "nosuch.yaml") {
		t.Errorf("missing file: %v", err)
	} else if !strings.Contains(err.Error(), "--dump") {
		t.Errorf("missing file: %v: it does not say how to come by one", err)
	}
	if err := LoadConfig("", testConfig{}, ""); err == nil {
		t.Error("no pointer: no error")
	}
}

func TestEmptyFileKeepsTheDefaults(t *testing.T) {
	for _, text := range []string{"", "\n\n", "# only a comment\n", "---\n"} {
		c := testConfig{Ring: 5}
		if err := LoadConfig(write(t, text), &c, ""); err != nil || c.Ring != 5 {
			t.Errorf("%q: ring %d, %v", text, c.Ring, err)
		}
	}
}

func TestEnvironmentOverridesTheFile(t *testing.T) {
	f := write(t, "name: file\nring: 1\n")
	for k, v := range map[string]string{
		"DECAF_NAME": "123", "DECAF_EVERY": "5m", "DECAF_ON": "true", "DECAF_RATE": "0.25",
		"DECAF_NATS_URL": "nats://x", "DECAF_NATS_TLS_CA": "ca.pem", "DECAF_IGNORE_INTERFACES": "mgmt0, lo",
		"DECAF_ADDRESS": "192.0.2.1",
	} {
		t.Setenv(k, v)
	}
	var c testConfig
	if err := LoadConfig(f, &c, "DECAF"); err != nil {
		t.Fatal(err)
	}
	want := testConfig{Name: "123", Every: 5 * time.Minute, Ring: 1, Rate: 0.25, On: true, Address: netip.MustParseAddr("192.0.2.1"), Ignore: []string{"mgmt0", "lo"}}
	want.NATS.URL, want.NATS.TLS = "nats://x", &TLSFiles{CA: "ca.pem"}
	if d := cmp.Diff(want, c, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
	t.Setenv("DECAF_RING", "many")
	if err := LoadConfig(f, &c, "DECAF"); err == nil || !strings.Contains(err.Error(), `DECAF_RING="many": "many" will not do: give a whole number`) {
		t.Errorf("error %v", err)
	}
	t.Setenv("DECAF_RING", "2")
	t.Setenv("DECAF_EVERY", "5")
	if err := LoadConfig(f, &c, "DECAF"); err == nil || !strings.Contains(err.Error(), "no unit") {
		t.Errorf("error %v", err)
	}
}

func TestMistypedVariable(t *testing.T) {
	var c testConfig
	t.Setenv("DECAF_TRACE_RATE", "5") // another command's
	if err := LoadConfig("", &c, "DECAF"); err != nil {
		t.Error(err)
	}
	t.Setenv("DECAF_NATS_ULR", "nats://x")
	if err := LoadConfig("", &c, "DECAF"); err == nil || !strings.Contains(err.Error(), "DECAF_NATS_ULR sets nothing: did you mean DECAF_NATS_URL?") {
		t.Errorf("error %v", err)
	}
}

func TestNoTLSFromAnEmptyEnvironment(t *testing.T) {
	var c testConfig
	if err := LoadConfig("", &c, "DECAF"); err != nil || c.NATS.TLS != nil {
		t.Errorf("tls %v, %v: nil means not used", c.NATS.TLS, err)
	}
}

func FuzzDecodeConfig(f *testing.F) {
	for _, s := range []string{"name: a", "nats: {url: x, tls: {ca: y}}", "parts: [{wait: 1s}]", "a: &x {b: *x}", "<<: {name: a}", "every: 1y2w3d", "---\n---\n", "? a\n: b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := DecodeConfig("f", []byte(s), new(testConfig)); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("error of several lines: %q", err)
		}
	})
}

func TestDurations(t *testing.T) {
	f := func(s string, want time.Duration, ok bool) {
		t.Helper()
		got, err := ParseDuration(s)
		if (err == nil) != ok || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	f("40s", 40*time.Second, true)
	f("1h30m", 90*time.Minute, true)
	f("1.5h", 90*time.Minute, true)
	f("2d", 48*time.Hour, true)
	f("1w", 7*24*time.Hour, true)
	f("250us", 250*time.Microsecond, true)
	f("-5m", -5*time.Minute, true)
	f("0", 0, true)
	f("", 0, false)
	f("10", 0, false)
	f("10.", 0, false)
	f("soon", 0, false)
}
