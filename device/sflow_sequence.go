package device

// maxSequenceJump is the widest hole that counts as loss; beyond it the sender
// has begun to count anew.
const maxSequenceJump = 1 << 20

// sequence follows a sender's numbers, which may come late, twice or not at
// all. The zero value is ready.
type sequence struct {
	last    uint32
	seen    uint64 // bit i: last-i has come
	started bool

	missing    uint64 // numbers that never came, or not yet
	duplicates uint64
	restarts   uint64
}

// see takes the next number and reports whether it is the first time that it
// comes. restarted says that the sender is known to count anew if the number is
// not above the last.
func (s *sequence) see(n uint32, restarted bool) bool {
	ahead := int32(n - s.last)
	switch {
	case !s.started:
		s.begin(n)
	case ahead > maxSequenceJump, ahead <= -64, ahead <= 0 && restarted:
		s.restarts++
		s.begin(n)
	case ahead > 0:
		s.missing += uint64(ahead - 1)
		if ahead >= 64 {
			s.seen = 0
		} else {
			s.seen <<= ahead
		}
		s.seen |= 1
		s.last = n
	case s.seen&(1<<-ahead) != 0:
		s.duplicates++
		return false
	default: // late: not missing after all
		s.seen |= 1 << -ahead
		s.missing--
	}
	return true
}

// begin expects numbers from n on. Those before it are nobody's loss.
func (s *sequence) begin(n uint32) { s.last, s.seen, s.started = n, ^uint64(0), true }
