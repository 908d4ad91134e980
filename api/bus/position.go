package bus

import "time"

const (
	// overlap is how far before the last batch a reader starts again. More
	// than a server that died can have lost (syncInterval), so that batches
	// which took the stream sequences of lost ones are read all the same.
	overlap = 10 * time.Second
	// maxRemembered bounds the batch ids a position remembers.
	maxRemembered = 1 << 17
)

// position is where a reader of the stream is. It goes by the stream's clock,
// not by its sequence numbers: a server that died comes back without its
// newest batches and gives their numbers to others.
type position struct {
	from time.Time // where to start when nothing was read yet; zero: at the beginning
	last time.Time // the stream's time of the newest batch read

	seen  map[string]struct{}
	order []seenBatch // by time, oldest first
}

type seenBatch struct {
	id string
	at time.Time
}

// start is the stream time to read from; the zero time: from the beginning.
func (p *position) start() time.Time {
	if p.last.IsZero() {
		return p.from
	}
	t := p.last.Add(-overlap)
	if t.Before(p.from) {
		return p.from
	}
	return t
}

// pass notes a batch read and says whether it is new. A batch without an id
// always is.
func (p *position) pass(id string, at time.Time) bool {
	if at.After(p.last) {
		p.last = at
	}
	if id == "" {
		return true
	}
	if _, ok := p.seen[id]; ok {
		return false
	}
	if p.seen == nil {
		p.seen = make(map[string]struct{})
	}
	p.seen[id] = struct{}{}
	p.order = append(p.order, seenBatch{id, at})
	n := 0
	for n < len(p.order) && (len(p.order)-n > maxRemembered || p.last.Sub(p.order[n].at) > 2*overlap) {
		delete(p.seen, p.order[n].id)
		n++
	}
	if n > 0 {
		clear(p.order[:n])
		p.order = p.order[n:]
	}
	return true
}
