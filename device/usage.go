package device

import (
	"runtime/metrics"
	"time"
)

// usage is what the process took, up to a moment.
type usage struct {
	at     time.Time
	cpu    time.Duration // processor time since its start
	memory uint64        // bytes it holds
	events uint64        // published
	lost   uint64        // drops that the source had no room for
}

// measureUsage reads the process's own counters; events and lost are not its
// to know.
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
