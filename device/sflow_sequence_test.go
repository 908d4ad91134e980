package device

import (
	"math/rand/v2"
	"testing"
)

func TestSequence(t *testing.T) {
	for _, c := range []struct {
		name                          string
		numbers                       []uint32
		missing, duplicates, restarts uint64
	}{
		{"in order, from anywhere", []uint32{500, 501, 502}, 0, 0, 0},
		{"a hole", []uint32{1, 2, 5}, 2, 0, 0},
		{"late is not lost", []uint32{1, 4, 2, 5}, 1, 0, 0},
		{"twice", []uint32{1, 2, 2, 3, 1}, 0, 2, 0},
		{"late and twice", []uint32{1, 4, 3, 3}, 1, 1, 0},
		{"before the first is nobody's", []uint32{10, 9, 11}, 0, 1, 0},
		{"round the end", []uint32{1<<32 - 2, 1<<32 - 1, 0, 2}, 1, 0, 0},
		// 100 is so late that it is taken for a new beginning, and 201 then
		// leaves 100 behind it.
		{"later than the window is wide", []uint32{1, 200, 100, 201}, 198 + 100, 0, 1},
		{"begins anew", []uint32{1000, 1, 2}, 0, 0, 1},
		{"a leap is no loss of millions", []uint32{1, 3_000_000_000, 3_000_000_001}, 0, 0, 1},
	} {
		var s sequence
		for _, n := range c.numbers {
			s.see(n, false)
		}
		if s.missing != c.missing || s.duplicates != c.duplicates || s.restarts != c.restarts {
			t.Errorf("%s: %d missing, %d duplicates, %d restarts; want %d, %d, %d", c.name, s.missing, s.duplicates, s.restarts, c.missing, c.duplicates, c.restarts)
		}
	}
	var s sequence
	s.see(20, false)
	if !s.see(1, true) || s.restarts != 1 {
		t.Error("a sender known to have begun anew is taken for an old number")
	}
	if !s.see(2, true) || s.restarts != 1 {
		t.Error("the number after it is no further restart")
	}
}

// However numbers are lost, doubled and moved within the window, what is
// missing in the end is what never came.
func TestSequenceAgainstTruth(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var s sequence
		start := rnd.Uint32()
		var sent []uint32
		lost, doubled := uint64(0), uint64(0)
		for i := range uint32(500) {
			switch n := start + i; {
			case i == 0 || i == 499: // the ends are there, or nobody could tell
				sent = append(sent, n)
			case rnd.IntN(10) == 0:
				lost++
			case rnd.IntN(10) == 0:
				sent = append(sent, n, n)
				doubled++
			default:
				sent = append(sent, n)
			}
		}
		for i := 1; i+8 < len(sent)-1; i += 8 {
			rnd.Shuffle(8, func(a, b int) { sent[i+a], sent[i+b] = sent[i+b], sent[i+a] })
		}
		for _, n := range sent {
			s.see(n, false)
		}
		if s.missing != lost || s.duplicates != doubled || s.restarts != 0 {
			t.Fatalf("%d missing, %d twice, %d restarts; want %d, %d, 0", s.missing, s.duplicates, s.restarts, lost, doubled)
		}
	}
}
