package gnmi

import "sync"

// queue is the backlog of one subscriber: bounded, and when it is full the
// oldest event goes. Events carry a sequence, so the subscriber sees the hole.
// A subscriber that loses more than maxLost without ever catching up has
// failed: then it takes no more.
type queue struct {
	wants   func(*item) bool
	maxLost int
	wake    chan struct{} // has a token when there is something to do
	failed  chan struct{} // closed when the subscriber failed

	mu      sync.Mutex
	items   []*item // circular, grows up to limit
	head, n int
	limit   int
	lost    int  // since it was last empty
	gap     int  // lost since the last pop
	again   bool // it is to look for changes now
	dead    bool
}

func newQueue(limit, maxLost int, wants func(*item) bool) *queue {
	return &queue{wants: wants, limit: limit, maxLost: maxLost, wake: make(chan struct{}, 1), failed: make(chan struct{})}
}

// push adds an event. It returns how many it had to drop for it, and whether
// the subscriber failed just now. It never waits.
func (q *queue) push(it *item) (lost int, failed bool) {
	if !q.wants(it) {
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
		q.items[q.head] = nil
		q.head = (q.head + 1) % len(q.items)
		q.n--
		q.lost++
		q.gap++
		lost = 1
		if q.lost > q.maxLost {
			// What is left will never be sent.
			lost += q.n + 1
			q.dead = true
			q.items, q.head, q.n = nil, 0, 0
			close(q.failed)
			return lost, true
		}
	}
	q.items[(q.head+q.n)%len(q.items)] = it
	q.n++
	q.signal()
	return lost, false
}

// grow doubles the circle: an idle subscriber costs next to nothing.
func (q *queue) grow() {
	items := make([]*item, min(max(2*len(q.items), 16), q.limit))
	for i := range q.n {
		items[i] = q.items[(q.head+i)%len(q.items)]
	}
	q.items, q.head = items, 0
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop takes the oldest event and tells how many were lost just before it; nil
// when there is none, or when the subscriber failed.
func (q *queue) pop() (it *item, gap int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		q.lost = 0
		return nil, 0
	}
	it, gap = q.items[q.head], q.gap
	q.items[q.head], q.gap = nil, 0
	q.head = (q.head + 1) % len(q.items)
	q.n--
	return it, gap
}

// look has the subscriber look for changes now.
func (q *queue) look() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.again = true
	q.signal()
}

// looks reports whether it is to look for changes now, once.
func (q *queue) looks() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := q.again
	q.again = false
	return again
}
