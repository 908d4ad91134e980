package device

import (
	"encoding/binary"
	"net/netip"

	"decaf/api/packet"
)

// The layout of what the kernel program keeps of the flows of drops that it does
// not send up, for one agent on one CPU, in the machine's byte order: rows of
// cells, then the cells' keys. A key is a flow and, after it, the cause of the
// drop (the key of the causes map).
const (
	sketchRows    = 2
	sketchBits    = 9
	sketchColumns = 1 << sketchBits // a power of two
	sketchShift   = 16              // from which bit of the mark on the rows take their column
	sketchCells   = sketchRows * sketchColumns

	// sketchMultiplier mixes the key's words into its mark: the golden ratio's
	// fraction (Knuth, The Art of Computer Programming, section 6.4). The mark
	// starts from a seed that nobody who sends packets knows.
	sketchMultiplier uint64 = 0x9e3779b97f4a7c15

	cellMark  = 0  // u64: of the candidate's key
	cellVotes = 8  // u64: packets for the candidate, less those against it
	cellTotal = 16 // u64: packets of all
	cellSize  = 32

	sketchKeys = sketchCells * cellSize // where the keys begin
	sketchSize = sketchKeys + sketchCells*sketchKey

	flowSource       = 0  // 16 bytes, of IPv4 4
	flowDestination  = 16 // the same
	flowDestination4 = 4  // of IPv4; 24 bytes of zero follow
	flowPorts        = 32 // u16 source, u16 destination, big-endian
	flowProtocol     = 36 // u8
	flowVersion      = 37 // u8: 4 or 6; 0 is no flow
	flowSize         = 40
	sketchKey        = flowSize + causeKeySize
	causeKeySize     = 32
)

// sketch tells of the flows of drops that were only counted, within bounds that
// always hold: MV-Sketch (Tang, Huang, Lee: MV-Sketch: A Fast and Compact
// Invertible Sketch for Heavy Flow Detection in Network Data Streams, INFOCOM
// 2019). Each cell takes the majority vote of Boyer and Moore among the packets
// that fall into it: with V packets in all and C votes for the candidate, of the
// candidate's packets at least C and at most (V+C)/2 fell into it, and of any
// other key's at most (V-C)/2. It is one such array of cells for each CPU.
//
// It is not safe for concurrent use.
type sketch struct {
	perCPU [][]byte // sketchSize bytes each
	seed   uint64
}

// heldFlow is what is known of one key.
type heldFlow struct {
	cause       [causeKeySize]byte
	flow        packet.Flow
	least, most uint64 // packets
}

// candidates returns the keys that can have at least so many packets, in no
// order. A key that no cell has for its candidate is not among them, however many
// it has; of such a key rest says how many that can be.
func (s *sketch) candidates(floor uint64) (list []heldFlow, rest uint64) {
	seen := map[uint64]bool{}
	for _, cells := range s.perCPU {
		for i := range sketchCells {
			c := cellAt(cells, i)
			if c.mark == 0 || seen[c.mark] {
				continue
			}
			seen[c.mark] = true
			h := parseSketchKey(cells[sketchKeys+i*sketchKey:])
			if h.least, h.most = s.bounds(c.mark); h.most >= max(floor, 1) {
				list = append(list, h)
			}
		}
		most := ^uint64(0) // of a key that is nowhere a candidate, on this CPU
		for row := range sketchRows {
			high := uint64(0)
			for i := range sketchColumns {
				c := cellAt(cells, row*sketchColumns+i)
				high = max(high, (c.total-c.votes)/2)
			}
			most = min(most, high)
		}
		rest += most
	}
	return list, max(rest, floor)
}

// most is how many packets a key can have at most.
func (s *sketch) most(cause [causeKeySize]byte, flow packet.Flow) uint64 {
	_, most := s.bounds(sketchMark(s.seed, sketchKeyOf(cause, flow)))
	return most
}

func (s *sketch) bounds(mark uint64) (least, most uint64) {
	for _, cells := range s.perCPU {
		low, high := uint64(0), ^uint64(0)
		for row := range sketchRows {
			c := cellAt(cells, row*sketchColumns+int(mark>>(sketchShift+row*sketchBits))%sketchColumns)
			if c.mark == mark {
				low, high = max(low, c.votes), min(high, (c.total+c.votes)/2)
			} else {
				high = min(high, (c.total-c.votes)/2)
			}
		}
		least, most = least+low, most+high
	}
	return least, most
}

// clear makes room for the next interval.
func (s *sketch) clear() {
	for _, cells := range s.perCPU {
		clear(cells[:sketchKeys]) // a key without a mark is none
	}
}

type cell struct{ mark, votes, total uint64 }

func cellAt(cells []byte, i int) cell {
	b, ne := cells[i*cellSize:], binary.NativeEndian
	return cell{mark: ne.Uint64(b[cellMark:]), votes: ne.Uint64(b[cellVotes:]), total: ne.Uint64(b[cellTotal:])}
}

// sketchMark is the program's hash of a key, never 0: of the cause first, which the
// program does once for all drops of that cause, and then of what is not zero in
// every flow of its version.
func sketchMark(seed uint64, key [sketchKey]byte) uint64 {
	return mixFlow(mixWords(seed, key, causeWords), key)
}

// flowMark is the program's hash of a flow of a class that is de-duplicated, the class
// by its number. It is never 0.
func flowMark(seed uint64, class uint32, f packet.Flow) uint64 {
	return mixFlow(mixWord(seed, uint64(class)), sketchKeyOf([causeKeySize]byte{}, f))
}

func mixFlow(h uint64, key [sketchKey]byte) uint64 {
	h = mixWords(h, key, flowWords)
	if key[flowVersion] == 6 {
		h = mixWords(h, key, flowWords6)
	}
	return h | 1
}

func mixWords(h uint64, key [sketchKey]byte, words []int) uint64 {
	for _, at := range words {
		h = mixWord(h, binary.NativeEndian.Uint64(key[at:]))
	}
	return h
}

func mixWord(h, word uint64) uint64 {
	h = (h ^ word) * sketchMultiplier
	return h ^ h>>32
}

// The words of a key in the order in which they are mixed: of the cause, of each
// flow, and of those of IPv6 besides.
var (
	causeWords = []int{flowSize, flowSize + 8, flowSize + 16, flowSize + 24}
	flowWords  = []int{flowPorts, flowSource}
	flowWords6 = []int{flowSource + 8, flowDestination, flowDestination + 8}
)

func parseSketchKey(b []byte) heldFlow {
	h := heldFlow{cause: [causeKeySize]byte(b[flowSize:])}
	var src, dst netip.Addr
	if b[flowVersion] == 6 {
		src, dst = netip.AddrFrom16([16]byte(b[flowSource:])), netip.AddrFrom16([16]byte(b[flowDestination:]))
	} else {
		src, dst = netip.AddrFrom4([4]byte(b[flowSource:])), netip.AddrFrom4([4]byte(b[flowDestination4:]))
	}
	be := binary.BigEndian
	h.flow = packet.Flow{
		Src: netip.AddrPortFrom(src, be.Uint16(b[flowPorts:])), Dst: netip.AddrPortFrom(dst, be.Uint16(b[flowPorts+2:])),
		Proto: b[flowProtocol],
	}
	return h
}

func sketchKeyOf(cause [causeKeySize]byte, f packet.Flow) (key [sketchKey]byte) {
	version, destination := byte(4), flowDestination4
	if f.Src.Addr().Is6() {
		version, destination = 6, flowDestination
	}
	copy(key[flowSource:], f.Src.Addr().AsSlice())
	copy(key[destination:], f.Dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(key[flowPorts:], f.Src.Port())
	binary.BigEndian.PutUint16(key[flowPorts+2:], f.Dst.Port())
	key[flowProtocol], key[flowVersion] = f.Proto, version
	copy(key[flowSize:], cause[:])
	return key
}
