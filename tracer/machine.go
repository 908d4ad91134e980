package tracer

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// maxOthers bounds the further addresses kept per hop.
const maxOthers = 16

// machine is the state of one trace: which TTLs were probed, which answered,
// what to send when. It does no I/O, has no lock and reads no clock; all times
// are offsets from the trace's start.
//
// The caller sends what due returns, hands in each answer, and calls due again
// at the time it named, until done.
type machine struct {
	resend, timeout time.Duration
	dst             netip.Addr // an answer from here is the destination's
	distance        int        // switches to the destination, 0 unknown
	hops            []hop      // index TTL-1

	nextAt  time.Duration // of the next resend
	round   int           // of sending; 0 is the first
	end     int           // lowest TTL at which the path ended (unreachable, destination), 0 none
	top     int           // highest TTL that answered
	missing int           // of the TTLs that are expected, not yet answered
	over    time.Duration // when it was done, -1 while it is not
}

type hop struct {
	status  decafpb.HopStatus // UNSPECIFIED until answered
	address netip.Addr
	others  []netip.Addr
	meaning string // of an unreachable
	rtt     time.Duration
	sentAt  []time.Duration // per round; -1 not sent in that round
	probes  int
}

// newMachine makes the trace of a flow to dst over distance switches; 0 means
// that is not known, and then as many TTLs as limit says are tried.
func newMachine(dst netip.Addr, distance, limit int, resend, timeout time.Duration) *machine {
	n := limit
	if distance > 0 {
		n = min(distance, limit)
	}
	return &machine{
		resend: resend, timeout: timeout,
		dst: dst, distance: distance,
		hops: make([]hop, n), missing: n, over: -1,
	}
}

// due returns the TTLs to probe now, lowest first, and when to ask again. done
// is true when the trace is over, because all it could learn has come or its
// time has.
func (m *machine) due(now time.Duration, ttls []int) (send []int, next time.Duration, done bool) {
	send = ttls[:0]
	if m.over < 0 && now >= m.timeout {
		m.over = m.timeout
	}
	if m.over >= 0 {
		return send, 0, true
	}
	if now < m.nextAt {
		return send, min(m.nextAt, m.timeout), false
	}
	for ttl := 1; ttl <= m.expected(); ttl++ {
		h := &m.hops[ttl-1]
		if h.status != decafpb.HopStatus_HOP_STATUS_UNSPECIFIED || !m.worthResending(ttl) {
			continue
		}
		send = append(send, ttl)
	}
	return send, m.advance(now), false
}

// advance sets the time of the next round: the gaps double.
func (m *machine) advance(now time.Duration) time.Duration {
	m.nextAt = now + m.resend<<min(m.round, 30)
	m.round++
	return min(m.nextAt, m.timeout)
}

// expected is how many TTLs may still show something.
func (m *machine) expected() int {
	if m.end > 0 {
		return m.end
	}
	return len(m.hops)
}

// worthResending keeps a trace of unknown length from throwing more probes at
// what most likely is the destination and beyond: only gaps and the one after the last
// answer are tried again.
func (m *machine) worthResending(ttl int) bool {
	return m.round == 0 || m.distance > 0 || m.top == 0 || ttl <= m.top+1
}

// sent records that a probe went out, in the round that the last due began.
func (m *machine) sent(ttl int, now time.Duration) {
	h := &m.hops[ttl-1]
	h.probes++
	round := m.sentRound()
	for len(h.sentAt) < round {
		h.sentAt = append(h.sentAt, -1)
	}
	h.sentAt = append(h.sentAt, now)
}

// unsent takes the last sent of a TTL back: the probe did not leave.
func (m *machine) unsent(ttl int) {
	h := &m.hops[ttl-1]
	h.probes--
	h.sentAt[len(h.sentAt)-1] = -1
}

// sentRound is the round of the probes that due last returned.
func (m *machine) sentRound() int { return max(m.round-1, 0) }

// answer takes an ICMP error for the probe of a TTL. round is that of the probe, -1
// unknown. It reports whether this one ended the trace.
func (m *machine) answer(ttl, round int, from netip.Addr, kind packet.Kind, meaning string, now time.Duration) (done bool) {
	if ttl < 1 || ttl > len(m.hops) || m.over >= 0 {
		return false
	}
	var status decafpb.HopStatus
	switch {
	case from == m.dst:
		status = decafpb.HopStatus_HOP_STATUS_DESTINATION
	case kind == packet.TimeExceeded:
		status = decafpb.HopStatus_HOP_STATUS_ANSWERED
	case kind == packet.Unreachable:
		status = decafpb.HopStatus_HOP_STATUS_UNREACHABLE
	default:
		return false // too big, parameter problem: not where the path goes
	}
	h := &m.hops[ttl-1]
	if h.status != decafpb.HopStatus_HOP_STATUS_UNSPECIFIED {
		if h.address != from && !slices.Contains(h.others, from) && len(h.others) < maxOthers {
			h.others = append(h.others, from)
		}
		return false
	}
	h.status, h.address, h.meaning, h.rtt = status, from, meaning, h.roundTrip(round, now)
	if status != decafpb.HopStatus_HOP_STATUS_ANSWERED && (m.end == 0 || ttl < m.end) {
		m.end = ttl
	}
	m.top = max(m.top, ttl)
	m.missing = 0
	for i := range m.hops[:m.expected()] {
		if m.hops[i].status == decafpb.HopStatus_HOP_STATUS_UNSPECIFIED {
			m.missing++
		}
	}
	if m.missing == 0 {
		m.over = now
	}
	return m.over >= 0
}

// roundTrip is the time since the probe that was answered, 0 (not known) where
// several went out and the answer does not say which it means (Karn's rule).
func (h *hop) roundTrip(round int, now time.Duration) time.Duration {
	if round < 0 && h.probes == 1 {
		round = len(h.sentAt) - 1
	}
	if round < 0 || round >= len(h.sentAt) || h.sentAt[round] < 0 {
		return 0
	}
	return max(now-h.sentAt[round], 0)
}

// stop ends the trace before its time.
func (m *machine) stop(now time.Duration) {
	if m.over < 0 {
		m.over = now
	}
}

// path tells what the trace found. hint, if any, says in the caller's words
// what kept probes or answers away. The times and the identity are the caller's
// to fill in.
func (m *machine) path(hint string) *decafpb.Path {
	n := m.expected()
	if m.distance == 0 && m.end == 0 {
		n = m.top // beyond it nothing is known, not even that there is a hop
	}
	p := &decafpb.Path{Distance: uint32(max(m.distance, 0)), Hops: make([]*decafpb.Hop, n)}
	answered, silent := 0, 0
	firstSilent, silentProbes := 0, 0
	for i := range m.hops[:n] {
		h := &m.hops[i]
		ph := &decafpb.Hop{Ttl: uint32(i + 1), Status: h.status, Probes: uint32(h.probes)}
		if h.status == decafpb.HopStatus_HOP_STATUS_UNSPECIFIED {
			silent++
			if firstSilent == 0 {
				firstSilent, silentProbes = i+1, h.probes
			}
			if h.probes > 0 {
				ph.Status = decafpb.HopStatus_HOP_STATUS_SILENT
			}
		} else {
			answered++
			ph.Address = h.address.AsSlice()
			ph.RttNs = uint64(h.rtt)
			for _, a := range h.others {
				ph.Others = append(ph.Others, a.AsSlice())
			}
		}
		p.Hops[i] = ph
	}
	p.Status, p.Why = m.conclude(answered, silent, firstSilent, silentProbes)
	if hint != "" && p.Status != decafpb.PathStatus_PATH_STATUS_COMPLETE {
		p.Why += "; " + hint
	}
	return p
}

func (m *machine) conclude(answered, silent, firstSilent, silentProbes int) (decafpb.PathStatus, string) {
	const (
		complete = decafpb.PathStatus_PATH_STATUS_COMPLETE
		partial  = decafpb.PathStatus_PATH_STATUS_PARTIAL
		failed   = decafpb.PathStatus_PATH_STATUS_FAILED
	)
	if answered == 0 {
		return failed, "nothing answered"
	}
	gap := ""
	if silent > 0 {
		gap = fmt.Sprintf("%d of %d hops silent, first TTL %d after %d probes", silent, answered+silent, firstSilent, silentProbes)
	}
	switch {
	case m.end > 0 && m.hops[m.end-1].status == decafpb.HopStatus_HOP_STATUS_UNREACHABLE:
		h := &m.hops[m.end-1]
		why := fmt.Sprintf("%s says at TTL %d: %s", h.address, m.end, h.meaning)
		if gap != "" {
			why += "; " + gap
		}
		return partial, why
	case gap != "":
		return partial, gap
	case m.end > 0: // the destination itself
		if m.distance > 0 && m.end <= m.distance {
			return partial, fmt.Sprintf("destination answered at TTL %d, nearer than the %d switches expected", m.end, m.distance)
		}
		return complete, ""
	case m.distance > len(m.hops):
		return partial, fmt.Sprintf("destination is %d switches away, traced no further than TTL %d", m.distance, len(m.hops))
	case m.distance > 0:
		return complete, ""
	}
	return partial, fmt.Sprintf("distance unknown, nothing answered beyond TTL %d", m.top)
}
