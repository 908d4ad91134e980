package sim

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"decaf/sim/flow"
	"decaf/sim/replay"
	"decaf/sim/scenario"
)

// recording plays a scenario on the flow-level fabric and records it in epochs
// of 30 s.
func recording(t *testing.T, text string) []byte {
	t.Helper()
	s, err := scenario.Parse("x.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	f, err := flow.New(s, 1, flow.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := replay.WriteFabric(&out, f, 30*time.Second, replay.FabricOptions{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

const twoFaults = `
name: two-faults
fabric: {kind: clos, pods: 2, tors: 4, t1: 2, t2: 2, hosts: 4}
traffic: {connections_per_host: 4/s, packets: 1..100, pattern: uniform}
noise: 1e-6
duration: 60s
faults:
  - {at: 0s, on: link p0-t1-0>t2-1, kind: silent-loss, rate: 1%}
  - {at: 30s, on: device p1-t1-1, kind: acl, rate: 2%}
`

// The recording's epochs come one by one; fused names what was at fault in each
// and nothing else.
func TestReplayNamesTheFaultsOfEachEpoch(t *testing.T) {
	want := [][]string{{"link p0-t1-0>t2-1"}, {"device p1-t1-1", "link p0-t1-0>t2-1"}}
	epoch := 0
	err := Replay(bytes.NewReader(recording(t, twoFaults)), []string{"fused", "vote"}, nil, func(e EpochResult) error {
		m := e.Methods["fused"]
		names := map[string]bool{}
		for _, b := range m.Components {
			names[b.Component] = true
			if b.Probability < 0.5 || b.Probability > 1 {
				t.Errorf("epoch %d: %s has probability %v", epoch, b.Component, b.Probability)
			}
		}
		for _, name := range want[epoch] {
			if !names[name] {
				t.Errorf("epoch %d: %s is not named, but %v", epoch, name, names)
			}
		}
		if len(names) != len(want[epoch]) {
			t.Errorf("epoch %d: named %v, want %v", epoch, names, want[epoch])
		}
		if m.Precision == nil || *m.Precision != 1 || *m.Recall != 1 {
			t.Errorf("epoch %d: scores %+v", epoch, m)
		}
		if v := e.Methods["vote"]; len(v.Components) == 0 || v.Components[0].Probability != 0 {
			t.Errorf("epoch %d: vote %+v", epoch, v.Components)
		}
		epoch++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if epoch != 2 {
		t.Errorf("%d epochs, want 2", epoch)
	}
}

// A queue that overflows for two seconds is named as that, with its times, though no
// device tells of it, and no longer in the epoch after it.
func TestReplayDatesCongestion(t *testing.T) {
	const burst = `
name: burst
fabric: {kind: clos, pods: 2, tors: 8, t1: 4, t2: 4, hosts: 8}
traffic: {connections_per_host: 8/s, packets: 1..100, pattern: uniform}
noise: 1e-7
instrumented: 0%
duration: 60s
faults:
  - {at: 10s, for: 2s, on: link p0-t1-0>t2-1, kind: queue, rate: 4%}
  - {at: 0s, on: link p1-tor3>p1-t1-2, kind: silent-loss, rate: 0.2%}
`
	const lasting = "link p1-tor3>p1-t1-2"
	epoch := 0
	var began uint64
	err := Replay(bytes.NewReader(recording(t, burst)), []string{"fused"}, nil, func(e EpochResult) error {
		if epoch == 0 {
			began = e.StartNS
		}
		names := map[string]BlamedView{}
		for _, b := range e.Methods["fused"].Components {
			names[b.Component] = b
		}
		if b, ok := names[lasting]; !ok || b.Class != "" || b.BetweenNS != nil {
			t.Errorf("epoch %d: the fault that lasts is %+v", epoch, b)
		}
		switch b, ok := names["link p0-t1-0>t2-1"]; {
		case ok != (epoch == 0) || len(names) > 2:
			t.Errorf("epoch %d: named %+v", epoch, names)
		case ok && (b.Class != "no-buffer" || b.BetweenNS == nil):
			t.Errorf("the burst is %+v", b)
		case ok:
			from, to := time.Duration(b.BetweenNS[0]-began), time.Duration(b.BetweenNS[1]-began)
			if from < 9*time.Second || from > 11*time.Second || to < 11*time.Second || to > 13*time.Second {
				t.Errorf("the burst was from %s to %s, want 10 s to 12 s", from, to)
			}
		}
		epoch++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if epoch != 2 {
		t.Errorf("%d epochs, want 2", epoch)
	}
}

// run1 runs `decaf sim` and gives what it printed.
func run1(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := Commands()[0]
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

// One epoch is one object; its causes number the flow lines from 1.
func TestReplayCommand(t *testing.T) {
	dir := t.TempDir()
	file, causes := filepath.Join(dir, "one.jsonl"), filepath.Join(dir, "causes.jsonl")
	text := strings.Replace(strings.Replace(twoFaults, "duration: 60s", "duration: 30s", 1), "  - {at: 30s, on: device p1-t1-1, kind: acl, rate: 2%}\n", "", 1)
	if err := os.WriteFile(file, recording(t, text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run1(t, "replay", file, "--json", "--method", "all", "--causes", causes)
	if err != nil {
		t.Fatal(err)
	}
	var r EpochResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if c := r.Methods["fused"].Components; len(c) != 1 || c[0].Component != "link p0-t1-0>t2-1" {
		t.Errorf("fused named %+v", c)
	}
	data, err := os.ReadFile(causes)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		var c struct {
			Flow        int     `json:"flow"`
			Component   string  `json:"component"`
			Probability float64 `json:"probability"`
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil || c.Flow < 1 || c.Component == "" || c.Probability < 0 || c.Probability > 1 {
			t.Fatalf("cause %d: %s, %v", i+1, line, err)
		}
	}
}

func TestReplayRefuses(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.jsonl")
	if err := os.WriteFile(broken, []byte(`{"topology":{"links":[["t0","s1"]],"hosts":{"h1":"t0"}}}`+"\n{\"flow\":\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"a broken line", "line 2", []string{broken}},
		{"no such file", "no such file", []string{"/nowhere.jsonl"}},
		{"no such method", "fused, vote or all", []string{broken, "--method", "guess"}},
		{"causes to nowhere", "--causes", []string{broken, "--causes", "/nowhere/c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := run1(t, append([]string{"replay"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %s", err, c.want)
			}
		})
	}
}
