package correlator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"decaf/api/bus"
	"decaf/api/decafpb"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
)

// Tries of restore while NATS can be reached.
const (
	restoreTries = 3 // NATS that has just come back may still refuse
	restoreAgain = time.Second
)

// takeUp restores, and waits for as long as NATS is away; nil once ctx is done.
func (c *Correlator) takeUp(ctx context.Context) error {
	for tries := 1; ; tries++ {
		if err := c.conn.WaitReady(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("correlator: %w", err)
		}
		err := c.restore(ctx)
		switch {
		case err == nil, ctx.Err() != nil:
			return nil
		case c.conn.Ready() != nil || errors.Is(err, context.DeadlineExceeded):
			tries = 0
		case tries == restoreTries:
			return err
		}
		c.log.Warn("findings and reports cannot be read yet; will try again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(restoreAgain):
		}
	}
}

// restore opens the buckets and takes up findings, reports and surveys of earlier runs.
func (c *Correlator) restore(ctx context.Context) error {
	var b buckets
	for _, one := range []struct {
		what, name string
		kv         *jetstream.KeyValue
	}{
		{"findings", bus.BucketFindings, &b.findings}, {"reports", bus.BucketReports, &b.reports},
		{"leases", bus.BucketLeases, &b.leases}, {"surveys", bus.BucketTopology, &b.surveys},
	} {
		var err error
		if *one.kv, err = c.conn.KV(one.name); err != nil {
			return fmt.Errorf("correlator: %s: %w", one.what, err)
		}
	}
	if err := c.unseen(ctx, b.leases); err != nil {
		return err
	}
	surveys, err := recordsOf[decafpb.Survey](ctx, b.surveys, c.log)
	if err != nil {
		return fmt.Errorf("correlator: read surveys: %w", err)
	}
	findings, err := recordsOf[decafpb.Finding](ctx, b.findings, c.log)
	if err != nil {
		return fmt.Errorf("correlator: read findings: %w", err)
	}
	reports, err := recordsOf[decafpb.FaultReport](ctx, b.reports, c.log)
	if err != nil {
		return fmt.Errorf("correlator: read reports: %w", err)
	}
	sortBy(findings, (*decafpb.Finding).GetFromNs)
	sortBy(reports, (*decafpb.FaultReport).GetFiledNs)

	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range findings {
		if f.GetId() != "" {
			c.end(f)
			c.engine.Restore(f)
		}
	}
	for _, r := range reports {
		if r.GetId() != "" {
			c.hold(r)
		}
	}
	c.restoreSurveys(surveys, c.now().UnixNano())
	c.store = b
	return nil
}

// end ends an open finding of what a topology that was learned anew does not have. One
// that nothing is known of yet says nothing of what there is.
func (c *Correlator) end(f *decafpb.Finding) {
	if c.surveys.claims == nil || len(c.cfg.Topology.Links) == 0 || f.GetResolvedNs() != 0 {
		return
	}
	if _, ok := parseComponent(c.cfg.Topology, f.GetComponent()); ok {
		return
	}
	f.ResolvedNs = uint64(c.now().UnixNano())
	if f.Evidence == nil {
		f.Evidence = &decafpb.Evidence{}
	}
	f.Evidence.Reasons = append(f.Evidence.Reasons, "ended: the topology was learned anew, and has no such component any more")
	c.saves.put(saveFinding, f.GetId(), f)
}

// recordsOf reads every value of a bucket; one that cannot be read is logged and passed
// over: one broken record must not stop the rest.
func recordsOf[T any, M interface {
	*T
	proto.Message
}](ctx context.Context, kv jetstream.KeyValue, log *slog.Logger) (list []M, err error) {
	w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return nil, errors.New("the watch ended early")
			}
			if e == nil {
				return list, nil // all that there was
			}
			m := M(new(T))
			if err := proto.Unmarshal(e.Value(), m); err != nil {
				log.Error("a stored record cannot be read and is passed over", "bucket", e.Bucket(), "key", e.Key(), "err", err)
				continue
			}
			list = append(list, m)
		}
	}
}
