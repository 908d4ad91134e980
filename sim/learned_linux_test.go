package sim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"decaf/api"
	"decaf/topology"
)

// quietFabric runs a fabric without faults until the test ends, and gives the
// address of its service.
func quietFabric(t *testing.T) (url string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "calm.yaml")
	text := `name: calm
fabric: {kind: clos, pods: 2, tors: 2, t1: 2, t2: 2, hosts: 2}
traffic: {connections_per_host: 1/s, packets: 1..10, pattern: uniform}
duration: 1h
expect: {false_findings: 0}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(decaf(t), "sim", "run", "--fabric", "kernel", "--listen", "127.0.0.1:0", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
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
	address := regexp.MustCompile(`page at (http://[^\s,]+)`)
	poll(t, 60*time.Second, "the service prints its address", func() error {
		m := address.FindStringSubmatch(log.String())
		if m == nil {
			return errors.New(log.String())
		}
		url = m[1]
		return nil
	})
	return url
}

func fetch(t *testing.T, url string, into any) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// ends names each directed link by the addresses of its ends.
func ends(links []api.TopoLinkView) map[string]bool {
	out := make(map[string]bool)
	for _, l := range links {
		out[l.From.Address+">"+l.To.Address] = true
	}
	return out
}

// Hosts' agents look for all paths to each other; what the service learns of
// that are the fabric's own links, and the file it gives is one.
func TestTopologyIsLearnedFromAllHosts(t *testing.T) {
	url := quietFabric(t)
	program := decaf(t)
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(program, append(args, "--server", url)...)
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, errOut.String())
		}
		return out.String()
	}
	var truth api.TopologyView
	fetch(t, url+"/api/v1/topology", &truth)
	for _, h := range truth.Hosts {
		survey := "survey=10s"
		for _, other := range truth.Hosts {
			if other.Name != h.Name {
				survey += "," + netip.AddrPortFrom(netip.MustParseAddr(other.Addresses[0]), 80).String()
			}
		}
		run("agents", "config", "set", h.Name, survey+",99%", "trace_rate=1000")
	}
	pairs := len(truth.Hosts) * (len(truth.Hosts) - 1)
	want := ends(truth.Links)
	var got api.LearnedView
	poll(t, 5*time.Minute, "every link is learned", func() error {
		got = api.LearnedView{}
		fetch(t, url+"/api/v1/topology/learned", &got)
		if len(got.Surveys) < pairs || got.Topology == nil {
			return fmt.Errorf("%d of %d surveys", len(got.Surveys), pairs)
		}
		have := ends(got.Topology.Links)
		for l := range want {
			if !have[l] {
				return fmt.Errorf("no link %s among %d: %v", l, len(have), got.Missing)
			}
		}
		if len(have) != len(want) || got.Devices != len(truth.Devices) {
			return fmt.Errorf("%d links and %d devices, want %d and %d: %v", len(have), got.Devices, len(want), len(truth.Devices), got.Missing)
		}
		return nil
	})
	if got.Confidence != 99 && got.Complete > 0 {
		t.Errorf("sure by %d %%, want 99", got.Confidence)
	}
	if c := got.Compared; c == nil || c.Seen != len(want) || len(c.Unseen)+len(c.Unknown) != 0 {
		t.Errorf("compared with itself: %+v", c)
	}
	file := filepath.Join(t.TempDir(), "learned.yaml")
	if out := run("topology", "learn", "--compare", "--file", file); !strings.Contains(out, "nothing differs") {
		t.Errorf("%s", out)
	}
	top, err := topology.Load(file)
	if err != nil || len(top.Links) != len(want) || len(top.Hosts) != len(truth.Hosts) {
		t.Errorf("%v, %v", top, err)
	}
	for _, h := range truth.Hosts {
		if _, ok := top.Host(h.Name); !ok {
			t.Errorf("host %s has another name", h.Name)
		}
	}
}
