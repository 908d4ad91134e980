package gnmi

import (
	"slices"
	"sync"
)

// queue is the backlog of one subscriber: bounded, and when it is full the
// oldest event goes. Events carry a sequence, so the subscriber sees the hole.
// A subscriber that loses more than maxLost without ever catching up has
// failed: then it takes no more.
type queue struct {
	// wants tells whether an event, or some of it, is for the subscriber, and
	// whether all of it is.
	wants   func(*item) (some, whole bool)
	maxLost int
	wake    chan struct{} // has a token when there is something to do
	hurry   chan struct{} // has a token when half of it was full since it last had one
	failed  chan struct{} // closed when the subscriber failed

	joined uint64 // number of the newest event when it was put in line

	mu      sync.Mutex
	before  []*item  // that the subscriber is to have first
	items   []queued // circular, grows up to limit
	head, n int
	limit   int
	lost    int  // since it was last empty
	gap     int  // lost since the last pop
	again   bool // it is to look for changes now
	dead    bool
}

// queued is one event in it.
type queued struct {
	*item      // nil: none
	whole bool // all of it is for the subscriber
	gap   int  // events lost just before it
}

func newQueue(limit, maxLost int, wants func(*item) (some, whole bool)) *queue {
	return &queue{wants: wants, limit: limit, maxLost: maxLost,
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), failed: make(chan struct{})}
}

// push adds an event. It returns how many it had to drop for it, and whether
// the subscriber failed just now. It never waits.
func (q *queue) push(it *item) (lost int, failed bool) {
	some, whole := q.wants(it)
	if !some {
		return 0, false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead {
		return 1, false
	}
	switch {
	case q.n < len(q.items):
	case len(q.items) < q.limit:
		q.grow()
	default:
		q.items[q.head] = queued{}
		q.head = (q.head + 1) % len(q.items)
		q.n--
		q.lost++
		q.gap++
		lost = 1
		if more, failed := q.fail(); failed {
			return lost + more + 1, true
		}
	}
	q.items[(q.head+q.n)%len(q.items)] = queued{item: it, whole: whole}
	q.n++
	signal(q.wake)
	if q.n > q.limit/2 {
		signal(q.hurry)
	}
	return lost, false
}

// fail ends the queue when it lost too much. What is left will never be sent: it
// returns how many that are.
func (q *queue) fail() (left int, failed bool) {
	if q.lost <= q.maxLost {
		return 0, false
	}
	left = q.n + len(q.before)
	q.dead = true
	q.before, q.items, q.head, q.n = nil, nil, 0, 0
	close(q.failed)
	return left, true
}

// expire drops those events that at least so many came after in their lists, and
// returns what push does. It is called while none are published.
func (q *queue) expire(keep uint64) (lost int, failed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead {
		return 0, false
	}
	before := len(q.before) + q.n
	q.before = slices.DeleteFunc(q.before, func(it *item) bool { return it.since() >= keep })
	kept := 0
	for i := range q.n {
		from := &q.items[(q.head+i)%len(q.items)]
		e := *from
		*from = queued{}
		if e.since() < keep {
			q.items[(q.head+kept)%len(q.items)] = e
			kept++
		}
	}
	q.n = kept
	lost = before - len(q.before) - q.n
	q.lost += lost
	q.gap += lost
	left, failed := q.fail()
	return lost + left, failed
}

// come puts events before all others; there are none before them any more.
func (q *queue) come(items []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.dead {
		q.before = items
	}
}

// first takes the oldest of the events that were put before all others; without
// an item when there is none left.
func (q *queue) first() queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.before) == 0 {
		q.before = nil
		return queued{}
	}
	out := queued{item: q.before[0], gap: q.gap}
	q.before[0], q.gap = nil, 0
	q.before = q.before[1:]
	return out
}

// grow doubles the circle: an idle subscriber costs next to nothing.
func (q *queue) grow() {
	items := make([]queued, min(max(2*len(q.items), 16), q.limit))
	for i := range q.n {
		items[i] = q.items[(q.head+i)%len(q.items)]
	}
	q.items, q.head = items, 0
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pop takes the oldest event; without an item when there is none, or when the
// subscriber failed.
func (q *queue) pop() queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		q.lost = 0
		return queued{}
	}
	out := q.items[q.head]
	out.gap = q.gap
	q.items[q.head], q.gap = queued{}, 0
	q.head = (q.head + 1) % len(q.items)
	q.n--
	return out
}

// look has the subscriber look for changes now.
func (q *queue) look() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.again = true
	signal(q.wake)
}

// looks reports whether it is to look for changes now, once.
func (q *queue) looks() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := q.again
	q.again = false
	return again
}
