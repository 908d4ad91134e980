package correlator

import (
	"math"
	"testing"

	"decaf/api/decafpb"
)

// A flow that repeated one tail and nothing else counts half: of its vote, and of its
// loss in the inference. Anything more makes it whole, and so does a device that shows
// the drop.
func TestLoneTailProbeCountsHalf(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	const fin = flagFIN | flagACK
	path := topo.Paths("p0-tor0-h0", "p1-tor1-h1")[0]
	for _, c := range []struct {
		name string
		list []*decafpb.Retransmit
		want float64
	}{
		{"one tail", rts(kindTLP, flagACK, 1448), .5},
		{"a lone FIN by tail probe", rts(kindTLP, fin, 1), .5},
		{"two tails", append(rts(kindTLP, flagACK, 1448), rts(kindTLP, flagACK, 1448)...), 1},
		{"tail, then timeout", append(rts(kindTLP, flagACK, 1448), rts(kindRTO, flagACK, 1448)...), 1},
		{"SYN and tail", append(rts(kindSYN, flagSYN, 1), rts(kindTLP, flagACK, 1448)...), 1},
		{"one timeout", rts(kindRTO, flagACK, 1448), 1},
		{"one fast", rts(kindFAST, flagACK, 1448), 1},
	} {
		f := &Flow{Src: "p0-tor0-h0", Dst: "p1-tor1-h1", Route: Route{Links: path, Hops: 6, Full: true, known: 6}}
		for i, r := range c.list {
			r.Origin = &decafpb.Origin{BootId: 1, Seq: uint64(i + 1)}
			f.add(r, topo)
		}
		w := &Window{Topo: topo, End: 1e9, Flows: []*Flow{f}, paths: newPathSets(topo)}
		if r := rankByVotes("vote", w); math.Abs(r.Total-c.want) > 1e-9 || math.Abs(r.Links[0].Votes-c.want/6) > 1e-9 {
			t.Errorf("%s: %g votes cast, %g for a link; want %g", c.name, r.Total, r.Links[0].Votes, c.want)
		}
		v := newView(newFabricIDs(topo), (*Flow).tells)
		if got := v.flow(w, f, sight{}, 10); got.Lost != c.want || got.Packets != 10 {
			t.Errorf("%s: lost %g of %g, want %g", c.name, got.Lost, got.Packets, c.want)
		}
		if got := v.flow(w, f, sight{way: wayTraced}, 10); got.Lost != 1 {
			t.Errorf("%s: a loss that a device showed counts %g", c.name, got.Lost)
		}
		// What is taken back leaves what there was before.
		if len(c.list) == 2 {
			f.withdraw(recordID{1, 2}, topo)
			want := 1.0
			if c.list[0].Kind == kindTLP {
				want = .5
			}
			if f.counted() != want {
				t.Errorf("%s, the second taken back: counts %g, want %g", c.name, f.counted(), want)
			}
		}
	}
}
