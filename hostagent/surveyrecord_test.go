package hostagent

import (
	"net/netip"
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/tracer"
)

// wideFan has as many equal-cost paths as there are pairs of n and n nodes.
func wideFan(n int) (tracer.EnumerateRequest, *tracer.Fan) {
	fan := &tracer.Fan{Hops: [][]tracer.Node{{}, {}}, Complete: true, Flows: 9, Probes: 99, Took: time.Second}
	for i := range n {
		for at := range fan.Hops {
			fan.Hops[at] = append(fan.Hops[at], tracer.Node{Address: netip.AddrFrom4([4]byte{10, byte(at), byte(i >> 8), byte(i)}), Interface: "eth" + string(rune('a'+at))})
		}
		for j := range n {
			fan.Paths = append(fan.Paths, tracer.FanPath{Nodes: []int{i, j}, Flows: []int{i}})
		}
	}
	r := tracer.EnumerateRequest{Confidence: 0.99}
	r.Flow = packet.Flow{Src: netip.MustParseAddrPort("10.9.0.1:40000"), Dst: netip.MustParseAddrPort("10.9.0.2:443"), Proto: packet.TCP}
	return r, fan
}

func TestSurveyRecord(t *testing.T) {
	r, fan := wideFan(2)
	fan.Hops[0][1].Address = netip.Addr{} // silent
	got := surveyRecord(r, fan, time.Unix(7, 0))
	if got.GetTimeNs() != 7e9 || got.GetConfidence() != 99 || !got.GetComplete() || got.GetFlows() != 9 || got.GetProbes() != 99 || got.GetLeftOut() != 0 {
		t.Errorf("%v", got)
	}
	if len(got.GetWalks()) != 4 || len(got.GetNodes()) != 3 {
		t.Fatalf("%d walks by %d nodes, want 4 by 3: %v", len(got.GetWalks()), len(got.GetNodes()), got)
	}
	silent := 0
	for _, w := range got.GetWalks() {
		if len(w.GetHops()) != 2 || w.GetHops()[1] == 0 || w.GetFlows() != 1 || w.GetUnreached() {
			t.Errorf("walk %v", w)
		}
		if w.GetHops()[0] == 0 {
			silent++
		}
	}
	if silent != 2 || got.GetNodes()[0].GetInterface() != "etha" {
		t.Errorf("%d walks by the silent hop, nodes %v", silent, got.GetNodes())
	}
}

// What does not fit is counted, and links that no other walk shows come first.
func TestSurveyRecordIsBounded(t *testing.T) {
	r, fan := wideFan(40) // 1600 paths over 80 nodes
	got := surveyRecord(r, fan, time.Now())
	if len(got.GetWalks()) != maxSurveyWalks || int(got.GetLeftOut()) != 1600-maxSurveyWalks || len(got.GetNodes()) > 80 {
		t.Errorf("%d walks, %d left out, %d nodes", len(got.GetWalks()), got.GetLeftOut(), len(got.GetNodes()))
	}
	// One path more for each that is there, by the same links: none of them hides another.
	r, fan = wideFan(20)
	fan.Paths = append(fan.Paths[:399:399], append(fan.Paths[:399:399], fan.Paths[399])...)
	if got = surveyRecord(r, fan, time.Now()); len(got.GetWalks()) != maxSurveyWalks {
		t.Fatalf("%d walks", len(got.GetWalks()))
	}
	last := fan.Paths[len(fan.Paths)-1].Nodes
	want := [2]netip.Addr{fan.Hops[0][last[0]].Address, fan.Hops[1][last[1]].Address}
	found := false
	for _, w := range got.GetWalks() {
		a, _ := netip.AddrFromSlice(got.GetNodes()[w.GetHops()[0]-1].GetAddress())
		b, _ := netip.AddrFromSlice(got.GetNodes()[w.GetHops()[1]-1].GetAddress())
		found = found || [2]netip.Addr{a, b} == want
	}
	if !found {
		t.Error("the one walk over a link was left out for others over links seen already")
	}
	r, fan = wideFan(1200)
	fan.Paths = fan.Paths[:0]
	for i := range 1200 {
		fan.Paths = append(fan.Paths, tracer.FanPath{Nodes: []int{i, i}, Flows: []int{i}})
	}
	if got = surveyRecord(r, fan, time.Now()); len(got.GetNodes()) > maxSurveyNodes || len(got.GetWalks())+int(got.GetLeftOut()) != 1200 {
		t.Errorf("%d nodes, %d walks, %d left out", len(got.GetNodes()), len(got.GetWalks()), got.GetLeftOut())
	}
}
