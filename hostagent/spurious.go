package hostagent

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"decaf/api/decafpb"
)

// votes are the records of retransmits that a word of the other end may still
// take back: it had those segments already. There are three such words.
//
//   - It reports what it had (D-SACK, RFC 2883 section 4), by sequence numbers. Of
//     each byte one copy is needed, so each report takes back one, from the latest
//     on. A record of several segments is taken back once all of them are reported.
//   - The timestamp it echoes is of a packet sent before the copy (RFC 3522): the
//     acknowledgement that moves the left edge of the window echoes who moved it
//     (RFC 7323 section 4.3), so this holds for the segment at that edge alone.
//     Two copies sent in the same tick of the timestamps' clock look the same.
//   - The kernel counts as many duplicates as were sent again since the connection
//     last stood still: then all of them were. That is for connections that do not
//     receive as established ones any more (of which no tracepoint shows packets),
//     and for kernels and sources that show none.
//
// That the kernel itself takes a reduction of its window back (TCPFullUndo,
// TCPLossUndo, F-RTO) is no such word: it speaks of an episode of recovery, in
// which some segments may well have been lost, and goes by the same two.
//
// A receiver does not report every duplicate, and what it is silent about looks
// from here like what was lost, so those votes stay: Linux drops an original that
// comes after its copy without a word while segments before it are missing (by
// its old timestamp, tcp_send_dupack), and where one acknowledgement answers for
// several duplicates (tcp_backlog_ack_defer, tcp_comp_sack_nr) it names one, or
// those beside it. Nor does a lost report come again.
//
// It knows no clock and no kernel. Safe for concurrent use: events come from one
// side, published records from another.
type votes struct {
	mu      sync.Mutex
	of      map[uint64]*connVotes // by socket cookie
	pending int
	max     int
	// leftOut counts records that found no place: only the last word on their
	// connection takes them back.
	leftOut atomic.Uint64
}

// maxVotes bounds the records that wait, some seconds each.
const maxVotes = 65536

// maxReported bounds the parts of one record that are reported apart from each
// other: its segments are no more.
const maxReported = 64

// connVotes are the records of one connection.
type connVotes struct {
	// What the kernel counted when the connection last stood still: segments
	// sent again, and of these reported as duplicates.
	total, dups uint32
	undone      bool // all up to total
	// Since then: segments of records taken back by other words than this count, and
	// duplicates reported by sequence numbers, which it holds too.
	taken, ranged uint32
	records       []*vote
}

// vote is one record, from when its segments were sent again until no more is
// to be expected of them.
type vote struct {
	r        *decafpb.Retransmit
	segments uint32
	ts       uint32 // the timestamp it was sent with
	reported ranges // of what it holds: from r.TcpSeq to r.TcpEndSeq
	sent     bool   // published, so that its origin is known
	undone   bool   // to be taken back once it is
	told     bool   // taken back
	settled  bool   // kept for its publication alone
}

func newVotes() *votes { return &votes{of: make(map[uint64]*connVotes), max: maxVotes} }

// sentAgain takes a retransmit, ahead of the publication of its record r, nil
// where there will be none. What it returns is to be published.
func (v *votes) sentAgain(e *event, r *decafpb.Retransmit) []*decafpb.Retransmit {
	if e.cookie == 0 || e.totalRetrans == 0 {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	before := e.totalRetrans - e.segments
	c := v.of[e.cookie]
	if c == nil {
		if r == nil {
			return nil
		}
		if v.pending >= v.max {
			v.leftOut.Add(1)
			return nil
		}
		c = &connVotes{total: before, dups: e.dsackDups}
		v.of[e.cookie] = c
	}
	out := c.counted(before, e.dsackDups)
	if r == nil {
		return out
	}
	if v.pending >= v.max {
		v.leftOut.Add(1)
		return out
	}
	v.pending++
	c.records = append(c.records, &vote{
		r: r, segments: e.segments, ts: e.ts,
		// A look at the socket may have overtaken this event.
		undone: c.undone && int32(c.total-e.totalRetrans) >= 0,
	})
	return out
}

// looked takes what the kernel counts of a connection at some later time;
// settled says that no more is to be expected. What it returns is to be
// published.
func (v *votes) looked(e *event, settled bool) []*decafpb.Retransmit {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.of[e.cookie]
	if c == nil {
		return nil
	}
	out := c.counted(e.totalRetrans, e.dsackDups)
	if !settled {
		return out
	}
	c.total, c.dups, c.undone, c.taken, c.ranged = e.totalRetrans, e.dsackDups, false, 0, 0
	for _, one := range c.records {
		one.settled = true
	}
	// Those not published yet are kept for what is already known of them.
	v.forget(e.cookie, c, func(one *vote) bool { return !one.undone || one.told })
	return out
}

// reported takes the other end's word that it had a part of what was sent
// already. What it returns is to be published.
func (v *votes) reported(e *event) []*decafpb.Retransmit {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.of[e.cookie]
	if c == nil {
		return nil
	}
	// Of each byte the latest copy of which that was not said yet.
	left := ranges{{e.seq, e.endSeq}}
	segment := e.endSeq - e.seq // bytes
	for _, one := range slices.Backward(c.records) {
		if one.settled {
			continue
		}
		from, to := one.r.GetTcpSeq(), one.r.GetTcpEndSeq()
		var more ranges
		for _, s := range left {
			if s = s.within(from, to); s.from != s.to {
				more = append(more, ranges{s}.without(one.reported)...)
			}
		}
		if len(more) == 0 {
			continue
		}
		segment = min(segment, max(1, (to-from)/max(1, one.segments)))
		joined := slices.Clone(one.reported).with(more, from)
		if len(joined) > maxReported {
			continue
		}
		one.reported = joined
		left = left.without(more)
		if one.reported.length() == to-from {
			c.take(one)
		}
	}
	c.ranged += (e.endSeq - e.seq + segment - 1) / max(1, segment)
	return c.tell()
}

// echoed takes that e.seq, where the other end's window began, is acknowledged
// by an echo of the timestamp e.ts. What it returns is to be published.
func (v *votes) echoed(e *event) []*decafpb.Retransmit {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.of[e.cookie]
	if c == nil {
		return nil
	}
	for _, one := range c.records {
		from, to := one.r.GetTcpSeq(), one.r.GetTcpEndSeq()
		if !one.settled && one.segments == 1 && e.seq-from < to-from && int32(e.ts-one.ts) < 0 {
			c.take(one)
		}
	}
	return c.tell()
}

// take has a record taken back.
func (c *connVotes) take(one *vote) {
	if !one.undone {
		one.undone = true
		c.taken += one.segments
	}
}

// counted compares what was sent again with what was reported as a duplicate,
// both but for what is known of by sequence numbers: a report that comes late, of
// what was sent again long ago, takes nothing else back.
func (c *connVotes) counted(total, dups uint32) []*decafpb.Retransmit {
	sent, reported := int32(total-c.total), int32(dups-c.dups)
	sent -= int32(c.taken)
	reported -= int32(c.ranged)
	if sent <= 0 || reported < sent {
		return nil
	}
	c.total, c.dups, c.undone, c.taken, c.ranged = total, dups, true, 0, 0
	for _, one := range c.records {
		one.undone = true
	}
	return c.tell()
}

// tell takes back what can be.
func (c *connVotes) tell() (out []*decafpb.Retransmit) {
	for _, one := range c.records {
		if one.undone && one.sent && !one.told {
			one.told = true
			out = append(out, takeBack(one.r))
		}
	}
	return out
}

// forget drops records of a connection, and this itself with the last of them.
func (v *votes) forget(cookie uint64, c *connVotes, drop func(*vote) bool) {
	before := len(c.records)
	c.records = slices.DeleteFunc(c.records, drop)
	v.pending -= before - len(c.records)
	if len(c.records) == 0 {
		delete(v.of, cookie)
	}
}

// published says that r was, and so has its origin. What it returns is to be
// published as well.
func (v *votes) published(r *decafpb.Retransmit) *decafpb.Retransmit {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.of[r.GetCookie()]
	if c == nil {
		return nil
	}
	i := slices.IndexFunc(c.records, func(one *vote) bool { return one.r == r })
	if i < 0 {
		return nil
	}
	one := c.records[i]
	one.sent = true
	if !one.undone {
		return nil
	}
	one.told = true
	if one.settled {
		v.forget(r.GetCookie(), c, func(other *vote) bool { return other == one })
	}
	return takeBack(r)
}

// takeBack is the record that takes r back.
func takeBack(r *decafpb.Retransmit) *decafpb.Retransmit {
	return &decafpb.Retransmit{
		TimeNs: r.GetTimeNs(), Flow: r.GetFlow(), Cookie: r.GetCookie(),
		Undone: true, UndoneSeq: r.GetOrigin().GetSeq(),
	}
}

// seqRange is a part of what a connection sends, up to where it ends. Sequence
// numbers wrap, so parts are compared by their distance.
type seqRange struct{ from, to uint32 }

// ranges do not overlap.
type ranges []seqRange

// within is what of s lies between two sequence numbers; it may be empty.
func (s seqRange) within(from, to uint32) seqRange {
	if int32(s.from-from) < 0 {
		s.from = from
	}
	if int32(s.to-to) > 0 {
		s.to = to
	}
	if int32(s.to-s.from) < 0 {
		s.to = s.from
	}
	return s
}

// without is what is left of s beside others.
func (s ranges) without(others ranges) ranges {
	for _, o := range others {
		var left ranges
		for _, one := range s {
			in := one.within(o.from, o.to)
			if in.from == in.to {
				in = seqRange{one.to, one.to} // nothing of it
			}
			for _, rest := range [...]seqRange{{one.from, in.from}, {in.to, one.to}} {
				if rest.from != rest.to {
					left = append(left, rest)
				}
			}
		}
		s = left
	}
	return s
}

// with adds others that do not overlap s, of which all lie behind start, and joins
// those that touch.
func (s ranges) with(others ranges, start uint32) ranges {
	s = append(s, others...)
	slices.SortFunc(s, func(a, b seqRange) int { return cmp.Compare(a.from-start, b.from-start) })
	out := s[:0]
	for _, one := range s {
		if n := len(out); n > 0 && out[n-1].to == one.from {
			out[n-1].to = one.to
			continue
		}
		out = append(out, one)
	}
	return out
}

// length is how many bytes they hold.
func (s ranges) length() (n uint32) {
	for _, one := range s {
		n += one.to - one.from
	}
	return n
}
