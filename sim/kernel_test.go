//go:build linux

package sim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"decaf/sim"
	"decaf/sim/kernel"
	"decaf/sim/scenario"
	"decaf/sim/scenarios"
)

// These tests are black boxes: they build the program and use it as a person
// would, on the real kernel.

var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// decaf gives the path of the built program, or skips where no kernel fabric
// can run.
func decaf(t *testing.T) string {
	t.Helper()
	if err := kernel.Check(); err != nil {
		t.Skipf("needs the kernel fabric: %v", err)
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "decaf-test-"); built.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", filepath.Join(built.dir, "decaf"), "decaf")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as `make build` does: it gives up privileges
		out, err := build.CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "decaf")
}

// two fabrics at a time: one takes less than half a processor, and all of them receive
// on the same one.
var two = make(chan struct{}, 2)

// sooner writes a built-in scenario to a file, with less time before, in and after its
// fault, and gives the file's name.
func sooner(t *testing.T, name string) string {
	t.Helper()
	text, ok := scenarios.Get(name)
	if !ok {
		t.Fatalf("no scenario %s", name)
	}
	text = []byte(strings.NewReplacer(
		"at: 5s, for: 16s", "at: 2s, for: 9s", "from: 5s, by: 15s", "from: 2s, by: 10s", "from: 5s, by: 10s", "from: 2s, by: 7s",
		"at: 17s", "at: 10s", "duration: 26s", "duration: 13s",
	).Replace(string(text)))
	s, err := scenario.Parse(name, text)
	if err != nil {
		t.Fatal(err)
	}
	if f := s.Faults[0]; f.At != 2*time.Second || f.For != 9*time.Second || s.Reports[0].At != 10*time.Second ||
		s.Duration != 13*time.Second || s.Expect.Findings[0].By > 10*time.Second {
		t.Fatalf("the times of scenario %s have changed: %+v", name, s)
	}
	file := filepath.Join(t.TempDir(), name+".yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// play runs a scenario and returns its result.
func play(t *testing.T, args ...string) sim.Result {
	t.Helper()
	cmd := exec.Command(decaf(t), append([]string{"sim", "run", "--fabric", "kernel", "--json"}, args...)...)
	two <- struct{}{}
	defer func() { <-two }()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var r sim.Result
	if jsonErr := json.Unmarshal(stdout.Bytes(), &r); jsonErr != nil {
		t.Fatalf("%v: %v\n%s", err, jsonErr, stderr.String())
	}
	if (err == nil) != r.Passed {
		t.Errorf("exit status says %v, the result says passed %v", err, r.Passed)
	}
	for _, e := range r.Expectations {
		if !e.Held {
			t.Errorf("%s; saw %s", e.What, e.Saw)
		}
	}
	if t.Failed() {
		t.Log(stderr.String())
	}
	return r
}

// Faults of each sort are named by component and nothing else is, in time, with the
// evidence that the scenario asks for. The rest of those built in are played by make
// soak.
func TestScenarios(t *testing.T) {
	t.Parallel()
	for i, c := range []struct {
		scenario string
		// where the packets are lost that the run knows of: silently on a "link", or at a
		// "device"; "elsewhere" is what recordings of losses do not tell of.
		where string
	}{
		{"silent-loss-1", "link"},
		{"silent-loss-ipv6", "link"},
		{"acl", "device"},
		{"no-route", "device"},
		{"queue", "device"},
		{"corrupt", "device"},
		{"ttl-loop", "device"},
		{"mtu", "device"},
		{"blackhole", "device"},
		{"route-flap", "device"},
		{"device-down", "elsewhere"},
		{"server-reset", "elsewhere"},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "run.jsonl")
			r := play(t, sooner(t, c.scenario), "--seed", strconv.Itoa(i+1), "--record", file)
			if len(r.Faults) == 0 || r.Faults[0].Dropped == 0 {
				t.Errorf("the fault dropped nothing: %+v", r.Faults)
			}
			if onLink := c.where == "link"; onLink != (r.Truth.LossyFlows > 0) {
				t.Errorf("%d flows known to have lost data on the link", r.Truth.LossyFlows)
			}
			if c.where != "elsewhere" {
				replayed(t, file, r)
			}
		})
	}
}

// replayed infers from a run's recording what was at fault.
func replayed(t *testing.T, file string, r sim.Result) {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	err = sim.Replay(in, []string{"fused"}, nil, func(e sim.EpochResult) error {
		m := e.Methods["fused"]
		named := slices.ContainsFunc(m.Components, func(b sim.BlamedView) bool { return b.Component == r.Faults[0].Component })
		if !named || m.Recall == nil || *m.Recall != 1 {
			t.Errorf("the recording does not name %s, but %+v", r.Faults[0].Component, m.Components)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Without a fault there is no finding, and every link carries flows.
func TestQuietNetworkGivesNoFinding(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "calm.yaml")
	if err := os.WriteFile(file, []byte(`
name: calm
fabric: {kind: clos, pods: 2, tors: 2, t1: 2, t2: 2, hosts: 2}
traffic: {connections_per_host: 10/s, packets: 1..100, pattern: uniform}
duration: 30s
reports: [{at: 20s, src: p0-tor0-h0, dst: p1-tor1-h1, says: slow}]
expect: {verdicts: [{report: 0, verdict: not-network}], false_findings: 0}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := play(t, file)
	if r.Truth.LinksTotal != 48 {
		t.Errorf("%d directed links, want 48", r.Truth.LinksTotal)
	}
}

// demo starts `decaf demo` and returns it with what waits until its page answers.
func demo(t *testing.T) (cmd *exec.Cmd, answers func()) {
	t.Helper()
	cmd = exec.Command(decaf(t), "demo", "--listen", "127.0.0.1:0", "--seed", "1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &lockedBuffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return cmd, func() {
		t.Helper()
		address := regexp.MustCompile(`open (http://\S+)`)
		var url string
		poll(t, 60*time.Second, "the demo prints its page's address", func() error {
			m := address.FindStringSubmatch(log.String())
			if m == nil {
				return errors.New(log.String())
			}
			url = m[1]
			return nil
		})
		resp, err := http.Get(url + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("<html")) {
			t.Fatalf("page: %s, %v", resp.Status, err)
		}
	}
}

// The demo leaves nothing behind, however it ends. Two run at the same time, which
// keeps neither from what it needs.
func TestDemoLeavesNothingBehind(t *testing.T) {
	decaf(t)
	before := footprint(t)
	killed, killedAnswers := demo(t)
	stopped, stoppedAnswers := demo(t)
	killedAnswers()
	stoppedAnswers()
	during := footprint(t)
	if len(during.namespaces) < len(before.namespaces)+2*18 {
		t.Errorf("%d namespaces during the demos, %d before: want 18 nodes more for each", len(during.namespaces), len(before.namespaces))
	}
	killed.Process.Kill()
	killed.Wait()
	poll(t, 15*time.Second, "half of it is gone after kill -9", func() error {
		both, one := len(during.namespaces)-len(before.namespaces), len(footprint(t).namespaces)-len(before.namespaces)
		if 2*one > both {
			return fmt.Errorf("%d of %d namespaces", one, both)
		}
		return nil
	})
	stopped.Process.Signal(syscall.SIGINT)
	if err := stopped.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	poll(t, 15*time.Second, "everything is gone", func() error { return footprint(t).more(before) })
}

// print is what a fabric could leave behind: network namespaces in use, links
// of this namespace, and processes of the program under test.
type print struct {
	namespaces, links, processes []string
}

func footprint(t *testing.T) print {
	t.Helper()
	var p print
	spaces, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, f := range spaces {
		if ns, err := os.Readlink(f); err == nil && !slices.Contains(p.namespaces, ns) {
			p.namespaces = append(p.namespaces, ns)
		}
	}
	named, _ := os.ReadDir("/run/netns")
	for _, e := range named {
		p.namespaces = append(p.namespaces, e.Name())
	}
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		p.links = append(p.links, l.Name())
	}
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, f := range exes {
		if exe, err := os.Readlink(f); err == nil && strings.HasPrefix(exe, built.dir) {
			p.processes = append(p.processes, f)
		}
	}
	return p
}

// more says what p has that before had not.
func (p print) more(before print) error {
	extra := func(now, then []string) []string {
		return slices.DeleteFunc(slices.Clone(now), func(s string) bool { return slices.Contains(then, s) })
	}
	ns, links, procs := extra(p.namespaces, before.namespaces), extra(p.links, before.links), extra(p.processes, before.processes)
	if len(ns)+len(links)+len(procs) > 0 {
		return fmt.Errorf("left behind: namespaces %v, links %v, processes %v", ns, links, procs)
	}
	return nil
}

func poll(t *testing.T, limit time.Duration, what string, ok func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		case <-tick.C:
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
