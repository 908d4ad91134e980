package bench

import (
	"testing"
	"time"

	"decaf/api/decafpb"
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
	if n := spinesIn([]byte("1 10.1.0.1\n2 10.2.3.1 1 ms\n3 10.3.1.1")); n != 1 {
		t.Errorf("%d spines in one path", n)
	}
	d := []time.Duration{5, 1, 3, 2, 4}
	if durationAt(d, .5) != 3 || durationAt(d, .99) != 5 || durationAt(nil, .5) != 0 {
		t.Errorf("quantiles %v, %v", durationAt(d, .5), durationAt(d, .99))
	}
}

// A path counts as right only by the spine that carried the flow's packets.
func TestJudge(t *testing.T) {
	record := func(port uint32, spine byte, status decafpb.PathStatus) *decafpb.Retransmit {
		hop := func(b ...byte) *decafpb.Hop { return &decafpb.Hop{Address: b} }
		return &decafpb.Retransmit{TimeNs: 1e6, Flow: &decafpb.Flow{SrcPort: port, DstPort: uint32(fanTarget.Port())},
			Path: &decafpb.Path{Status: status, StartNs: 2e6, TookNs: 1e6, Hops: []*decafpb.Hop{hop(10, 1, 0, 1), hop(10, 2, spine, 1), hop(10, 3, spine, 1)}}}
	}
	const complete, cached = decafpb.PathStatus_PATH_STATUS_COMPLETE, decafpb.PathStatus_PATH_STATUS_CACHED
	b := &tracing{}
	b.judge([]*decafpb.Retransmit{
		record(1, 1, complete), record(1, 1, cached), // right
		record(2, 1, complete), // went by spine 2
		record(3, 3, complete), record(4, 4, decafpb.PathStatus_PATH_STATUS_PARTIAL),
	}, &spineWatch{by: map[uint16]byte{1: 1, 2: 2, 3: 3, 4: 4}})
	got := map[string]float64{}
	for _, r := range b.results {
		got[r.Metric] = r.Value
	}
	if got["path_found_pct"] != 75 || got["path_samples"] != 3 || got["path_latency_p50_ms"] != 2 || int(got["path_correct_pct"]) != 66 {
		t.Errorf("%v", got)
	}
}
