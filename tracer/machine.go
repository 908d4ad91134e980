package tracer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// maxOthers bounds the further addresses kept per hop.
const maxOthers = 16

const (
	// settleProbes is how many more probes a TTL gets once two addresses answered
	// for it, to tell balancing packet by packet from a path that changed: of two
	// ways in turn, one in 2^4 would look like a change.
	settleProbes = 4
	// settleTries is how often such a question is asked before it is let go.
	settleTries = 2
	// plainRound is the round of sending from which silence behind a hop is met
	// with right checksums: something there may drop wrong ones.
	plainRound = 2
	// carefulProbes is how often the TTL behind the last that answered is asked at
	// most where that may be the other end of a connection: twice, since one may be
	// lost.
	carefulProbes = 2
)

// machine is the state of one trace: which TTLs were probed, which answered,
// what to send when. It does no I/O, has no lock and reads no clock; all times
// are offsets from the trace's start.
//
// The caller sends what due returns, hands in each answer, and calls due again
// at the time it named, or when answer or learn said so, until done.
type machine struct {
	resend, timeout time.Duration
	dst             netip.Addr // an answer from here is the destination's
	distance        int        // switches to the destination, 0 unknown
	hops            []hop      // index TTL-1

	nextAt  time.Duration // of the next resend
	round   int           // of sending; 0 is the first
	urgent  bool          // something came up to send that need not wait for nextAt
	end     int           // lowest TTL at which the path ended (unreachable, destination), 0 none
	top     int           // highest TTL that answered
	over    time.Duration // when it was done, -1 while it is not
	learned bool          // distance is from the TTL of packets received
	fresh   bool          // there is no connection that a whole probe could disturb
	old     bool          // a whole probe would be an old segment of the connection
	// What was seen of the destination before: lowest TTL that answers right
	// checksums alone, 0 none; and that right checksums are no help.
	rightFrom  int
	rightFails bool
	reached    time.Duration // round trip to the destination itself, -1 not known
	says       string        // what it answered
}

// hop is one TTL. Its probes are numbered from 0 in the order they went out.
type hop struct {
	status  decafpb.HopStatus // UNSPECIFIED until answered
	address netip.Addr
	others  []netip.Addr
	meaning string // of an unreachable
	rtt     time.Duration
	mpls    []uint32
	name    string // of the interface, in the router's words

	sentAt  []time.Duration // per probe; -1 did not leave
	plain   []bool          // per probe: with a right checksum
	probes  int             // that left
	want    int             // answers wished for
	got     int             // answers that came
	tries   int             // rounds in which more than the first answer was asked for
	first   int             // number of the probe answered first, -1 unknown
	settled bool            // settleProbes were asked for
	saw     []seen
	// byPlain is whether the first answer was to a probe with a right checksum
	// while wrong ones had stayed unanswered.
	byPlain bool
}

// seen is which address (0 the first, n others[n-1]) answered probe number nth.
type seen struct{ nth, which int }

// send is one probe to send: its TTL, and whether with a right TCP checksum.
type send struct {
	ttl   int
	plain bool
}

// answer is an ICMP error that names a probe.
type answer struct {
	ttl, nth int        // of the probe; nth is -1 when the quote does not say
	from     netip.Addr // who sent it
	inbound  netip.Addr // where the probe came in, if the router says (RFC 5837)
	name     string     // of that interface
	mpls     []uint32   // label stack of the probe, outermost first (RFC 4950)
	kind     packet.Kind
	meaning  string
}

// newMachine makes the trace of a flow to dst over distance switches; 0 means
// that is not known, and then as many TTLs as limit says are tried.
func newMachine(dst netip.Addr, distance, limit int, resend, timeout time.Duration) *machine {
	n := limit
	if distance > 0 {
		n = min(distance, limit)
	}
	m := &machine{
		resend: resend, timeout: timeout,
		dst: dst, distance: distance,
		hops: make([]hop, n), over: -1, reached: -1,
	}
	for i := range m.hops {
		m.hops[i].want, m.hops[i].first = 1, -1
	}
	return m
}

// due returns the probes to send now, lowest TTL first, and when to ask again.
// done is true when the trace is over, because all it could learn has come or
// its time has.
func (m *machine) due(now time.Duration, buf []send) (out []send, next time.Duration, done bool) {
	out = buf[:0]
	if m.over < 0 && now >= m.timeout {
		m.over = m.timeout
	}
	if m.over >= 0 {
		return out, 0, true
	}
	if now < m.nextAt {
		if m.urgent {
			out = m.questions(out)
		}
		return out, min(m.nextAt, m.timeout), false
	}
	for ttl := 1; ttl <= m.within(); ttl++ {
		h := &m.hops[ttl-1]
		switch {
		case h.got >= h.want:
		case h.status != decafpb.HopStatus_HOP_STATUS_UNSPECIFIED:
			if h.tries > 0 && now < h.sentAt[len(h.sentAt)-1]+m.resend {
				continue // asked a moment ago
			}
			if h.tries++; h.tries > settleTries {
				h.want = h.got // it answers no more: let the question go
				continue
			}
			for range h.want - h.got {
				out = append(out, send{ttl: ttl, plain: m.repeatPlain(ttl)})
			}
		case m.worthSending(ttl, now):
			out = append(out, send{ttl: ttl, plain: m.mayPlain(ttl)})
		}
	}
	m.urgent = false
	if m.missing() == 0 {
		m.over = now
		return out[:0], 0, true
	}
	// The gaps double.
	m.nextAt = now + m.resend<<min(m.round, 30)
	m.round++
	return out, min(m.nextAt, m.timeout), false
}

// questions are the probes for TTLs that answered and are asked again, and for
// those that now are worth a first one.
func (m *machine) questions(out []send) []send {
	m.urgent = false
	for ttl := 1; ttl <= m.within(); ttl++ {
		h := &m.hops[ttl-1]
		switch {
		case len(h.sentAt) == 0:
			out = append(out, send{ttl: ttl, plain: m.mayPlain(ttl)})
		case h.status != decafpb.HopStatus_HOP_STATUS_UNSPECIFIED && h.got < h.want && h.tries == 0:
			h.tries = 1
			for range h.want - h.got {
				out = append(out, send{ttl: ttl, plain: m.repeatPlain(ttl)})
			}
		}
	}
	return out
}

// within is the highest TTL to probe now. Where nobody knows how far it is to the
// other end of a connection, that is the one behind the last that answered: so one
// TTL alone comes as far as the host, and none where the host is heard in time.
func (m *machine) within() int {
	if m.careful() {
		return min(m.top+1, m.expected())
	}
	return m.expected()
}

// careful says that any probe that nothing answered may have reached the host.
func (m *machine) careful() bool { return m.distance == 0 && !m.fresh }

// expected is how many TTLs may still show something.
func (m *machine) expected() int {
	switch {
	case m.end > 0:
		return m.end
	case m.learned:
		return m.distance
	}
	return len(m.hops)
}

// missing is how many answers are wished for and not there.
func (m *machine) missing() int {
	n := 0
	for i := range m.hops[:m.expected()] {
		n += max(m.hops[i].want-m.hops[i].got, 0)
	}
	return n
}

// worthSending keeps a trace of unknown length from throwing more probes at
// what most likely is the destination and beyond: only gaps and the one after the last
// answer are tried again, and the latter not often where a connection is there.
func (m *machine) worthSending(ttl int, now time.Duration) bool {
	if !m.careful() {
		return m.round == 0 || m.distance > 0 || m.top == 0 || ttl <= m.top+1
	}
	asked := m.hops[ttl-1].sentAt
	n := len(asked)
	return n == 0 || n < carefulProbes && now >= asked[n-1]+m.resend
}

// mayPlain says whether a probe goes out with a right checksum: where silence
// behind a hop lasts, or such probes were needed before, and it can be no segment
// that a live connection takes, nor come as far.
func (m *machine) mayPlain(ttl int) bool {
	switch {
	case m.careful() || !m.old && !m.fresh || m.rightFails:
		return false
	case m.rightFrom > 0 && ttl >= m.rightFrom:
		return true
	}
	return m.round >= plainRound && ttl > m.top
}

// repeatPlain says so for a TTL that answered.
func (m *machine) repeatPlain(ttl int) bool {
	return m.hops[ttl-1].byPlain || m.rightFrom > 0 && ttl >= m.rightFrom && m.mayPlain(ttl)
}

// checksums is what this trace tells of right checksums to those after it: the
// lowest TTL that answers these alone, 0 where they are no help. told is false
// where it tells nothing new.
func (m *machine) checksums() (from int, told bool) {
	if m.rightFrom > 0 {
		return 0, false
	}
	sent := false
	for i := range m.hops {
		h := &m.hops[i]
		if h.byPlain {
			return i + 1, true
		}
		for nth, plain := range h.plain {
			if plain && slices.ContainsFunc(h.saw, func(s seen) bool { return s.nth == nth || s.nth < 0 }) {
				return 0, false // it may have been this one that was answered
			}
			sent = sent || plain && h.sentAt[nth] >= 0
		}
	}
	return 0, sent
}

// sent records that a probe goes out and gives its number.
func (m *machine) sent(s send, now time.Duration) (nth int) {
	h := &m.hops[s.ttl-1]
	h.probes++
	h.sentAt = append(h.sentAt, now)
	h.plain = append(h.plain, s.plain)
	return len(h.sentAt) - 1
}

// unsent takes the last sent of a TTL back: the probe did not leave.
func (m *machine) unsent(ttl int) {
	h := &m.hops[ttl-1]
	h.probes--
	h.sentAt[len(h.sentAt)-1] = -1
}

// asked says whether a probe of a TTL was sent.
func (m *machine) asked(ttl int) bool {
	return ttl >= 1 && ttl <= len(m.hops) && len(m.hops[ttl-1].sentAt) > 0
}

// answer takes an ICMP error for a probe. It reports whether due has to be
// asked at once: the trace is over, or a question came up.
func (m *machine) answer(a answer, now time.Duration) (wake bool) {
	if a.ttl < 1 || a.ttl > len(m.hops) || m.over >= 0 {
		return false
	}
	var status decafpb.HopStatus
	switch {
	case a.from == m.dst:
		status = decafpb.HopStatus_HOP_STATUS_DESTINATION
	case a.kind == packet.TimeExceeded:
		status = decafpb.HopStatus_HOP_STATUS_ANSWERED
	case a.kind == packet.Unreachable:
		status = decafpb.HopStatus_HOP_STATUS_UNREACHABLE
	default:
		return false // too big, parameter problem: not where the path goes
	}
	if m.learned && a.ttl > m.distance && status == decafpb.HopStatus_HOP_STATUS_ANSWERED {
		m.learned, m.distance = false, 0 // a switch further away than that
	}
	h := &m.hops[a.ttl-1]
	if a.nth < 0 && len(h.sentAt) == 1 {
		a.nth = 0
	}
	at := a.from
	if a.inbound.IsValid() && status == decafpb.HopStatus_HOP_STATUS_ANSWERED {
		at = a.inbound
	}
	if h.status == decafpb.HopStatus_HOP_STATUS_UNSPECIFIED {
		h.status, h.address, h.meaning, h.rtt = status, at, a.meaning, h.roundTrip(a.nth, now)
		h.mpls, h.name, h.first = a.mpls, a.name, a.nth
		h.byPlain = a.nth > 0 && a.nth < len(h.plain) && h.plain[a.nth] && !h.plain[0]
		if status != decafpb.HopStatus_HOP_STATUS_ANSWERED && (m.end == 0 || a.ttl < m.end) {
			m.end = a.ttl
		}
		if m.top < a.ttl {
			m.top = a.ttl
			m.urgent = m.urgent || m.careful() && m.end == 0 && a.ttl < len(m.hops) // the next
		}
		h.saw = append(h.saw, seen{a.nth, 0})
		h.got++
		m.confirm(a.ttl)
	} else {
		h.again(at, a.nth)
		m.urgent = m.urgent || h.got < h.want && h.tries == 0
	}
	if m.missing() == 0 {
		m.over = now
	}
	return m.over >= 0 || m.urgent
}

// again takes a further answer for a TTL.
func (h *hop) again(at netip.Addr, nth int) {
	if nth >= 0 && slices.ContainsFunc(h.saw, func(s seen) bool { return s.nth == nth }) {
		return // one probe, two answers: a duplicate on the way back
	}
	h.got++
	which := 0
	if at != h.address {
		if which = slices.Index(h.others, at) + 1; which == 0 && len(h.others) < maxOthers {
			h.others = append(h.others, at)
			which = len(h.others)
		}
		if !h.settled {
			h.settled = true
			h.want, h.tries = h.got+settleProbes, 0
		}
	}
	if len(h.saw) <= maxTTL {
		h.saw = append(h.saw, seen{nth, which})
	}
}

// confirm asks the neighbours of a TTL that answered late once more: their
// answers are of an earlier time, and the path may have changed since.
func (m *machine) confirm(ttl int) {
	h := &m.hops[ttl-1]
	if len(h.sentAt) < 2 || h.first == 0 {
		return // answered with the first probe: of one time with the others
	}
	since := h.sentAt[len(h.sentAt)-1]
	if h.first > 0 {
		since = h.sentAt[h.first]
	}
	ask := func(n *hop) {
		if last := n.sentAt[len(n.sentAt)-1]; last < since && n.got >= n.want {
			n.want, n.tries = n.got+1, 0
			m.urgent = true
		}
	}
	for i := ttl - 2; i >= 0; i-- {
		if n := &m.hops[i]; n.status == decafpb.HopStatus_HOP_STATUS_ANSWERED {
			ask(n)
			break
		}
	}
	for i := ttl; i < m.expected(); i++ {
		if n := &m.hops[i]; n.status == decafpb.HopStatus_HOP_STATUS_ANSWERED {
			ask(n)
			break
		}
	}
}

// changed tells, of a TTL with several addresses, whether they came one after
// the other (the path changed) and not in turn (packet by packet).
func (h *hop) changed() bool {
	saw := slices.Clone(h.saw)
	slices.SortStableFunc(saw, func(a, b seen) int { return a.nth - b.nth })
	left := make(map[int]bool)
	for i, s := range saw {
		if s.nth < 0 || left[s.which] {
			return false
		}
		if i > 0 && s.which != saw[i-1].which {
			left[saw[i-1].which] = true
		}
	}
	return len(saw) > 2
}

// roundTrip is the time since the probe that was answered, 0 (not known) where
// several went out and the answer does not say which it means (Karn's rule).
func (h *hop) roundTrip(nth int, now time.Duration) time.Duration {
	if nth < 0 || nth >= len(h.sentAt) || h.sentAt[nth] < 0 {
		return 0
	}
	return max(now-h.sentAt[nth], 0)
}

// learn takes the number of switches from the TTL of a packet that came from
// the destination, where nothing better is known. An answer from further away
// than that says that the way back is shorter: then it is no measure. It reports
// whether due has to be asked at once.
func (m *machine) learn(distance int, now time.Duration) (wake bool) {
	if m.over >= 0 || m.distance > 0 || distance < 1 || distance > len(m.hops) || m.top > distance {
		return false
	}
	m.distance, m.learned = distance, true
	if m.end > distance {
		m.end = 0
	}
	if m.missing() == 0 {
		m.over = now
	}
	m.urgent = m.urgent || !m.fresh // what careful kept back
	return m.over >= 0 || m.urgent
}

// reach notes that the destination itself answered over TCP.
func (m *machine) reach(says string, rtt time.Duration) {
	if m.reached < 0 {
		m.reached, m.says = rtt, says
	}
}

// neededPlain says whether a hop answered only to a right checksum.
func (m *machine) neededPlain() bool {
	return slices.ContainsFunc(m.hops, func(h hop) bool { return h.byPlain })
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
	var c conclusion
	for i := range m.hops[:n] {
		h := &m.hops[i]
		ph := &decafpb.Hop{Ttl: uint32(i + 1), Status: h.status, Probes: uint32(h.probes)}
		if h.status == decafpb.HopStatus_HOP_STATUS_UNSPECIFIED {
			c.silent++
			if c.firstSilent == 0 {
				c.firstSilent, c.silentProbes = i+1, h.probes
			}
			if h.probes > 0 {
				ph.Status = decafpb.HopStatus_HOP_STATUS_SILENT
			}
		} else {
			c.answered++
			ph.Address = h.address.AsSlice()
			ph.RttNs = uint64(h.rtt)
			ph.Mpls, ph.Interface = h.mpls, h.name
			for _, a := range h.others {
				ph.Others = append(ph.Others, a.AsSlice())
			}
		}
		p.Hops[i] = ph
	}
	p.Status, p.Why = m.conclude(c)
	if hint != "" && p.Status != decafpb.PathStatus_PATH_STATUS_COMPLETE {
		p.Why += "; " + hint
	}
	if m.reached >= 0 && m.end == 0 {
		if m.distance > 0 {
			p.Hops = append(p.Hops, &decafpb.Hop{Ttl: uint32(m.distance + 1), Status: decafpb.HopStatus_HOP_STATUS_DESTINATION,
				Address: m.dst.AsSlice(), RttNs: uint64(m.reached), Probes: 1})
		} else {
			p.Why += "; the destination itself answered"
		}
	}
	return p
}

type conclusion struct{ answered, silent, firstSilent, silentProbes int }

func (m *machine) conclude(c conclusion) (decafpb.PathStatus, string) {
	if c.answered == 0 {
		return decafpb.PathStatus_PATH_STATUS_FAILED, "nothing answered"
	}
	var why []string
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	refused := m.end > 0 && m.hops[m.end-1].status == decafpb.HopStatus_HOP_STATUS_UNREACHABLE
	if refused {
		h := &m.hops[m.end-1]
		say("%s says at TTL %d: %s", h.address, m.end, h.meaning)
	}
	why = append(why, m.odd()...)
	if c.silent > 0 {
		say("%d of %d hops silent, first TTL %d after %d probes", c.silent, c.answered+c.silent, c.firstSilent, c.silentProbes)
	}
	switch {
	case refused:
	case m.end > 0: // the destination itself
		if m.distance > 0 && m.end <= m.distance {
			say("destination answered at TTL %d, nearer than the %d switches expected", m.end, m.distance)
		}
	case m.distance > len(m.hops):
		say("destination is %d switches away, traced no further than TTL %d", m.distance, len(m.hops))
	case m.distance == 0 && c.silent == 0:
		say("distance unknown, nothing answered beyond TTL %d", m.top)
	}
	if len(why) == 0 {
		return decafpb.PathStatus_PATH_STATUS_COMPLETE, ""
	}
	return decafpb.PathStatus_PATH_STATUS_PARTIAL, strings.Join(why, "; ")
}

// odd says what makes the hops other than one path: TTLs with several addresses
// and addresses with several TTLs.
func (m *machine) odd() (why []string) {
	at := make(map[netip.Addr]int, len(m.hops))
	looped := make(map[netip.Addr]bool)
	for i := range m.hops[:m.expected()] {
		h := &m.hops[i]
		if h.status != decafpb.HopStatus_HOP_STATUS_ANSWERED {
			continue
		}
		if len(h.others) > 0 {
			what := "packets of this flow are balanced one by one"
			if h.changed() {
				what = "the path changed while it was traced"
			}
			why = append(why, fmt.Sprintf("TTL %d: %s and %d more answered: %s", i+1, h.address, len(h.others), what))
		}
		if before, ok := at[h.address]; ok && !looped[h.address] {
			looped[h.address] = true
			why = append(why, fmt.Sprintf("%s answered at TTL %d and %d: a routing loop", h.address, before, i+1))
		} else if !ok {
			at[h.address] = i + 1
		}
	}
	return why
}
