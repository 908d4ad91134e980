package bench

import (
	"context"
	"time"
)

// churnRate is the connections a second that are opened and closed: above the
// 50,000 a minute that an agent is to stand.
const churnRate = 1000

// churn opens and closes connections on the host, and asks the agent how many
// there were.
func (h *hostRun) churn(ctx context.Context) error {
	undo, err := timed()
	if err != nil {
		return err
	}
	defer undo()
	agent, err := h.startAgent(ctx)
	if err != nil {
		return err
	}
	defer agent.stop()
	before, err := h.usage(agent)
	if err != nil {
		return err
	}
	begin := time.Now()
	e, err := h.exchange(ctx, h.Churn, 1, churnRate)
	if err != nil {
		return err
	}
	took := time.Since(begin).Seconds()
	after, err := h.usage(agent)
	if err != nil {
		return err
	}
	process, programs := h.spent(before, after)
	// What its tables counted shows at the ends of their intervals.
	const ended = "table_connections_ended"
	if _, err := until(ctx, h.tables+10*time.Second, func() (bool, error) {
		now, err := agent.counters()
		if err == nil {
			after.counters = now
		}
		return rose(before, after, ended) >= float64(e.made), err
	}); err != nil {
		return err
	}
	h.result("churn_connections_per_s", float64(e.made)/took, "1/s", "opened, used and closed at the host")
	h.result("churn_connections", float64(e.made), "", "of them in all")
	h.result("churn_opened_counted", rose(before, after, "table_connections_opened"), "", "that the agent's tables saw opened")
	h.result("churn_ended_counted", rose(before, after, ended), "", "that they saw ended")
	h.result("churn_unlisted", rose(before, after, "table_closed_left_out"), "", "of these in sums only: more than tables.max_records in an interval")
	h.result("churn_evicted", rose(before, after, "flows_evicted"), "", "that made room for others while they were open")
	h.result("churn_lost_ring", rose(before, after, "flow_samples_lost_ring"), "", "whose end found the ring full")
	h.result("churn_agent_cpu_pct", process+programs, "% of a core", "the agent's process and programs meanwhile")
	return ctx.Err()
}
