package bench

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// What the figures of the tracer's benchmark rest on: the fan has four paths of
// three switches, and spines are told apart by what a tool prints.
func TestFan(t *testing.T) {
	topo, err := fanTopology()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(topo.Paths("h1", "h2")); n != spines || topo.Distance("h1", "h2") != 3 {
		t.Errorf("%d paths over %d switches", n, topo.Distance("h1", "h2"))
	}
	for v, text := range map[version]string{ipv4: "1 10.1.0.1\n2 10.2.3.1 1 ms\n3 10.3.1.1", ipv6: "1 fd0a::a01:1\n2 fd0a::a02:301 1 ms\n3 fd0a::a03:101"} {
		if n := v.spinesIn([]byte(text)); n != 1 {
			t.Errorf("%d spines in one path of %q", n, text)
		}
	}
}

// A path counts as right only by the spine that carried the flow's packets.
func TestJudge(t *testing.T) {
	for _, v := range versions {
		record := func(v version, port uint16, spine byte, status decafpb.PathStatus) *decafpb.Retransmit {
			hop := func(a netip.Addr) *decafpb.Hop { return &decafpb.Hop{Address: a.AsSlice()} }
			return &decafpb.Retransmit{TimeNs: 1e6, Flow: v.flow(port).PB(),
				Path: &decafpb.Path{Status: status, StartNs: 2e6, TookNs: 1e6, Hops: []*decafpb.Hop{hop(v.addr(1, 0, 1)), hop(v.spine(spine)), hop(v.addr(3, spine, 1))}}}
		}
		const complete, cached = decafpb.PathStatus_PATH_STATUS_COMPLETE, decafpb.PathStatus_PATH_STATUS_CACHED
		b := &tracing{}
		b.judge(v, []*decafpb.Retransmit{
			record(v, 1, 1, complete), record(v, 1, 1, cached), // right
			record(v, 2, 1, complete), // went by spine 2
			record(v, 3, 3, complete), record(v, 4, 4, decafpb.PathStatus_PATH_STATUS_PARTIAL),
			record(!v, 5, 1, complete), // of the other version, which is not asked for
		}, &spineWatch{v: v, by: map[uint16]byte{1: 1, 2: 2, 3: 3, 4: 4}})
		got := map[string]float64{}
		for _, r := range b.results {
			got[r.Metric] = r.Value
		}
		if got[v.metric("path_found_pct")] != 75 || got[v.metric("path_samples")] != 3 || got[v.metric("path_latency_p50_ms")] != 2 || int(got[v.metric("path_correct_pct")]) != 66 {
			t.Errorf("%v", got)
		}
	}
}

// Only data to the target tells by which spine a flow goes: no acknowledgement, no probe.
func TestSpineWatchReadsData(t *testing.T) {
	for _, v := range versions {
		p := packet.Probe{Flow: v.flow(4711), TTL: 3, Seq: 1, ID: 1, Flags: packet.ACK}
		bare, err := p.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := v.dataFrom(bare); ok {
			t.Errorf("a probe to %s is taken for data", v.target())
		}
		data := append(slices.Clone(bare), 1, 2, 3)
		if v == ipv6 {
			data[5] += 3
		} else {
			data[3] += 3
		}
		if port, ok := v.dataFrom(data); !ok || port != 4711 {
			t.Errorf("data from port %d, %v", port, ok)
		}
		for n := range len(bare) {
			if _, ok := v.dataFrom(data[:n]); ok {
				t.Errorf("%d bytes are enough", n)
			}
		}
		if _, ok := (!v).dataFrom(data); ok {
			t.Error("another version's packet is read")
		}
	}
}

// newBriefTracing builds the fan for a test.
func newBriefTracing(t *testing.T, o Options) *tracing {
	t.Helper()
	needRoot(t)
	b, end, err := newTracing(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// of makes a part of one version.
func of(v version, part func(context.Context, version) error) func(context.Context) error {
	return func(ctx context.Context) error { return part(ctx, v) }
}

// On the fan, the paths that the agent finds of flows that retransmit are those that the
// flows' packets take.
func TestPathsAreThoseOfTheFlows(t *testing.T) {
	for _, v := range versions {
		o := brief(t)
		o.Duration = 200 * time.Millisecond
		b := newBriefTracing(t, o)
		play(t, of(v, b.latency))
		got := measured(t, b.results)
		above(t, got, v.metric("path_latency_p50_ms"), v.metric("path_latency_p99_ms"), v.metric("icmp_per_switch_max_pps"))
		if got[v.metric("path_samples")] < 10 || got[v.metric("path_correct_pct")] != 100 || got[v.metric("path_found_pct")] < 90 {
			t.Errorf("paths of %s: %v", v.target(), got)
		}
	}
}

// The parts of the tracer's benchmark that make no comparison with paths, briefly:
// each measures something, of both versions.
func TestTracerBench(t *testing.T) {
	b := newBriefTracing(t, brief(t))
	for _, v := range versions {
		play(t, of(v, b.running), of(v, b.process), of(v, b.allPaths), of(v, b.transfer), of(v, b.fastest))
		// Another tool, which is there on every machine: ours.
		if err := b.peer(t.Context(), v, "own", program, []string{"trace", v.target().String(), "--json"}); err != nil {
			t.Fatal(err)
		}
	}
	got := measured(t, b.results)
	for _, v := range versions {
		for _, name := range []string{"one_path_running_p50_us", "one_path_running_p99_us", "one_path_running_complete_pct", "one_path_process_ms", "one_path_process_complete_pct", "ecmp_all_paths_ms", "ecmp_packets",
			"transfer_mbit_per_s", "transfer_traces_complete_pct", "fastest_mbit_per_s", "own_ms", "own_packets"} {
			above(t, got, v.metric(name))
		}
		for _, flow := range []string{"transfer", "fastest"} {
			for _, name := range []string{"change_pct", "change_ci_pct", "retransmits", "retransmits_change", "retransmits_change_ci", "backlog_drops", "backlog_drops_traced"} {
				there(t, got, v.metric(flow+"_"+name))
			}
		}
		if got[v.metric("ecmp_paths_found")] != spines || got[v.metric("own_paths")] != 1 {
			t.Errorf("%v paths of %d, and %v of one flow", got[v.metric("ecmp_paths_found")], spines, got[v.metric("own_paths")])
		}
	}
}

// A port that cannot be made as wide again as it was is told of.
func TestTransferUndoes(t *testing.T) {
	o := brief(t)
	o.Pairs = 1
	b := newBriefTracing(t, o)
	b.Log = func(string, ...any) { // after a pair
		err := b.f.Do("r1", func() error {
			link, err := netlink.LinkByName("s2")
			if err != nil {
				return err
			}
			return netlink.QdiscDel(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}})
		})
		if err != nil {
			t.Error(err)
		}
	}
	if err := b.transfer(t.Context(), ipv4); !errors.Is(err, syscall.EINVAL) { // its root queue has another handle
		t.Errorf("s2 lost its queue meanwhile: %v", err)
	}
	for _, port := range []string{"s1", "s2", "s3", "s4"} {
		if undo, err := b.narrow(port); err != nil {
			t.Errorf("%s is not as it was: %v", port, err)
		} else if err := undo(); err != nil {
			t.Error(err)
		}
	}
}

// Within the default budget no switch answers more than the traces that it allows.
func TestTracerBenchBudget(t *testing.T) {
	o := brief(t)
	o.Duration = 200 * time.Millisecond
	b := newBriefTracing(t, o)
	seen, err := b.watch(t.Context(), ipv4, defaultBudget)
	if err != nil {
		t.Fatal(err)
	}
	// One answer a trace, some probes being sent twice.
	most := 2 * (float64(defaultBudget.burst) + defaultBudget.rate*(seen.duration.Seconds()+1))
	if n := seen.answers * seen.duration.Seconds(); n <= 0 || n > most {
		t.Errorf("%v answers of a switch in %v", n, seen.duration)
	}
	if seen.asked == 0 || seen.refused > seen.asked {
		t.Errorf("%d of %d traces were refused", seen.refused, seen.asked)
	}
}
