package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Buckets of EnsureStreams.
const (
	BucketTopology    = "topology"
	BucketAgentConfig = "agent_config"
	BucketReports     = "reports"
	BucketFindings    = "findings"
	BucketLeases      = "leases"
)

// duplicateWindow is how long JetStream remembers batch ids. Its memory grows
// with the rate of batches, so not for ever; records name themselves for ever.
const duplicateWindow = 2 * time.Minute

// buckets bounds each KV bucket. A full bucket refuses writes with an error:
// what it holds was acknowledged and is not thrown away for something newer.
var buckets = []struct {
	name  string
	about string
	bytes int64
}{
	{BucketTopology, "devices, hosts and links by site", 16 * mib},
	{BucketAgentConfig, "settings by agent", 16 * mib},
	{BucketReports, "fault reports and their verdicts by id", 64 * mib},
	{BucketFindings, "findings by id", 256 * mib},
	{BucketLeases, "who does what only one may do", 1 * mib},
}

func bucketsBytes() (sum int64) {
	for _, b := range buckets {
		sum += b.bytes
	}
	return sum
}

// evidenceStream is the name of the stream all evidence of a site is in.
func evidenceStream(site string) string { return "evidence_" + site }

// EnsureStreams makes the evidence stream and the KV buckets, or brings those
// that exist to these settings. It needs the in-process connection or RoleAdmin.
//
// Evidence is acknowledged before it is on disk and synced within 2 s, and the
// oldest makes room for the newest; everything in the buckets is on disk
// before it is acknowledged. On a NATS server of its own that takes sync:
// always in its configuration, since only evidence can be told apart there.
func (c *Conn) EnsureStreams(ctx context.Context) error {
	window := min(duplicateWindow, c.maxAge)
	_, err := c.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:        evidenceStream(c.cfg.Site),
		Description: "evidence of site " + c.cfg.Site,
		Subjects:    []string{Subject(c.cfg.Site, "*", "*")},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxBytes:    c.maxBytes,
		MaxAge:      c.maxAge,
		MaxMsgSize:  maxBatchBytes,
		Duplicates:  window,
		Replicas:    1,
		PersistMode: jetstream.AsyncPersistMode,
	})
	if err != nil {
		return fmt.Errorf("make evidence stream: %w", explain(err))
	}
	for _, b := range buckets {
		cfg := jetstream.KeyValueConfig{
			Bucket:       b.name,
			Description:  b.about,
			MaxValueSize: maxBatchBytes,
			History:      1,
			MaxBytes:     b.bytes,
			Storage:      jetstream.FileStorage,
			Replicas:     1,
		}
		if b.name == BucketLeases {
			// Lets a lease carry its own time to live, with a marker that
			// tells watchers of its end.
			cfg.LimitMarkerTTL = time.Minute
		}
		if _, err := c.js.CreateOrUpdateKeyValue(ctx, cfg); err != nil {
			return fmt.Errorf("make bucket %s: %w", b.name, explain(err))
		}
	}
	return nil
}

// KV returns a bucket made by EnsureStreams. It asks the server for it, and
// gives up after 5 s.
func (c *Conn) KV(bucket string) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	kv, err := c.js.KeyValue(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, fmt.Errorf("bucket %s does not exist: has the correlator been started with this NATS server?", bucket)
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", bucket, explain(err))
	}
	return kv, nil
}

// explain adds what to do to errors whose own words do not say it.
func explain(err error) error {
	switch {
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting):
		return errors.New("NATS cannot be reached now")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: NATS did not answer in time: is it running, and may this connection do this?", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: enable jetstream in the NATS server's configuration", err)
	}
	return err
}
