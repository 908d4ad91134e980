package correlator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"decaf/api/decafpb"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
)

// While no correlator runs, hosts' evidence is stored all the same. How far it has been
// looked at is kept beside the findings, so that the next run looks at the rest.

// seenKey is where in the bucket of leases the time is, as a heartbeat of the
// correlator's: whoever does the looking signs it.
const seenKey = "correlator"

// seenEvery is how often it is written: a crash costs a look at so much more.
const seenEvery = 5 * time.Second

// noteSeen queues that all that was received until now has been looked at; not while
// what came late is still to be.
func (c *Correlator) noteSeen(now int64, last bool) {
	if c.engine.late.looksFrom() != 0 || !last && now-c.seen < int64(seenEvery) {
		return
	}
	c.seen = now
	c.saves.put(saveSeen, seenKey, &decafpb.Heartbeat{TimeNs: uint64(now), Role: "correlator"})
}

// unseen tells the engine from when on nobody has looked.
func (c *Correlator) unseen(ctx context.Context, kv jetstream.KeyValue) error {
	var h decafpb.Heartbeat
	switch e, err := kv.Get(ctx, seenKey); {
	case errors.Is(err, jetstream.ErrKeyNotFound): // all of it
	case err != nil:
		return fmt.Errorf("correlator: read how far evidence was looked at: %w", err)
	default:
		if err := proto.Unmarshal(e.Value(), &h); err != nil {
			c.log.Error("how far evidence was looked at cannot be read: all that is held is looked at", "bucket", e.Bucket(), "key", e.Key(), "err", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	since, held := int64(h.GetTimeNs()), c.now().UnixNano()-c.cfg.Engine.Limits.Retention
	if since != 0 && since < held {
		c.log.Warn("no correlator ran for longer than evidence is looked at: what came before is left out", "stopped", time.Unix(0, since).UTC(), "from", time.Unix(0, held).UTC())
	}
	c.engine.Unseen(since)
	return nil
}
