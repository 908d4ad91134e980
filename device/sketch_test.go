package device

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"decaf/api/packet"
)

// write does to one CPU's cells what the kernel program does.
func (s *sketch) write(cpu int, cause [causeKeySize]byte, f packet.Flow, packets uint64) {
	key, ne, cells := sketchKeyOf(cause, f), binary.NativeEndian, s.perCPU[cpu]
	mark := sketchMark(s.seed, key)
	for row := range sketchRows {
		i := row*sketchColumns + int(mark>>(sketchShift+row*sketchBits))%sketchColumns
		c := cellAt(cells, i)
		c.total += packets
		switch {
		case c.mark == mark:
			c.votes += packets
		case c.votes >= packets:
			c.votes -= packets
		default:
			c.mark, c.votes = mark, packets-c.votes
			copy(cells[sketchKeys+i*sketchKey:], key[:])
		}
		b := cells[i*cellSize:]
		ne.PutUint64(b[cellMark:], c.mark)
		ne.PutUint64(b[cellVotes:], c.votes)
		ne.PutUint64(b[cellTotal:], c.total)
	}
}

func newSketch(cpus int, seed uint64) *sketch {
	s := &sketch{seed: seed}
	for range cpus {
		s.perCPU = append(s.perCPU, make([]byte, sketchSize))
	}
	return s
}

// TestSketchBounds: whatever comes in whatever order, the true count of each key
// lies within its bounds, of one that is nowhere a candidate under rest, and the
// large ones are candidates with narrow bounds.
func TestSketchBounds(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dice := rand.New(rand.NewPCG(seed, 7))
			s := newSketch(3, dice.Uint64())
			type key struct {
				cause byte
				flow  packet.Flow
			}
			truth, all := map[key]uint64{}, uint64(0)
			for range 200_000 {
				k := key{cause: byte(dice.IntN(2))}
				port := 1000 + dice.IntN(50_000) // half are flows of a few packets
				if dice.IntN(2) == 0 {
					port = 1 + dice.IntN(25) // 25 large ones of each cause, 1 % each
				}
				k.flow = packet.Flow{Src: addrPortOf(1, port), Dst: addrPortOf(2, 80), Proto: packet.TCP}
				if port%5 == 0 {
					k.flow.Src, k.flow.Dst = addrPort6Of(port), addrPort6Of(80)
				}
				n := uint64(1 + dice.IntN(3))
				truth[k] += n
				all += n
				s.write(dice.IntN(3), [causeKeySize]byte{k.cause}, k.flow, n)
			}
			list, rest := s.candidates(1)
			told, narrow := map[key]heldFlow{}, 0
			for _, h := range list {
				told[key{h.cause[0], h.flow}] = h
			}
			for k, n := range truth {
				h, ok := told[k]
				if most := s.most([causeKeySize]byte{k.cause}, k.flow); n > most || ok && (n < h.least || most != h.most) {
					t.Fatalf("%v: %d, told [%d, %d] and at most %d", k, n, h.least, h.most, most)
				}
				if !ok && n > rest {
					t.Fatalf("%v is not told of and has %d, more than %d", k, n, rest)
				}
				if n > all/200 {
					if !ok {
						t.Errorf("%v has %d of %d and is not told of", k, n, all)
					}
					if float64(h.most-h.least) < 0.005*float64(all) {
						narrow++
					}
				}
			}
			if narrow < 45 {
				t.Errorf("%d of 50 large flows are told of within 0.5 %% of the flood", narrow)
			}
			if few, rest := s.candidates(all / 200); len(few) >= len(list) || rest < all/200 {
				t.Errorf("%d of %d candidates above a floor, others under %d", len(few), len(list), rest)
			}
			s.clear()
			if list, rest := s.candidates(0); len(list) != 0 || rest != 0 {
				t.Errorf("cleared, and %d candidates, others under %d", len(list), rest)
			}
		})
	}
}

func TestSketchKeyThereAndBack(t *testing.T) {
	cause := [causeKeySize]byte{1, 2, 3, 31: 9}
	for _, f := range []packet.Flow{
		{Src: addrPortOf(1, 1), Dst: addrPortOf(2, 64000), Proto: packet.UDP},
		{Src: addrPort6Of(70), Dst: addrPort6Of(0), Proto: 58},
	} {
		key := sketchKeyOf(cause, f)
		if h := parseSketchKey(key[:]); h.flow != f || h.cause != cause {
			t.Errorf("%v of %v became %v of %v", f, cause, h.flow, h.cause)
		}
	}
}

func addrPort6Of(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 15: byte(port)}), uint16(port))
}
