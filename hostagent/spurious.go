package hostagent

import (
	"sync"
	"sync/atomic"

	"decaf/api/decafpb"
)

// votes are the records of retransmits that a word of the other end may still
// take back: it had those segments already (D-SACK, RFC 2883 section 4). The
// kernel only counts such words, so of several segments sent again nobody knows
// which are meant, unless it is all of them: once as many are reported as
// duplicates as were sent again since the connection last stood still, each of
// the records of these is taken back. It knows no clock and no kernel. Safe for
// concurrent use: events come from one side, published records from another.
//
// A receiver does not report every duplicate, and what it is silent about looks
// from here like what was lost, so those votes stay: Linux drops an original that
// comes after its copy without a word while segments before it are missing (by
// its old timestamp, tcp_send_dupack), and where one acknowledgement answers for
// several duplicates (tcp_backlog_ack_defer, tcp_comp_sack_nr) it names one.
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

// connVotes are the records of one connection.
type connVotes struct {
	// What the kernel counted when the connection last stood still: segments
	// sent again, and of these reported as duplicates.
	total, dups uint32
	undone      bool // all up to total
	records     []*vote
}

type vote struct {
	r      *decafpb.Retransmit
	sent   bool // published, so that its origin is known
	undone bool // to be taken back once it is
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
	out := v.heard(c, before, e.dsackDups)
	if r == nil {
		return out
	}
	if v.pending >= v.max {
		v.leftOut.Add(1)
		return out
	}
	v.pending++
	// A look at the socket may have overtaken this event.
	c.records = append(c.records, &vote{r: r, undone: c.undone && int32(c.total-e.totalRetrans) >= 0})
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
	out := v.heard(c, e.totalRetrans, e.dsackDups)
	if !settled {
		return out
	}
	// Those not published yet are kept for what is already known of them.
	kept := c.records[:0]
	for _, one := range c.records {
		if one.undone {
			kept = append(kept, one)
		}
	}
	v.pending -= len(c.records) - len(kept)
	clear(c.records[len(kept):])
	c.records = kept
	c.total, c.dups, c.undone = e.totalRetrans, e.dsackDups, false
	if len(kept) == 0 {
		delete(v.of, e.cookie)
	}
	return out
}

// heard compares what was sent again with what was reported as a duplicate.
func (v *votes) heard(c *connVotes, total, dups uint32) []*decafpb.Retransmit {
	sent, reported := int32(total-c.total), int32(dups-c.dups)
	if sent <= 0 || reported < sent {
		return nil
	}
	c.total, c.dups, c.undone = total, dups, true
	var out []*decafpb.Retransmit
	kept := c.records[:0]
	for _, one := range c.records {
		if one.sent {
			out = append(out, takeBack(one.r))
			continue
		}
		one.undone = true
		kept = append(kept, one)
	}
	v.pending -= len(c.records) - len(kept)
	clear(c.records[len(kept):])
	c.records = kept
	return out
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
	for i, one := range c.records {
		if one.r != r {
			continue
		}
		if !one.undone {
			one.sent = true
			return nil
		}
		c.records = append(c.records[:i], c.records[i+1:]...)
		v.pending--
		return takeBack(r)
	}
	return nil
}

// takeBack is the record that takes r back.
func takeBack(r *decafpb.Retransmit) *decafpb.Retransmit {
	return &decafpb.Retransmit{
		TimeNs: r.GetTimeNs(), Flow: r.GetFlow(), Cookie: r.GetCookie(),
		Undone: true, UndoneSeq: r.GetOrigin().GetSeq(),
	}
}
