package sim

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
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
	for _, text := range []string{out, string(data)} {
		if !strings.Contains(text, "link p0-t1-0>t2-1") { // as people write it
			t.Errorf("names are escaped: %s", text)
		}
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

// Every field is there, whatever its value, and so is every list.
func TestReplayFields(t *testing.T) {
	file := filepath.Join(t.TempDir(), "one.jsonl")
	if err := os.WriteFile(file, recording(t, twoFaults), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run1(t, "replay", file, "--json", "--method", "all")
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Epochs []struct {
			Methods map[string]map[string]any `json:"methods"`
		} `json:"epochs"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Epochs) != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	for i, e := range r.Epochs {
		for _, name := range []string{"fused", "vote"} {
			m := e.Methods[name]
			for _, field := range []string{"components", "suspects", "abstained", "precision", "recall", "flow_accuracy", "inference_ms"} {
				if m[field] == nil {
					t.Errorf("epoch %d, %s: no %s", i, name, field)
				}
			}
			components, _ := m["components"].([]any)
			if len(components) == 0 {
				t.Errorf("epoch %d, %s: nothing named", i, name)
			}
			for _, c := range components {
				for _, field := range []string{"component", "probability", "class", "evidence", "equivalent", "trace"} {
					if c.(map[string]any)[field] == nil {
						t.Errorf("epoch %d, %s: no %s in %v", i, name, field, c)
					}
				}
			}
		}
	}
}

// For people: each component with what spoke for and against it, what is too unsure
// to name, and what could not be told.
func TestReplayShowsTheDecisionTrace(t *testing.T) {
	const topo = `{"topology":{"links":[["t0","s1"],["t0","s2"],["t4","s1"],["t4","s2"]],"hosts":{"h1":"t0","h2":"t4","h3":"t0","h4":"t4"}}}` + "\n"
	lossy := `{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1,"path":["h1","t0","s1","t4","h2"]}}` + "\n"
	clean := `{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":0}}` + "\n"
	for _, c := range []struct {
		name, text, method string
		want               []string
	}{
		{"named", topo + strings.Repeat(lossy+strings.NewReplacer("h1", "h3", "h2", "h4").Replace(lossy), 8), "fused",
			[]string{"link t0>s1  1.000  -  16 flows lost 16 packets", "or link", "\n    for: ", "\n    against: ", "  not told: no loss-free packets were counted"}},
		{"suspected", topo + strings.Repeat(clean, 300) + lossy, "fused", []string{"nothing at fault", "suspects, too unsure to name:\n  link "}},
		{"voted for", topo + lossy, "vote", []string{"  -  -  1 flows lost 1 packets\n    0.2 of 1.0 votes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.jsonl")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := run1(t, "replay", file, "--method", c.method)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
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
		{"causes in place of the recording", "the recording itself", []string{broken, "--causes", broken}},
		{"causes to nowhere", "--causes", []string{broken, "--causes", "/nowhere/c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := run1(t, append([]string{"replay"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %s", err, c.want)
			}
		})
	}
}

// What comes by standard input is not written over either, and may be read to its end
// while the causes are written beside it.
func TestReplayKeepsStandardInput(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x.jsonl")
	const text = `{"topology":{"links":[["t0","s1"],["t4","s1"]],"hosts":{"h1":"t0","h2":"t4"}}}
{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1,"path":["h1","t0","s1","t4","h2"]}}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	replay := func(causes string) error {
		in, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		cmd := Commands()[0]
		cmd.SetIn(in)
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetArgs([]string{"replay", "-", "--causes", causes})
		err = cmd.Execute()
		if _, statErr := in.Stat(); statErr != nil {
			t.Errorf("standard input was closed: %v", statErr)
		}
		return err
	}
	if err := replay(file); err == nil || !strings.Contains(err.Error(), "the recording itself") {
		t.Errorf("error %v, want one about the recording itself", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != text {
		t.Errorf("the recording is now %q, %v", got, err)
	}
	beside := filepath.Join(dir, "causes.jsonl")
	if err := replay(beside); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(beside); err != nil || strings.Count(string(got), "\n") != 1 {
		t.Errorf("causes %q, %v", got, err)
	}
}

// Any file is refused or inferred from: the engine gets what nobody would record, on
// networks that nobody would build, and its figures stay what they say they are.
func FuzzReplay(f *testing.F) {
	const topo = `{"topology":{"links":[["t0","s1"],["t0","s2"],["t4","s1"],["t4","s2"]],"hosts":{"h1":"t0","h2":"t4"}}}` + "\n"
	f.Add([]byte(topo))
	f.Add([]byte(topo + `{"epoch":{"start_ns":5,"end_ns":30000000005}}
{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1,"path":["h1","t0","s1","t4","h2"],"between_ns":[6,70000000]}}
{"flow":{"src":"h1","dst":"h2","packets":9,"retransmits":12,"path":["h1","t0"]}}
{"flow":{"src":"h2","dst":"h1","packets":80,"retransmits":2,"paths":[["h2","t4","s1","t0","h1"],["h2","t4","s2","t0","h1"]]}}
{"flow":{"src":"h1","dst":"h2","packets":80,"retransmits":0,"paths":[["h1","t0","s1","t4","h2"],["h1","t0","s2","t4","h2"]]}}
{"flow":{"src":"h1","dst":"h2","packets":18446744073709551615,"retransmits":0}}
{"drop":{"device":"s1","from":"t0","to":"t4","class":"no-buffer","count":3}}
{"drop":{"device":"t0","from":"h1","class":"errors/l2/rx/crc-error","count":9}}
{"drop":{"device":"s2","class":"policy/l3/acl"}}
{"instrumented":{"device":"s1"}}
{"truth":{"links":[["t0","s1"]],"devices":["s2"],"hosts":["h2"],"causes":[{"flow":1,"link":["t0","s1"]}]}}
{"epoch":{"start_ns":0,"end_ns":0}}
{"flow":{"src":"h2","dst":"h1","packets":1,"retransmits":1}}`))
	f.Add([]byte(`{"topology":{"links":[["a","b"],["c","d"]],"hosts":{"x":"a","y":"c"}}}
{"flow":{"src":"x","dst":"y","packets":1,"retransmits":1}}
{"flow":{"src":"x","dst":"y","packets":1,"retransmits":0}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var causes bytes.Buffer
		err := Replay(bytes.NewReader(data), []string{"fused", "vote"}, &causes, func(e EpochResult) error {
			if _, err := json.Marshal(e); err != nil { // NaN and infinity have no JSON
				t.Fatal(err)
			}
			for name, m := range e.Methods {
				for _, b := range slices.Concat(m.Components, m.Suspects) {
					if b.Probability < 0 || b.Probability > 1 {
						t.Errorf("%s: %s has probability %v", name, b.Component, b.Probability)
					}
				}
				for _, share := range []*float64{m.Precision, m.Recall, m.FlowAccuracy} {
					if share != nil && (*share < 0 || *share > 1) {
						t.Errorf("%s: score %v", name, *share)
					}
				}
			}
			return nil
		})
		if err != nil {
			return
		}
		for dec := json.NewDecoder(&causes); dec.More(); {
			var c struct{ Probability float64 }
			if err := dec.Decode(&c); err != nil || c.Probability < 0 || c.Probability > 1 {
				t.Fatalf("cause %+v, %v", c, err)
			}
		}
	})
}
