package tracer

import (
	"slices"
	"sync/atomic"
)

// Stats counts what a Tracer did since it was made, and all that it had to
// leave out.
type Stats struct {
	Traces   uint64 // that sent probes
	Complete uint64
	Partial  uint64
	Failed   uint64 // nothing answered, or nothing could be sent
	Refused  uint64 // by the token bucket, or because MaxLive were under way
	Cached   uint64 // answered from this epoch's earlier trace of the flow

	Probes     uint64 // sent, resends included
	Resent     uint64
	SendErrors uint64

	Answers        uint64 // that named a live probe
	AnswersStray   uint64 // to something else: late, spoofed, or another program's
	AnswersInvalid uint64 // that could not be read
	ReceiveErrors  uint64 // of the sockets
	QueueLost      uint64 // answers the receivers' socket buffers had no room for

	CacheEvicted uint64 // traces forgotten before their epoch was over

	// Unresolved counts flows not traced since their five-tuple on the wire is not
	// known, by reason, in the order of Reasons.
	Unresolved         [5]uint64
	Plain              uint64 // probes with a right checksum, behind a silent hop
	PlainNeeded        uint64 // traces of which some hops answered to those only
	Knocks             uint64 // SYNs that went as far as the destination, of flows that are none
	DistancesForgotten uint64 // for want of room
	SampleLost         uint64 // overheard packets that there was no room for
	ChecksumsForgotten uint64 // likewise: destinations of which it was known whether right checksums help
	Enumerations       uint64
}

// Counters gives the counts under the names a heartbeat carries.
func (s Stats) Counters() map[string]uint64 {
	out := map[string]uint64{
		"traces":                s.Traces,
		"traces_complete":       s.Complete,
		"traces_partial":        s.Partial,
		"traces_failed":         s.Failed,
		"traces_refused":        s.Refused,
		"traces_cached":         s.Cached,
		"probes":                s.Probes,
		"probes_resent":         s.Resent,
		"probe_send_errors":     s.SendErrors,
		"trace_answers":         s.Answers,
		"trace_answers_stray":   s.AnswersStray,
		"trace_answers_invalid": s.AnswersInvalid,
		"trace_receive_errors":  s.ReceiveErrors,
		"trace_queue_lost":      s.QueueLost,
		"trace_cache_evicted":   s.CacheEvicted,
		"probes_plain":          s.Plain,
		"traces_plain_needed":   s.PlainNeeded,
		"trace_knocks":          s.Knocks,
		"distances_forgotten":   s.DistancesForgotten,
		"checksums_forgotten":   s.ChecksumsForgotten,
		"sample_lost":           s.SampleLost,
		"enumerations":          s.Enumerations,
	}
	for i, reason := range Reasons {
		out["traces_unresolved_"+reason] = s.Unresolved[i]
	}
	return out
}

type counters struct {
	traces, complete, partial, failed, refused, cached atomic.Uint64
	probes, resent, sendErrors                         atomic.Uint64
	answers, stray, invalid, receiveErrors             atomic.Uint64
	evicted, plain, plainNeeded, knocks                atomic.Uint64
	unresolved                                         [5]atomic.Uint64 // as Reasons
	enumerations                                       atomic.Uint64
}

func (c *counters) countUnresolved(reason string) {
	i := slices.Index(Reasons, reason)
	if i < 0 {
		i = slices.Index(Reasons, ReasonError)
	}
	c.unresolved[i].Add(1)
}

func (c *counters) stats() Stats {
	s := Stats{
		Traces: c.traces.Load(), Complete: c.complete.Load(), Partial: c.partial.Load(), Failed: c.failed.Load(),
		Refused: c.refused.Load(), Cached: c.cached.Load(),
		Probes: c.probes.Load(), Resent: c.resent.Load(), SendErrors: c.sendErrors.Load(),
		Answers: c.answers.Load(), AnswersStray: c.stray.Load(), AnswersInvalid: c.invalid.Load(),
		ReceiveErrors: c.receiveErrors.Load(), CacheEvicted: c.evicted.Load(),
		Plain: c.plain.Load(), PlainNeeded: c.plainNeeded.Load(), Knocks: c.knocks.Load(),
		Enumerations: c.enumerations.Load(),
	}
	for i := range s.Unresolved {
		s.Unresolved[i] = c.unresolved[i].Load()
	}
	return s
}
