package correlator

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
)

type saveKind int

const (
	saveFinding saveKind = iota
	saveReport
	saveSurvey
	saveSeen // up to when evidence has been looked at
)

type saveKey struct {
	kind saveKind
	id   string
}

// saver holds the latest state of what is to be written to the buckets, so
// that the engine never waits for NATS and a slow NATS costs old states only.
// It is bounded by the findings, reports and surveys held in memory.
type saver struct {
	mu      sync.Mutex
	waiting map[saveKey]proto.Message
	wake    chan struct{}
}

// put queues a state, nil to delete it; m must not change any more.
func (s *saver) put(kind saveKind, id string, m proto.Message) {
	s.mu.Lock()
	if s.waiting == nil {
		s.waiting = make(map[saveKey]proto.Message)
	}
	s.waiting[saveKey{kind, id}] = m
	s.mu.Unlock()
	s.nudge()
}

func (s *saver) takeAll() map[saveKey]proto.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.waiting
	s.waiting = nil
	return m
}

// giveBack queues a state again unless a later one came.
func (s *saver) giveBack(k saveKey, m proto.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = make(map[saveKey]proto.Message)
	}
	if _, ok := s.waiting[k]; !ok {
		s.waiting[k] = m
	}
}

// Times of the saver.
const (
	saveEvery = time.Second     // a finding changes with every packet: write its latest state at this pace
	saveLimit = 5 * time.Second // for one write
	saveAgain = time.Second     // after a write failed
)

// save writes what is queued until ctx is done, and then once more.
func (c *Correlator) save(ctx context.Context) {
	failed := false
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-c.saves.wake:
		}
		if !c.saveAll(context.WithoutCancel(ctx), &failed) {
			select {
			case <-ctx.Done():
			case <-time.After(saveAgain):
				c.saves.nudge()
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(saveEvery):
		}
	}
	c.saveAll(context.WithoutCancel(ctx), &failed)
}

// Flush writes, after Run, what could not be written by its end, until all of it is or
// ctx is done: a correlator that follows has only that to go on with.
func (c *Correlator) Flush(ctx context.Context) {
	failed := true // its last round has told
	for ctx.Err() == nil && !c.saveAll(ctx, &failed) {
		select {
		case <-ctx.Done():
		case <-time.After(saveAgain):
		}
	}
}

// nudge wakes the saver for what was given back.
func (s *saver) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// saveAll writes all that is queued; false when some could not be.
func (c *Correlator) saveAll(ctx context.Context, failed *bool) bool {
	c.mu.Lock()
	b := c.store
	c.mu.Unlock()
	ok := true
	for k, m := range c.saves.takeAll() {
		kv := b.findings
		switch k.kind {
		case saveReport:
			kv = b.reports
		case saveSurvey:
			kv = b.surveys
		case saveSeen:
			kv = b.leases
		}
		if !ok { // NATS is away: do not wait for each
			c.saves.giveBack(k, m)
			continue
		}
		if err := write(ctx, kv, k.id, m); err != nil {
			ok = false
			c.saves.giveBack(k, m)
			if !*failed {
				c.log.Warn("a finding, verdict, survey or how far evidence was looked at is not stored yet; will try again", "id", k.id, "err", err)
			}
		}
	}
	*failed = !ok
	return ok
}

// write stores a record, or deletes what is stored of it where m is nil; on return
// without error that is on disk.
func write(ctx context.Context, kv jetstream.KeyValue, id string, m proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	if m == nil {
		return kv.Purge(ctx, id)
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = kv.Put(ctx, id, data)
	return err
}
