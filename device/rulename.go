package device

import (
	"sync"
	"time"

	"decaf/api/packet"
)

const (
	// A logged packet's drop is read within this; a busy agent reads late.
	ruleNameWindow = 100 * time.Millisecond
	// maxRuleNames bounds what is remembered, some 20 MB at most.
	maxRuleNames = 1 << 16
)

// sighting names a packet, as far as its headers can.
type sighting struct {
	flow packet.Flow
	ipID uint32
	seq  uint32 // of TCP
}

func sightingOf(o observed) (sighting, bool) {
	p := o.event.GetPacket()
	f, err := packet.FlowFromPB(p.GetFlow())
	return sighting{flow: f, ipID: p.GetIpId(), seq: p.GetTcpSeq()}, err == nil
}

// ruleNames makes one event of a packet that the kernel dropped and the firewall
// logged. Either knows what the other does not: the log names the rule and cannot
// say whether the packet was dropped in the end; the kernel's drop is certain and
// does not know the rule. So a log never makes an event, and the drop of the
// packet, which comes after it, takes its name.
//
// Packets that look alike (a retransmission, a burst of the same) are paired one
// by one, in order. It does no I/O; times are when logs and drops were received,
// of a clock that does not jump. It may be used concurrently.
type ruleNames struct {
	window time.Duration // log and drop of one packet are no further apart
	most   int           // names that are remembered

	mu    sync.Mutex
	order []*ruleName // oldest first; from first on
	first int
	byKey map[sighting][]*ruleName // those not taken; oldest first

	named   uint64 // drops that got one
	alone   uint64 // names whose packet was not dropped, as far as one knows
	crowded uint64 // names forgotten early, for want of room
}

type ruleName struct {
	key                   sighting
	at                    time.Time
	source, reason, class string
	known, taken          bool
}

func newRuleNames(window time.Duration, most int) *ruleNames {
	return &ruleNames{window: window, most: max(1, most), byKey: map[sighting][]*ruleName{}}
}

// logged remembers what the log says of a packet.
func (r *ruleNames) logged(now time.Time, o observed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(now)
	key, ok := sightingOf(o)
	if !ok { // nothing to know its drop by
		r.alone++
		return
	}
	if len(r.order)-r.first >= r.most {
		if !r.order[r.first].taken {
			r.crowded++
		}
		r.forget()
	}
	n := &ruleName{key: key, at: now, source: o.event.Source, reason: o.event.Reason, class: o.event.Class, known: o.known}
	r.order = append(r.order, n)
	r.byKey[key] = append(r.byKey[key], n)
}

// dropped returns a drop with its rule's name, if it has one.
func (r *ruleNames) dropped(now time.Time, o observed) observed {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(now)
	key, ok := sightingOf(o)
	if !ok || len(r.byKey[key]) == 0 {
		return o
	}
	n := r.byKey[key][0]
	n.taken = true
	r.pop(key)
	r.named++
	o.event.Source, o.event.Reason, o.event.Class, o.known = n.source, n.reason, n.class, n.known
	return o
}

// counts: drops that got a name, names without a drop, and names forgotten early
// for want of room.
func (r *ruleNames) counts(now time.Time) (named, alone, crowded uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(now)
	return r.named, r.alone, r.crowded
}

func (r *ruleNames) expire(now time.Time) {
	for r.first < len(r.order) && now.Sub(r.order[r.first].at) > r.window {
		if !r.order[r.first].taken {
			r.alone++
		}
		r.forget()
	}
}

// forget drops the oldest name.
func (r *ruleNames) forget() {
	n := r.order[r.first]
	r.order[r.first] = nil
	r.first++
	if !n.taken { // among those of its key it is the oldest too
		r.pop(n.key)
	}
	if r.first*2 >= len(r.order) { // move down only as much as was dropped
		left := copy(r.order, r.order[r.first:])
		clear(r.order[left:])
		r.order, r.first = r.order[:left], 0
	}
}

func (r *ruleNames) pop(key sighting) {
	list := r.byKey[key]
	list[0] = nil
	if len(list) == 1 {
		delete(r.byKey, key)
		return
	}
	r.byKey[key] = list[1:]
}
