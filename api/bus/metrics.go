package bus

import (
	"fmt"
	"io"

	"github.com/VictoriaMetrics/metrics"
)

// RegisterMetrics adds the publisher's counters to set, labelled with its
// producer. Once per publisher; they stay after Close.
func (p *Publisher) RegisterMetrics(set *metrics.Set) {
	set.RegisterMetricsWriter(func(w io.Writer) {
		s := p.Stats()
		label := fmt.Sprintf("{producer=%q}", p.producer)
		metrics.WriteCounterUint64(w, "decaf_publisher_records_total"+label, s.Records)
		metrics.WriteCounterUint64(w, "decaf_publisher_stored_records_total"+label, s.Stored)
		metrics.WriteCounterUint64(w, "decaf_publisher_left_out_records_total"+label, s.LeftOut)
		metrics.WriteCounterUint64(w, "decaf_publisher_rejected_records_total"+label, s.Rejected)
		metrics.WriteCounterUint64(w, "decaf_publisher_merged_records_total"+label, s.Merged)
		metrics.WriteGaugeUint64(w, "decaf_publisher_waiting_records"+label, s.Waiting)
		metrics.WriteCounterUint64(w, "decaf_publisher_batches_total"+label, s.Batches)
		metrics.WriteCounterUint64(w, "decaf_publisher_resent_batches_total"+label, s.Resent)
		metrics.WriteCounterUint64(w, "decaf_publisher_stored_bytes_total"+label, s.Bytes)
	})
}

// RegisterMetrics adds what Consume counts and whether NATS can be reached to
// set. Once per connection; they stay after Close.
func (c *Conn) RegisterMetrics(set *metrics.Set) {
	set.RegisterMetricsWriter(func(w io.Writer) {
		up := uint64(0)
		if c.Ready() == nil {
			up = 1
		}
		metrics.WriteGaugeUint64(w, "decaf_nats_up", up)
		s := c.ConsumeStats()
		metrics.WriteCounterUint64(w, "decaf_consumed_batches_total", s.Batches)
		metrics.WriteCounterUint64(w, "decaf_consumed_records_total", s.Records)
		metrics.WriteCounterUint64(w, "decaf_consumed_duplicate_batches_total", s.Duplicates)
		metrics.WriteCounterUint64(w, "decaf_consumed_undecodable_batches_total", s.Undecodable)
		metrics.WriteCounterUint64(w, "decaf_consumed_forged_batches_total", s.Forged)
		metrics.WriteCounterUint64(w, "decaf_consumer_restarts_total", s.Restarts)
	})
}
