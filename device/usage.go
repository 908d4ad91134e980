package device

import (
	"runtime/metrics"
	"sync"
	"time"
)

// usage is what the process took, up to a moment.
type usage struct {
	at     time.Time
	cpu    time.Duration // processor time since its start
	memory uint64        // bytes it holds, and has the kernel hold
	events uint64        // published by the agent
	lost   uint64        // drops that the agent's source had no room for
}

// measureUsage reads the process's own counters: of memory what Go holds. What the
// kernel holds for a source, events and lost are not its to know.
func measureUsage(now time.Time) usage {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	u := usage{at: now, cpu: processorTime()}
	total, released := samples[0].Value, samples[1].Value
	if total.Kind() == metrics.KindUint64 && released.Kind() == metrics.KindUint64 {
		u.memory = total.Uint64() - released.Uint64()
	}
	return u
}

// meter divides among the agents of one process what it takes: only the process
// as a whole can be measured, and its budget is one.
type meter struct {
	mu     sync.Mutex
	shares []*share
}

// share is one agent's part of a meter.
type share struct {
	meter *meter
	rate  float64 // drops handled a second, as of its last look
}

func (m *meter) join() *share {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &share{meter: m}
	m.shares = append(m.shares, s)
	return s
}

// of tells which part of what the process takes an agent is held to, from 0 to 1,
// after it handled so many drops a second: all of it who handles the most, since
// that one has to yield when the process takes too much; the others their share
// of the drops.
func (s *share) of(rate float64) float64 {
	s.meter.mu.Lock()
	defer s.meter.mu.Unlock()
	s.rate = rate
	all, most := 0.0, true
	for _, other := range s.meter.shares {
		all += other.rate
		most = most && other.rate <= rate
	}
	if most {
		return 1
	}
	return rate / all
}

// heldTo is what an agent is held to of what the process takes (all), as of says.
// One that was allowed less is not allowed more before the whole process is well
// under its limit, and not allowed still less because of others.
func heldTo(part, all, limit float64, less bool) float64 {
	own := part * all
	if less {
		return max(own, min(all, limit))
	}
	return own
}
