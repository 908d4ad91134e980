package bench

import (
	"fmt"
	"math"
	"strings"
)

// target is what a figure is held against: to lie from least to most. Where of names
// another figure, most is that one's value, and says is what it means to be within.
type target struct {
	least, most float64
	of, says    string
}

func atMost(x float64) target  { return target{least: math.Inf(-1), most: x} }
func atLeast(x float64) target { return target{least: x, most: math.Inf(1)} }
func exactly(x float64) target { return target{least: x, most: x} }
func within(x float64) target  { return target{least: -x, most: x} }

// byChance is the target of a figure that chance alone takes from 0, either way, as far
// as another one tells.
func byChance(ci string) target { return target{of: ci, says: "by chance"} }

// targets by metric. Those of an IPv6 figure are those of the IPv4 one.
var targets = map[string]target{
	// The device agent under a flood of drops, and quiet.
	"flood_forwarding_loss_pct":            within(3),
	"flood_agent_cpu_pct":                  atMost(5),
	"flood_kernel_ns_per_drop":             atMost(300),
	"flood_kernel_ns_per_drop_10_agents":   atMost(300),
	"flood_rss_slope_kb_per_s":             {least: math.Inf(-1), of: "flood_rss_flat_kb_per_s", says: "to be flat"},
	"flood_maps_slope_kb_per_s":            atMost(0),
	"flood_quiet_class_latency_max_ms":     atMost(100),
	"flood_quiet_class_lost":               exactly(0),
	"event_latency_p50_ms":                 atMost(2),
	"event_latency_p99_ms":                 atMost(20),
	"event_lost":                           exactly(0),
	"fanout16_events_per_s":                atLeast(10_000),
	"fanout_slow_reader_ended":             exactly(1),
	"fanout_slow_reader_others_missed":     exactly(0),
	"aggregate_top_flows_outside":          exactly(0),
	"aggregate_top_flows_missed":           exactly(0),
	"sflow_notifications_per_s":            atLeast(1e6),
	"agent_cpu_pct_20k_sockets_100rps":     atMost(2), // the host agent
	"agent_cpu_pct_20k_sockets_1000rps":    atMost(5),
	"agent_rss_mb_20k_sockets":             atMost(64),
	"agent_kbytes_per_s":                   atMost(200),
	"agent_segments_off_pct_1k_sockets":    within(.1),
	"agent_segments_off_pct_20k_sockets":   within(.1),
	"host_connections_change_pct":          within(3),
	"host_throughput_change_pct":           within(3),
	"churn_connections_per_s":              atLeast(churnLeast),
	"path_latency_p50_ms":                  atMost(.5), // the tracer
	"path_latency_p99_ms":                  atMost(5),
	"path_found_pct":                       atLeast(99),
	"path_correct_pct":                     exactly(100),
	"ecmp_all_paths_ms":                    atMost(50),
	"ecmp_paths_found":                     exactly(spines),
	"one_path_running_p50_us":              atMost(100),
	"one_path_process_ms":                  atMost(30),
	"transfer_change_pct":                  byChance("transfer_change_ci_pct"),
	"transfer_retransmits_change":          byChance("transfer_retransmits_change_ci"),
	"fastest_change_pct":                   byChance("fastest_change_ci_pct"),
	"icmp_per_s_per_switch_default_budget": atMost(100), // 007's bound of a switch
}

// churnLeast is 50,000 connections a minute.
const churnLeast = 50_000.0 / 60

// suffix6 ends the name of a figure of IPv6 that is there for IPv4, too.
const suffix6 = "_ipv6"

// spines of the fan that traces are measured on: its equal paths.
const spines = 4

// targetOf finds the target of a metric, if it has one: none that another figure
// tells of where that is not among all.
func targetOf(metric string, all map[string]float64) (target, bool) {
	t, ok := targets[strings.TrimSuffix(metric, suffix6)]
	if ok && t.of != "" {
		if strings.HasSuffix(metric, suffix6) {
			t.of += suffix6
		}
		_, ok = all[t.of]
	}
	return t, ok
}

// holds says what is wanted of a figure and whether it is so, given all figures.
func (t target) holds(value float64, all map[string]float64) (want string, met bool) {
	least, most := t.least, t.most
	if t.of != "" {
		most = all[t.of]
		if least == 0 {
			least = -most
		}
	}
	switch {
	case least == most:
		want = fmt.Sprintf("%.4g", most)
	case math.IsInf(least, -1):
		want = fmt.Sprintf("≤ %.4g", most)
	case math.IsInf(most, 1):
		want = fmt.Sprintf("≥ %.4g", least)
	default:
		want = fmt.Sprintf("± %.4g", most)
	}
	if t.says != "" {
		want += " " + t.says
	}
	return want, least <= value && value <= most
}
