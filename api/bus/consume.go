package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"decaf/api/decafpb"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullBatches bounds what is asked of the server ahead of the handler.
	pullBatches = 256
	// pullHeartbeat makes the server say at this interval that a quiet
	// subscription still stands.
	pullHeartbeat = 5 * time.Second
	// forgetAfter is when the server forgets a reader that went away.
	forgetAfter = time.Minute
	againFirst  = 100 * time.Millisecond
	againMost   = 2 * time.Second
)

// ConsumeStats counts what Consume saw.
type ConsumeStats struct {
	Batches     uint64 // handed on
	Records     uint64 // in them
	Duplicates  uint64 // batches seen before
	Undecodable uint64 // batches that are none, or hold a malformed record
	Forged      uint64 // batches with a record that their subject does not allow
	Restarts    uint64 // times the subscription had to be made again
}

type consumeCounters struct {
	batches, records, duplicates, undecodable, forged, restarts atomic.Uint64
}

// ConsumeStats returns the totals over all of this connection's Consumes.
func (c *Conn) ConsumeStats() ConsumeStats {
	n := &c.consumed
	return ConsumeStats{
		n.batches.Load(), n.records.Load(), n.duplicates.Load(),
		n.undecodable.Load(), n.forged.Load(), n.restarts.Load(),
	}
}

// Consume hands every batch stored at or after since (the zero time: every
// one), and then each new one, to h: one at a time, in the order they were
// stored, all record types. It returns nil when ctx is done, and an error only
// when the connection was closed. While the server is away it waits.
//
// Every record that h sees is well formed, of the type its batch's subject
// says, and by the producer that the subject names; batches that are not are
// counted and left out. A batch comes twice only if its copies were stored
// further apart than JetStream and Consume remember, so h should look at each
// record's origin. received_ns of a record that came without one is the time
// its batch was stored, the same at every reading. since is compared with the time a batch was stored, which
// is later than its records' own.
func (c *Conn) Consume(ctx context.Context, since time.Time, h func(*decafpb.Batch)) error {
	pos := position{from: since}
	pause := againFirst
	for first := true; ; first = false {
		if !first {
			c.consumed.restarts.Add(1)
		}
		got, err := c.consumeOnce(ctx, &pos, h)
		if ctx.Err() != nil {
			return nil
		}
		if got {
			pause = againFirst
		}
		if c.Ready() == nil && !errors.Is(err, errNewConnection) {
			level := slog.LevelWarn
			if pause > againFirst { // said before
				level = slog.LevelDebug
			}
			c.log.Log(ctx, level, "reading evidence was interrupted: starting again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.closed:
			return fmt.Errorf("read evidence: %w", c.Ready())
		case <-time.After(pause):
		}
		pause = min(againMost, 2*pause)
		if c.WaitReady(ctx) != nil {
			select {
			case <-c.closed:
				return fmt.Errorf("read evidence: %w", c.Ready())
			default:
				return nil // ctx
			}
		}
	}
}

var errNewConnection = errors.New("the connection was made again")

// consumeOnce reads with one consumer until something breaks the sequence.
// got says whether it read anything.
func (c *Conn) consumeOnce(ctx context.Context, pos *position, h func(*decafpb.Batch)) (got bool, err error) {
	if err := c.WaitReady(ctx); err != nil {
		return false, err
	}
	up := c.nextUp()
	cfg := jetstream.ConsumerConfig{
		Description:       "reader " + c.cfg.Name,
		AckPolicy:         jetstream.AckNonePolicy,
		MaxDeliver:        1,
		InactiveThreshold: forgetAfter,
		MemoryStorage:     true,
		Replicas:          1,
		DeliverPolicy:     jetstream.DeliverAllPolicy,
	}
	if start := pos.start(); !start.IsZero() {
		cfg.DeliverPolicy = jetstream.DeliverByStartTimePolicy
		cfg.OptStartTime = &start
	}
	stream := evidenceStream(c.cfg.Site)
	create, cancel := context.WithTimeout(ctx, requestLimit)
	cons, err := c.js.CreateConsumer(create, stream, cfg)
	cancel()
	if err != nil {
		return false, fmt.Errorf("subscribe to %s: %w", stream, explain(err))
	}
	defer func() {
		// Politeness only: the server forgets it by itself.
		gone, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if c.Ready() == nil {
			c.js.DeleteConsumer(gone, stream, cons.CachedInfo().Name)
		}
	}()
	it, err := cons.Messages(jetstream.PullMaxMessages(pullBatches), jetstream.PullHeartbeat(pullHeartbeat))
	if err != nil {
		return false, fmt.Errorf("read from %s: %w", stream, explain(err))
	}
	// A new connection may be to a server that was restarted and does not
	// know the consumer; waiting for it to say so would take two heartbeats.
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-up:
		case <-ctx.Done():
		case <-c.closed:
		case <-stop:
		}
		it.Stop()
	}()
	defer func() { close(stop); <-stopped }()
	for want := uint64(1); ; want++ {
		m, err := it.Next()
		if err != nil {
			select {
			case <-up:
				return got, errNewConnection
			default:
				return got, fmt.Errorf("read from %s: %w", stream, err)
			}
		}
		meta, err := m.Metadata()
		if err != nil {
			return got, fmt.Errorf("read from %s: %w", stream, err)
		}
		// Without acknowledgements the server sends each message once; one
		// lost on the way shows as a hole in the consumer's sequence.
		if meta.Sequence.Consumer != want {
			return got, fmt.Errorf("read from %s: message %d came where %d was due", stream, meta.Sequence.Consumer, want)
		}
		got = true
		if !pos.pass(m.Headers().Get(nats.MsgIdHdr), meta.Timestamp) {
			c.consumed.duplicates.Add(1)
			continue
		}
		if b := c.accept(m); b != nil {
			setReceived(b, uint64(meta.Timestamp.UnixNano()))
			h(b)
		}
	}
}

// accept decodes and checks a message; nil if it is to be left out.
func (c *Conn) accept(m jetstream.Msg) *decafpb.Batch {
	record, producer, ok := parseSubject(m.Subject(), c.cfg.Site)
	if !ok {
		c.consumed.forged.Add(1)
		return nil
	}
	b, err := c.codec.unpack(m.Data())
	if err != nil {
		if c.consumed.undecodable.Add(1) == 1 {
			c.log.Warn("batch left out: first of its kind, the rest are only counted", "subject", m.Subject(), "error", err)
		}
		return nil
	}
	if err := speaksFor(b, record, producer); err != nil {
		if c.consumed.forged.Add(1) == 1 {
			c.log.Warn("batch left out: first of its kind, the rest are only counted", "subject", m.Subject(), "error", err)
		}
		return nil
	}
	records := 0
	eachRecord(b, func(int, evidence) bool { records++; return true })
	c.consumed.batches.Add(1)
	c.consumed.records.Add(uint64(records))
	return b
}
