package hostagent

import (
	"context"
	"maps"
	"time"

	"decaf/api/decafpb"
)

// Bounds on the interval of heartbeats. An agent is taken for silent after three
// of them: longer ones would leave a host unseen for the whole time that findings
// are made of, 30 s.
const (
	minHeartbeat = 100 * time.Millisecond
	maxHeartbeat = 10 * time.Second
)

// heartbeats says at once and then at each interval that the agent is alive,
// until ctx is done. before is called ahead of each.
func (a *Agent) heartbeats(ctx context.Context, before func()) {
	tick := time.NewTicker(a.cfg.Heartbeat)
	defer tick.Stop()
	for {
		before()
		a.publishHeartbeat(time.Now())
		if a.remote != nil {
			a.remote.wake()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *Agent) publishHeartbeat(now time.Time) {
	a.count.add(countHeartbeats, 1)
	revision := uint64(0)
	if a.remote != nil {
		revision = a.remote.revision.Load()
	}
	a.deps.Publisher.Publish(&decafpb.Heartbeat{
		ConfigRevision: revision,
		TimeNs:         uint64(now.UnixNano()),
		Role:           "host",
		Version:        a.deps.Version,
		Counters:       a.Counters(),
		Source:         a.source(),
		IntervalNs:     uint64(a.cfg.Heartbeat),
	})
}

// source is how events are seen; "" before they are.
func (a *Agent) source() string {
	if name := a.seenBy.Load(); name != nil {
		return *name
	}
	return ""
}

// Counters returns all counters: what was seen, sent and left out.
func (a *Agent) Counters() map[string]uint64 {
	out := make(map[string]uint64, len(counted)+8)
	for _, name := range counted {
		out[name] = a.count.get(name)
	}
	out[countLostRing] = a.lostRing.Load()
	out[countMissed] = a.missed.Load()
	out[countUnwatched] = a.unwatched.Load()
	out[countDropsLost] = a.lostDrops.Load()
	out[countDropsOut] = a.drops.leftOut.Load()
	out[countVotesOut] = a.votes.leftOut.Load()
	out[countFlowLost] = a.lostFlows.Load()
	if a.remote != nil {
		out[countSettingsRefused] = a.remote.refused.Load()
	}
	if a.deps.Counters != nil {
		maps.Copy(out, a.deps.Counters())
	}
	return out
}
