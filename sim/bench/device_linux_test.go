package bench

import (
	"context"
	"math"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"decaf/device"
)

// TestMain makes this binary `decaf device` when the benchmark starts it again.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_BENCH_DEVICE") == "" {
		deviceCommand = func(config string) (*exec.Cmd, error) {
			cmd := exec.Command(os.Args[0], "--config", config)
			cmd.Env = append(os.Environ(), "TEST_BENCH_DEVICE=1")
			return cmd, nil
		}
		os.Exit(m.Run())
	}
	cmd := device.Command()
	cmd.SetArgs(os.Args[1:])
	if cmd.Execute() != nil {
		os.Exit(1)
	}
}

// TestDeviceBench runs the parts of the benchmark briefly: they measure something,
// and what does not rest on how fast the machine is, is right.
func TestDeviceBench(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and eBPF")
	}
	b, err := newDeviceRun(Options{Duration: 100 * time.Millisecond, Pairs: 1, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	for _, part := range []func(context.Context) error{b.limits, b.pairs, b.kernelCost, b.quiet, b.quietClass, b.topFlows, b.sflow} {
		if err := part(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []fan{{3, true}, {2, false}} {
		if r, err := b.fan(t.Context(), f, 200); err != nil || r.missed > 0 || r.reached <= 0 {
			t.Errorf("200 events a second to %+v: %+v, %v", f, r, err)
		}
	}
	if took, r, err := b.slow(t.Context(), 2, 20_000, time.Minute); err != nil || took == 0 {
		t.Errorf("a subscriber that never reads is not ended: %v, %+v, %v", took, r, err)
	}
	if took, err := b.delay(t.Context(), 1000); err != nil || len(took) == 0 || slices.Min(took) <= 0 {
		t.Errorf("delays through the router: %v, %v", took, err)
	}
	got := map[string]float64{}
	for _, r := range b.results {
		if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
			t.Errorf("%s is %v", r.Metric, r.Value)
		}
		if _, twice := got[r.Metric]; twice {
			t.Errorf("%s is there twice", r.Metric)
		}
		got[r.Metric] = r.Value
	}
	for _, more := range []string{"forwarding_most_pps", "drops_most_per_s", "flood_drops_per_s", "flood_agent_rss_mb", "flood_kernel_ns_per_drop", "flood_kernel_ns_per_drop_10_agents", "event_latency_p50_ms", "event_latency_p99_ms", "sflow_notifications_per_s"} {
		if got[more] <= 0 {
			t.Errorf("%s is %v", more, got[more])
		}
	}
	if got["aggregate_packets_pct"] != 100 || got["aggregate_top_flows_outside"] != 0 {
		t.Errorf("aggregates have %v %% of the flood, %v flows outside their bounds", got["aggregate_packets_pct"], got["aggregate_top_flows_outside"])
	}
}
