package correlator

import (
	"io"

	"github.com/VictoriaMetrics/metrics"
)

// RegisterMetrics adds what came in, what was left out and what is open to set.
// Once per correlator.
func (c *Correlator) RegisterMetrics(set *metrics.Set) {
	set.RegisterMetricsWriter(func(w io.Writer) {
		s := c.Stats()
		for _, m := range []struct {
			name  string
			value uint64
		}{
			{"decaf_retransmits_total", s.Retransmits},
			{"decaf_drops_total", s.Drops},
			{"decaf_undone_total", s.Undone},
			{"decaf_undone_unknown_total", s.UndoneUnknown},
			{"decaf_duplicate_records_total", s.Duplicates},
			{"decaf_invalid_records_total", s.Invalid},
			{"decaf_aggregates_total", s.Aggregates},
			{"decaf_drops_told_by_aggregates_total", s.Suppressed},
			{"decaf_anomalies_total", s.Anomalies},
			{"decaf_route_events_total", s.Routes},
			{`decaf_evicted_total{what="flaps"}`, s.EvictedFlaps},
			{"decaf_probe_drops_total", s.ProbeDrops},
			{"decaf_probe_drops_withdrawn_total", s.ProbesWithdrawn},
			{"decaf_icmp_error_drops_total", s.ICMPErrors},
			{`decaf_evicted_total{what="flows"}`, s.EvictedFlows},
			{`decaf_evicted_total{what="drops"}`, s.EvictedDrops},
			{`decaf_evicted_total{what="streams"}`, s.EvictedStreams},
			{`decaf_evicted_total{what="undone"}`, s.EvictedUndone},
			{`decaf_evicted_total{what="traffic"}`, s.EvictedTraffic},
			{"decaf_traffic_rows_total", s.Traffic},
			{`decaf_evicted_total{what="connections"}`, s.EvictedConnections},
			{"decaf_connection_records_total", s.Connections},
			{"decaf_flow_records_unused_total", s.FlowsOther},
			{"decaf_table_records_total", s.Table.records + s.Services.records},
			{`decaf_evicted_total{what="table_connections"}`, s.Table.forgotten},
			{`decaf_evicted_total{what="table_services"}`, s.Services.forgotten},
			{"decaf_late_records_total", s.Late.Records},
			{"decaf_late_records_too_old_total", s.Late.TooOld},
			{"decaf_late_looks_total", s.Late.Looks},
			{"decaf_late_findings_total", s.Late.Findings},
			{"decaf_late_findings_known_total", s.Late.Known},
			{"decaf_tallies_total", c.steps.Load()},
		} {
			metrics.WriteCounterUint64(w, m.name, m.value)
		}
		metrics.WriteGaugeUint64(w, "decaf_lossy_flows_held", uint64(s.Flows))
		metrics.WriteGaugeUint64(w, "decaf_drops_held", uint64(s.DropsHeld))
		metrics.WriteGaugeUint64(w, "decaf_traffic_rows_held", uint64(s.TrafficHeld))
		metrics.WriteGaugeUint64(w, "decaf_table_connections_held", uint64(s.Table.held))
		metrics.WriteGaugeUint64(w, "decaf_table_bytes", uint64(s.Table.heldBytes+s.Services.heldBytes))
		metrics.WriteGaugeUint64(w, "decaf_findings_open", uint64(c.openFindings()))
	})
}

func (c *Correlator) openFindings() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, f := range c.engine.Findings() {
		if f.GetResolvedNs() == 0 {
			n++
		}
	}
	return n
}
