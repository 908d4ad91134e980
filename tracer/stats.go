package tracer

import "sync/atomic"

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
}

// Counters gives the counts under the names a heartbeat carries.
func (s Stats) Counters() map[string]uint64 {
	return map[string]uint64{
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
	}
}

type counters struct {
	traces, complete, partial, failed, refused, cached atomic.Uint64
	probes, resent, sendErrors                         atomic.Uint64
	answers, stray, invalid, receiveErrors             atomic.Uint64
	evicted                                            atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		Traces: c.traces.Load(), Complete: c.complete.Load(), Partial: c.partial.Load(), Failed: c.failed.Load(),
		Refused: c.refused.Load(), Cached: c.cached.Load(),
		Probes: c.probes.Load(), Resent: c.resent.Load(), SendErrors: c.sendErrors.Load(),
		Answers: c.answers.Load(), AnswersStray: c.stray.Load(), AnswersInvalid: c.invalid.Load(),
		ReceiveErrors: c.receiveErrors.Load(), CacheEvicted: c.evicted.Load(),
	}
}
