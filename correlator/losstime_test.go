package correlator

import (
	"testing"

	"decaf/api/decafpb"
)

// What was lost when: a fast retransmit follows at once, a timeout 200 ms later or,
// if it was not the segment's first, when the one before was sent.
func TestWhenPacketsWereLost(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	type sent struct {
		at   int64 // ms
		kind decafpb.RetransmitKind
		seq  uint32
	}
	for _, c := range []struct {
		name        string
		list        []sent
		from, to    int64 // ms, of the window
		first, last int64 // ms
	}{
		{"fast", []sent{{1000, kindFAST, 1}, {1400, kindFAST, 9}}, 0, 9000, 1000, 1400},
		{"timeout", []sent{{1000, kindRTO, 1}}, 0, 9000, 800, 800},
		{"timeouts that back off", []sent{{1000, kindRTO, 1}, {1400, kindRTO, 1}, {2200, kindRTO, 1}}, 0, 9000, 800, 1400},
		{"a fast one lost as well", []sent{{1000, kindFAST, 1}, {1250, kindRTO, 1}}, 0, 9000, 1000, 1000},
		{"timeout of another segment", []sent{{1000, kindFAST, 1}, {1450, kindRTO, 5}}, 0, 9000, 1000, 1250},
		{"handshake alone", []sent{{1000, kindSYN, 1}}, 0, 9000, 0, 0},
		{"a part of them in the window", []sent{{1000, kindFAST, 1}, {5000, kindFAST, 2}, {6000, kindRTO, 3}}, 4000, 9000, 5000, 5800},
		{"before the window's end", []sent{{1000, kindFAST, 1}, {5000, kindFAST, 2}}, 0, 4000, 1000, 1000},
	} {
		f := &Flow{}
		for i, s := range c.list {
			f.add(&decafpb.Retransmit{Origin: &decafpb.Origin{Seq: uint64(i + 1)}, TimeNs: uint64(s.at * 1e6), Kind: s.kind, TcpSeq: s.seq, TcpEndSeq: s.seq + 1448}, topo)
		}
		first, last := f.lostWithin(c.from*1e6, c.to*1e6)
		if first != c.first*1e6 || last != c.last*1e6 {
			t.Errorf("%s: lost from %d to %d ms, want %d to %d", c.name, first/1e6, last/1e6, c.first, c.last)
		}
		if c.last > 0 && (!f.lostIn(c.last*1e6, c.last*1e6) || f.lostIn(c.last*1e6+1, c.last*1e6+2)) {
			t.Errorf("%s: lostIn", c.name)
		}
	}
}
