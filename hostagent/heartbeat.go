package hostagent

import (
	"context"
	"maps"
	"time"

	"decaf/api/decafpb"
)

// source is how events are seen, as heartbeats say it.
const source = "tp_btf"

// heartbeats says at once and then at each interval that the agent is alive,
// until ctx is done. before is called ahead of each.
func (a *Agent) heartbeats(ctx context.Context, before func()) {
	tick := time.NewTicker(a.cfg.Heartbeat)
	defer tick.Stop()
	for {
		before()
		a.publishHeartbeat(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *Agent) publishHeartbeat(now time.Time) {
	a.count.add(countHeartbeats, 1)
	a.deps.Publisher.Publish(&decafpb.Heartbeat{
		TimeNs:   uint64(now.UnixNano()),
		Role:     "host",
		Version:  a.deps.Version,
		Counters: a.Counters(),
		Source:   source,
	})
}

// Counters returns all counters: what was seen, sent and left out.
func (a *Agent) Counters() map[string]uint64 {
	out := make(map[string]uint64, len(counted)+8)
	for _, name := range counted {
		out[name] = a.count.get(name)
	}
	out[countLostRing] = a.lostRing.Load()
	out[countFlowLost] = a.lostFlows.Load()
	if a.deps.Counters != nil {
		maps.Copy(out, a.deps.Counters())
	}
	return out
}
