package correlator

// seenSpan is how far behind the highest sequence number of a stream a record
// may come and still be told from one seen before. Anything older counts as
// seen: the bus redelivers recent batches only.
const seenSpan = 1 << 14

// sequence remembers which sequence numbers of one producer, boot and record
// type have come: the triple of the wire schema's Origin.
type sequence struct {
	first, highest uint64
	got            uint64
	bits           [seenSpan / 64]uint64 // ring over the last seenSpan numbers
}

// see notes a sequence number and says whether it is new.
func (s *sequence) see(n uint64) bool {
	switch {
	case s.highest == 0: // the first we hear; what came before is not missed
		s.first, s.highest = n, n
	case n > s.highest:
		if n-s.highest >= seenSpan {
			clear(s.bits[:])
		} else {
			for i := s.highest + 1; i < n; i++ {
				s.bits[i%seenSpan/64] &^= 1 << (i % 64)
			}
		}
		s.highest = n
	case s.highest-n >= seenSpan:
		return false
	case s.bits[n%seenSpan/64]&(1<<(n%64)) != 0:
		return false
	}
	s.bits[n%seenSpan/64] |= 1 << (n % 64)
	s.got++
	if n < s.first { // came late, before what we took for the first
		s.first = n
	}
	return true
}

// missing counts numbers between the first and the highest that never came.
func (s *sequence) missing() uint64 {
	if s.got == 0 {
		return 0
	}
	if all := s.highest - s.first + 1; all > s.got {
		return all - s.got
	}
	return 0
}

// stream names a sequence.
type stream struct {
	producer string
	boot     uint64
	record   string
}
