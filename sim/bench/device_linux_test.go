package bench

import (
	"slices"
	"testing"
	"time"
)

// The parts of the device benchmark, briefly: they measure something, and what does
// not rest on how fast the machine is, is right.

func newBriefDevice(t *testing.T) *deviceRun {
	t.Helper()
	needRoot(t)
	o := brief(t)
	o.Duration, o.Flood = 2*leastDuration, time.Second
	b, err := newDeviceRun(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	play(t, b.limits)
	return b
}

func TestDeviceBenchFlood(t *testing.T) {
	b := newBriefDevice(t)
	play(t, b.pairs, b.memory)
	got := measured(t, b.results)
	above(t, got, "forwarding_most_pps", "drops_most_per_s", "flood_drops_per_s", "flood_offered_per_s", "flood_delivered_off_pct", "flood_delivered_on_pct", "flood_rss_mb", "flood_maps_mb")
	there(t, got, "flood_forwarding_loss_pct", "flood_agent_cpu_pct", "flood_rss_slope_kb_per_s", "flood_rss_slope_ci_kb_per_s", "flood_rss_flat_kb_per_s")
	// A process of Go takes some MB, and the maps that are sized for a flood do not
	// grow in one.
	if got["flood_rss_mb"] < 5 || got["flood_rss_mb"] > 1000 || got["flood_maps_slope_kb_per_s"] != 0 {
		t.Errorf("%v MB, maps of %v MB that rise by %v kB/s", got["flood_rss_mb"], got["flood_maps_mb"], got["flood_maps_slope_kb_per_s"])
	}
}

func TestDeviceBenchKernelCost(t *testing.T) {
	b := newBriefDevice(t)
	play(t, b.kernelCost)
	got := measured(t, b.results)
	for _, name := range []string{"flood_kernel_ns_per_drop", "flood_kernel_ns_per_drop_10_agents"} {
		above(t, got, name, name+"_min")
		if got[name+"_min"] > got[name] {
			t.Errorf("%s: the least of them is %v, the median %v", name, got[name+"_min"], got[name])
		}
	}
}

func TestDeviceBenchEvents(t *testing.T) {
	b := newBriefDevice(t)
	play(t, b.quiet, b.quietClass)
	got := measured(t, b.results)
	for _, name := range []string{"event", "flood_quiet_class"} {
		above(t, got, name+"_latency_p50_ms", name+"_latency_p99_ms", name+"_latency_max_ms")
		there(t, got, name+"_lost")
	}
	if got["event_lost"] != 0 {
		t.Errorf("%v events of a quiet device were lost", got["event_lost"])
	}
	if !slices.ContainsFunc(fanOuts, func(f fanOut) bool { return f.metric == "fanout16_events_per_s" && f.subscribers == 16 && f.secure }) {
		t.Errorf("events to 16 subscribers are not measured: %+v", fanOuts)
	}
	for _, f := range []fan{{3, true}, {2, false}} {
		if r, err := b.fan(t.Context(), f, 200); err != nil || r.missed > 0 || r.reached <= 0 {
			t.Errorf("200 events a second to %+v: %+v, %v", f, r, err)
		}
	}
}

// An event that does not come makes no figure better: here none does, the drops
// being of another class.
func TestDeviceBenchCountsLostEvents(t *testing.T) {
	b := newBriefDevice(t)
	a, err := b.startDevice(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer a.stop()
	told, err := b.tell(t.Context(), a, floodAddress, "policy/l3/acl", 5)
	if err != nil {
		t.Fatal(err)
	}
	b.told(told, "none", "")
	got := measured(t, b.results)
	if got["none_lost"] != 5 || got["none_latency_p50_ms"] != 2000 || got["none_latency_p99_ms"] != 2000 {
		t.Errorf("%v", got)
	}
}

func TestDeviceBenchSlowReader(t *testing.T) {
	b := newBriefDevice(t)
	if took, r, err := b.slow(t.Context(), 2, 20_000, time.Minute); err != nil || took == 0 {
		t.Errorf("a subscriber that never reads is not ended: %v, %+v, %v", took, r, err)
	}
}

func TestDeviceBenchAggregates(t *testing.T) {
	b := newBriefDevice(t)
	play(t, b.topFlows, b.sflow)
	got := measured(t, b.results)
	above(t, got, "aggregate_packets_pct", "sflow_notifications_per_s")
	there(t, got, "aggregate_top_flow_error_pct", "aggregate_top_flows_outside", "aggregate_top_flows_missed")
	if got["aggregate_packets_pct"] != 100 || got["aggregate_top_flows_outside"] != 0 || got["aggregate_top_flows_missed"] != 0 {
		t.Errorf("aggregates have %v %% of the flood, %v flows outside their bounds, and miss %v",
			got["aggregate_packets_pct"], got["aggregate_top_flows_outside"], got["aggregate_top_flows_missed"])
	}
}

func TestDeviceBenchForwarding(t *testing.T) {
	b := newBriefDevice(t)
	b.Pairs = 1
	play(t, b.sweep)
	got := measured(t, b.results)
	for _, at := range []string{"0", "1k", "100k", "max"} {
		for _, agent := range []string{"off", "on"} {
			above(t, got, "forwarding_"+at+"_drops_"+agent+"_pps", "delay_"+at+"_drops_"+agent+"_p50_us", "delay_"+at+"_drops_"+agent+"_p99_us")
		}
	}
	if took, err := b.delay(t.Context(), 1000); err != nil || len(took) == 0 || slices.Min(took) <= 0 {
		t.Errorf("delays through the router: %v, %v", took, err)
	}
}
