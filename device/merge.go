package device

import (
	"context"
	"sync"
	"time"
)

const (
	// Two sources tell of one packet within this; a busy agent reads late.
	mergeWindow = 100 * time.Millisecond
	// A drop waits this long for the name of its rule, which the kernel sends
	// first but another goroutine reads.
	mergePatience = 5 * time.Millisecond
	// maxSightings bounds what is remembered, some 40 MB at most.
	maxSightings = 1 << 16
)

// merge is the [duplicates] of several sources that run at the same time.
type merge struct {
	mu     sync.Mutex
	d      *duplicates
	sooner chan struct{} // something is held where nothing was
}

// newMerge gives events on to give, one call at a time.
func newMerge(give func(observed)) *merge {
	return &merge{d: newDuplicates(mergeWindow, mergePatience, maxSightings, give), sooner: make(chan struct{}, 1)}
}

// take takes an event of one of the sources in.
func (m *merge) take(source uint8, o observed, p part) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.d.take(time.Now(), source, o, p)
	if p == waits {
		select {
		case m.sooner <- struct{}{}:
		default:
		}
	}
}

// run gives on what was held long enough, until ctx ends, then all that is
// held: end it after the sources.
func (m *merge) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			m.d.flush()
			return
		case <-m.sooner:
		case <-timer.C:
		}
		if wait, held := m.due(); held {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// due gives on what is due and says how long until there is more.
func (m *merge) due() (wait time.Duration, held bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.d.due(now)
	at, held := m.d.next()
	return at.Sub(now), held
}

// counts: sightings of a packet that another source told of too, names without
// a drop, and sightings forgotten early for want of room.
func (m *merge) counts() (merged, alone, crowded uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.d.merged, m.d.alone, m.d.crowded
}
