package bench

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

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
	d := []time.Duration{5, 1, 3, 2, 4}
	if durationAt(d, .5) != 3 || durationAt(d, .99) != 5 || durationAt(nil, .5) != 0 {
		t.Errorf("quantiles %v, %v", durationAt(d, .5), durationAt(d, .99))
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

// On the fan, the paths that the agent finds of flows that retransmit are those that the
// flows' packets take.
func TestPathsAreThoseOfTheFlows(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	for _, v := range versions {
		b, end, err := newTracing(t.Context(), Options{Duration: 200 * time.Millisecond, Log: t.Logf})
		if err != nil {
			t.Fatal(err)
		}
		err = b.latency(t.Context(), v)
		if err := errors.Join(err, end()); err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, r := range b.results {
			t.Logf("%s %.4g %s", r.Metric, r.Value, r.Unit)
			got[r.Metric] = r.Value
		}
		if got[v.metric("path_samples")] < 10 || got[v.metric("path_correct_pct")] != 100 || got[v.metric("path_found_pct")] < 90 {
			t.Errorf("paths of %s", v.target())
		}
	}
}
