package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api"
	"decaf/sim/replay"
	"decaf/sim/scenario"
	"decaf/sim/scenarios"
)

// parsed reads a scenario, a built-in one by its name.
func parsed(t testing.TB, text string) *scenario.Scenario {
	t.Helper()
	data := []byte(text)
	if builtin, ok := scenarios.Get(text); ok {
		data = builtin
	}
	s, err := scenario.Parse("test.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// played runs a scenario on the flow-level fabric.
func played(t testing.TB, text string, seed uint64, record string) *Result {
	t.Helper()
	var said strings.Builder
	r, err := Run(t.Context(), RunOptions{
		Scenario: parsed(t, text), Fabric: FabricFlow, Seed: seed, Record: record,
		Progress: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(said.String())
		}
	})
	return r
}

// Every built-in scenario passes: the fault is named in time and nothing else is, and
// reports are answered with the evidence.
func TestScenariosOnTheFlowFabric(t *testing.T) {
	for _, name := range scenarios.Names() {
		seeds := []uint64{1, 2, 3}
		if name == "acl" || name == "no-route" { // thousands of drops each
			seeds = seeds[:2]
		}
		for _, seed := range seeds {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				t.Parallel()
				r := played(t, name, seed, "")
				for _, e := range r.Expectations {
					if !e.Held {
						t.Errorf("%s; saw %s", e.What, e.Saw)
					}
				}
				if !r.Passed || r.Fabric != FabricFlow || r.Seed != seed {
					t.Errorf("passed %v on %s, seed %d", r.Passed, r.Fabric, r.Seed)
				}
				for _, f := range r.Faults {
					ofHost := strings.HasPrefix(f.Component, "host ")
					if ofHost != (f.Dropped == 0) || f.StartNS-r.BeganNS != 5e9 || f.EndNS-r.BeganNS != 21e9 {
						t.Errorf("fault %+v", f)
					}
				}
				if silent := strings.HasPrefix(name, "silent"); silent != (r.Truth.LossyFlows > 0) {
					t.Errorf("%d flows known to have lost data on the link", r.Truth.LossyFlows)
				}
			})
		}
	}
}

// A seed says all: the same gives the same result and recording, another does not.
func TestFlowRunIsRepeatable(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	text := func(seed uint64) string {
		runs++
		file := filepath.Join(dir, fmt.Sprint(runs))
		r := played(t, "silent-loss-5", seed, file)
		var b bytes.Buffer
		if err := r.JSON(&b); err != nil {
			t.Fatal(err)
		}
		recorded, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b.String() + string(recorded)
	}
	first := text(1)
	if text(1) != first {
		t.Error("another result for the same seed")
	}
	if text(3) == first {
		t.Error("the same result for another seed")
	}
}

// The command plays by a scenario's name, records, and ends with an error only when an
// expectation did not hold.
func TestRunCommandOnTheFlowFabric(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run.jsonl")
	out, err := run1(t, "run", "silent-loss-5", "--fabric", "flow", "--seed", "1", "--json", "--record", file)
	if err != nil {
		t.Fatal(err)
	}
	var r Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || !r.Passed || r.Fabric != FabricFlow || len(r.Findings) != 1 || len(r.Verdicts) != 1 {
		t.Errorf("%v: %s", err, out)
	}
	if out, err = run1(t, "replay", file); err != nil || !strings.Contains(out, r.Faults[0].Component) || !strings.Contains(out, "precision 1.000, recall 1.000") {
		t.Errorf("%v: %s", err, out)
	}
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte(short+"expect: {findings: [{component: device t2-0}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err = run1(t, "run", broken, "--fabric", "flow"); !errors.Is(err, errBroken) || !strings.Contains(out, "BROKEN  finding device t2-0") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err = run1(t, "run", "quiet", "--fabric", "cloud"); err == nil || !strings.Contains(err.Error(), "kernel and flow") {
		t.Errorf("error %v", err)
	}
	if out, err = run1(t, "list"); err != nil || !strings.Contains(out, "kernel, flow  Ten minutes") {
		t.Errorf("%v: %s", err, out)
	}
}

const short = "name: x\nfabric: {kind: clos, pods: 2, tors: 2, t1: 2, t2: 2, hosts: 2}\ntraffic: {connections_per_host: 5/s}\nduration: 6s\n"

// Every fault kind works, and says what it took.
func TestFlowFabricMakesEveryFault(t *testing.T) {
	on := map[string]string{"link": "link p0-tor0>p0-t1-0", "device": "device p0-t1-0", "host": "host p1-tor0-h0"}
	for _, kind := range scenario.Kinds() {
		t.Run(kind, func(t *testing.T) {
			what := scenario.HappensOn(kind)
			r := played(t, fmt.Sprintf("%sfaults: [{at: 1s, for: 2s, every: 3s, on: %s, kind: %s}]\n", short, on[what], kind), 1, "")
			if len(r.Faults) != 2 || r.Faults[1].StartNS-r.BeganNS != 4e9 || r.Faults[1].EndNS-r.BeganNS != 6e9 {
				t.Fatalf("faults %+v", r.Faults)
			}
			for _, f := range r.Faults {
				if took := f.Dropped > 0; took != (what != "host") || f.Component != on[what] {
					t.Errorf("fault %+v", f)
				}
			}
		})
	}
}

// What the kernel cannot do with agents is honoured here: a device without an agent, or
// before it has one, shows no drop.
func TestKeysOfTheFlowFabric(t *testing.T) {
	const acl = short + "faults: [{at: 0s, on: device p0-t1-0, kind: acl, rate: 50%}]\n"
	drops := func(keys string) (n uint64) {
		file := filepath.Join(t.TempDir(), "run.jsonl")
		played(t, acl+keys, 1, file)
		for _, e := range read(t, file) {
			for _, d := range e.Drops {
				n += d.Count
			}
		}
		return n
	}
	all := drops("")
	if all == 0 {
		t.Fatal("no drops with all devices instrumented")
	}
	if n := drops("instrumented: 0%\n"); n != 0 {
		t.Errorf("%d drops without an agent", n)
	}
	if n := drops("agents_late: 3s\n"); n == 0 || n >= all {
		t.Errorf("%d drops with agents for half of the time, %d with agents all the time", n, all)
	}
	if n := drops("lying: 100%\n"); n >= all {
		t.Errorf("%d drops with lying devices, %d with true ones", n, all)
	}
	if r := played(t, short+"faults: [{at: 0s, on: link p0-tor0>p0-t1-0, kind: silent-loss, rate: 10%}]\ntrace_budget: 1/s\n", 1, ""); !r.Passed {
		t.Errorf("with rationed traces: %+v", r.Expectations)
	}
}

func read(t *testing.T, file string) []*replay.Epoch {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, epochs, err := replay.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return epochs
}

// A recording is replayed: each epoch's fault is named, and the scores say so. Nothing
// but the file is left in its directory.
func TestRecordingIsReplayed(t *testing.T) {
	const text = `
name: two-faults
fabric: {kind: clos, pods: 2, tors: 3, t1: 2, t2: 2, hosts: 3}
traffic: {connections_per_host: 10/s, packets: 1..100, pattern: uniform}
duration: 50s
faults:
  - {at: 2s, for: 26s, on: link p0-t1-0>t2-1, kind: silent-loss, rate: 2%}
  - {at: 32s, on: link p1-tor1>p1-t1-1, kind: queue}
`
	file := filepath.Join(t.TempDir(), "run.jsonl")
	played(t, text, 1, file)
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	want := []string{"link p0-t1-0>t2-1", "link p1-tor1>p1-t1-1"}
	var got []string
	err = Replay(in, []string{"fused"}, nil, func(e EpochResult) error {
		m := e.Methods["fused"]
		for _, b := range m.Components {
			got = append(got, b.Component)
		}
		if m.Precision == nil || *m.Precision != 1 || *m.Recall != 1 || *m.FlowAccuracy < 0.95 {
			t.Errorf("scores of %+v: %v, %v, %v", m.Components, *m.Precision, *m.Recall, *m.FlowAccuracy)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("named %v, want %v", got, want)
	}
	epochs := read(t, file)
	if len(epochs) != 2 || epochs[0].EndNS-epochs[0].StartNS != 30e9 || epochs[1].EndNS-epochs[1].StartNS != 20e9 {
		t.Errorf("%d epochs", len(epochs))
	}
	for i, e := range epochs {
		var clean, lossy uint64
		for _, f := range e.Flows {
			if f.Retransmits == 0 {
				clean += f.Packets
			} else if lossy++; f.Packets < f.Retransmits || f.Packets > 200 {
				t.Errorf("a lossy flow of %d packets, %d of them again", f.Packets, f.Retransmits)
			}
		}
		if len(e.Instrumented) != 12 || lossy == 0 || clean < 10000 || len(e.Truth.Causes) == 0 || (len(e.Drops) > 0) != (i == 1) {
			t.Errorf("epoch %d: %d devices instrumented, %d lossy flows, %d loss-free packets, %d causes, drops %v",
				i, len(e.Instrumented), lossy, clean, len(e.Truth.Causes), e.Drops)
		}
	}
	if all, _ := os.ReadDir(filepath.Dir(file)); len(all) != 1 {
		t.Errorf("beside the file there is more: %v", all)
	}
}

// The recording of a device's fault: decaf's own probes are not among its drops, and
// the recording of errors of a port has the counter's figure.
func TestRecordedDrops(t *testing.T) {
	for _, c := range []struct{ kind, on, from, class string }{
		{"acl", "device p0-t1-0", "", "policy/l3/acl"},
		{"corrupt", "link p0-tor0>p0-t1-0", "p0-tor0", "errors/l2/rx/crc-error"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "run.jsonl")
			r := played(t, fmt.Sprintf("%sfaults: [{at: 1s, for: 4s, on: %s, kind: %s, rate: 5%%}]\n", short, c.on, c.kind), 1, file)
			in, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			topo, epochs, err := replay.Read(in)
			if err != nil {
				t.Fatal(err)
			}
			if len(epochs) != 1 || len(epochs[0].Drops) != 1 {
				t.Fatalf("drops %+v", epochs[0].Drops)
			}
			d := epochs[0].Drops[0]
			from := ""
			if d.From != replay.None {
				from = topo.Name(d.From)
			}
			// Probes and ICMP that the fault took are no evidence.
			if d.Class != c.class || from != c.from || d.Count == 0 || d.Count > r.Faults[0].Dropped || d.Count < r.Faults[0].Dropped/2 {
				t.Errorf("drop %+v from %q; the fault took %d", d, from, r.Faults[0].Dropped)
			}
		})
	}
}

// A recording is there whole or not at all, and one that cannot be is known before the
// run.
func TestRecordRefuses(t *testing.T) {
	dir := t.TempDir()
	run := func(ctx context.Context, file string) error {
		_, err := Run(ctx, RunOptions{Scenario: parsed(t, short), Fabric: FabricFlow, Record: file, Progress: func(string, ...any) {}})
		return err
	}
	for file, want := range map[string]string{dir: "name a file in it", filepath.Join(dir, "none", "x"): "directory that you may write to"} {
		if err := run(t.Context(), file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", file, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, filepath.Join(dir, "x.jsonl")); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if all, _ := os.ReadDir(dir); len(all) != 0 {
		t.Errorf("left behind: %v", all)
	}
}

func TestFlowFabricRefuses(t *testing.T) {
	for _, c := range []struct {
		name, keys, want string
		change           func(*RunOptions)
	}{
		{"a page", "", "--listen", func(o *RunOptions) { o.Listen = "127.0.0.1:0" }},
		{"a directory", "", "--keep", func(o *RunOptions) { o.Keep = true }},
		{"a match that a route cannot make", "faults: [{at: 1s, on: device t2-0, kind: no-route, match: {port: 80}}]\n", "fault 0: match", func(*RunOptions) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := RunOptions{Scenario: parsed(t, short+c.keys), Fabric: FabricFlow, Progress: func(string, ...any) {}}
			c.change(&o)
			if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %s", err, c.want)
			}
		})
	}
}

func TestFabricsOfAScenario(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"a fault both make", short + "faults: [{at: 1s, on: random t2, kind: acl}]\n", []string{FabricKernel, FabricFlow}},
		{"lying devices", short + "lying: 10%\n", []string{FabricFlow}},
		{"a fault the kernel cannot make", short + "faults: [{at: 1s, on: link t2-0>p0-t1-0, kind: duplex}]\n", []string{FabricFlow}},
		{"many devices", "name: x\nfabric: {kind: clos, pods: 8, tors: 4}\nduration: 1s\n", []string{FabricFlow}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := Fabrics(parsed(t, c.text)); err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %v, %v; want %v", got, err, c.want)
			}
		})
	}
}

func TestPickFabric(t *testing.T) {
	if name, why, err := PickFabric(FabricFlow); name != FabricFlow || why == "" || err != nil {
		t.Errorf("flow: %s, %q, %v", name, why, err)
	}
	if _, _, err := PickFabric("cloud"); err == nil || !strings.Contains(err.Error(), "kernel and flow") {
		t.Errorf("error %v", err)
	}
	// Whatever this machine can, one is chosen, and asking for the kernel fabric
	// fails exactly where it is not chosen.
	name, why, err := PickFabric("")
	if err != nil || why == "" {
		t.Fatalf("%q, %v", why, err)
	}
	if _, _, err := PickFabric(FabricKernel); (err == nil) != (name == FabricKernel) {
		t.Errorf("%s is chosen, and kernel gives %v", name, err)
	}
}

func TestPresence(t *testing.T) {
	p := newPresence()
	for at := int64(10e9); at <= 40e9; at += 2e9 {
		p.beat("a", at)
	}
	for at := int64(60e9); at <= 70e9; at += 2e9 {
		p.beat("a", at)
	}
	for _, c := range []struct {
		name     string
		from, to int64
		want     string
	}{
		{"a", 10e9, 40e9, ""},
		{"a", 3e9, 47e9, ""}, // a silence this short means nothing
		{"a", 0, 30e9, "only since"},
		{"a", 30e9, 65e9, "a part of"},
		{"a", 62e9, 70e9, ""},
		{"b", 10e9, 40e9, "never"},
	} {
		ok, why := p.all(c.name, c.from, c.to)
		if ok != (c.want == "") || !strings.Contains(why, c.want) {
			t.Errorf("%s from %d to %d: %v, %q, want %q", c.name, c.from, c.to, ok, why, c.want)
		}
	}
}

// The demo without privileges, end to end: agents are heard over NATS and gNMI, the
// first fault's finding shows at the API and on the page, the report is answered, and
// nothing is left when it ends.
func TestDemoOnTheFlowFabric(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var said strings.Builder
	ended := make(chan error, 1)
	go func() {
		ended <- Demo(ctx, DemoOptions{
			Fabric: FabricFlow, Seed: 2, Listen: "127.0.0.1:0", pace: pace{calm: time.Second, fault: time.Minute, report: 5 * time.Second},
			Progress: func(format string, args ...any) {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintf(&said, format+"\n", args...)
			},
		})
	}()
	t.Cleanup(func() {
		if t.Failed() {
			mu.Lock()
			t.Log(said.String())
			mu.Unlock()
		}
	})
	until := func(what string, ok func() error) {
		t.Helper()
		limit := time.NewTimer(50 * time.Second)
		defer limit.Stop()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			err := ok()
			if err == nil {
				return
			}
			select {
			case err := <-ended:
				t.Fatalf("%s: the demo ended: %v", what, err)
			case <-limit.C:
				t.Fatalf("%s: %v", what, err)
			case <-tick.C:
			}
		}
	}
	var url, fault string
	until("address and fault are told", func() error {
		mu.Lock()
		defer mu.Unlock()
		_, rest, ok := strings.Cut(said.String(), "open ")
		_, on, okFault := strings.Cut(rest, "fault on:  silent-loss on ")
		if !ok || !okFault {
			return errors.New(said.String())
		}
		url, _, _ = strings.Cut(rest, "\n")
		fault, _, _ = strings.Cut(on, "\n")
		return nil
	})
	c, err := newClient(url)
	if err != nil {
		t.Fatal(err)
	}
	agents, err := c.agents(t.Context())
	if err != nil || silent(agents, 18, err) != "" {
		t.Errorf("agents: %s, %v", silent(agents, 18, err), err)
	}
	for _, a := range agents {
		if a.BootID == "" || a.Version == "" || a.Error != "" || a.Gaps != 0 {
			t.Errorf("agent %+v", a)
		}
	}
	until("the finding shows", func() error {
		list, err := c.findings(t.Context(), time.Now().Add(-time.Minute))
		if err != nil || !slices.ContainsFunc(list, func(f api.FindingView) bool { return f.Component == fault }) {
			return fmt.Errorf("findings %v, %v, want %s", list, err, fault)
		}
		return nil
	})
	until("the page shows it", func() error {
		resp, err := http.Get(url + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		name := strings.ReplaceAll(strings.TrimPrefix(fault, "link "), ">", "&gt;")
		if err != nil || !bytes.Contains(body, []byte(name)) {
			return fmt.Errorf("no %s on the page, %v", name, err)
		}
		return nil
	})
	until("the report is answered", func() error {
		mu.Lock()
		defer mu.Unlock()
		if !strings.Contains(said.String(), `"it froze": `) {
			return errors.New(said.String())
		}
		return nil
	})
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "decaf-run-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
