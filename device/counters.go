package device

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// CountersConfig makes the agent read the counters of interfaces and their
// queues: losses that leave no packet to show, such as frames that arrived
// damaged; and those of firewall rules (nftables) that have one, every 5 s or more,
// which are served as they are.
type CountersConfig struct {
	// Interval is how often they are read; 0 switches the source off.
	Interval time.Duration `yaml:"interval"`
}

// Validate says what is wrong with the configuration and what to do about it.
func (c *CountersConfig) Validate() error {
	if c.Interval != 0 && (c.Interval < minInterval || c.Interval > maxInterval) {
		return fmt.Errorf("counters: interval %s: give 0s (off), or a duration from %s to %s", c.Interval, minInterval, maxInterval)
	}
	return nil
}

// counter is one of an interface's, in the order and with the meaning of struct
// rtnl_link_stats64 (include/uapi/linux/if_link.h).
type counter uint8

const (
	rxErrors counter = iota
	txErrors
	rxDropped
	txDropped
	rxLength
	rxOver
	rxCRC
	rxFrame
	rxFIFO
	rxMissed
	allCounters
)

// InterfaceCounters is what an interface counts of its losses.
type InterfaceCounters struct {
	Name  string
	Index uint32
	// By the names of OpenConfig's interface counters.
	InErrors, InDiscards, InFCSErrors uint64
	OutErrors, OutDiscards            uint64 // discards include its queues'
	Queues                            []QueueCounters
}

// QueueCounters is what one queue of an interface counts.
type QueueCounters struct {
	Name         string // "tbf-8001:", the queue discipline and its handle
	Queue        uint32
	DroppedPkts  uint64
	BacklogBytes uint64
	// DroppedOctets are the bytes, from the IP header on, of the packets that it
	// dropped since the agent began: the queue does not count them, the kernel told
	// of them drop by drop. It did not where Octets is false: without the kernel
	// source, and on an interface of several queues, whose drops may come without
	// their queue.
	DroppedOctets uint64
	Octets        bool
}

// portReading is what the counters of one interface say at one moment.
type portReading struct {
	index  uint32
	name   string
	kind   string // of a virtual interface: "veth"; "" of hardware
	counts [allCounters]uint64
	queues []queueReading
}

// queueReading is what a queue discipline says.
type queueReading struct {
	handle  uint32
	parent  uint32 // its place: another's handle and class
	kind    string // "tbf"
	drops   uint32 // it wraps
	backlog uint32 // bytes
}

// Places of queue disciplines, of include/uapi/linux/pkt_sched.h.
const (
	queueRoot    = 0xffffffff
	queueIngress = 0xfffffff1 // that of ingress and clsact, which only filter
	queueMajor   = 0xffff0000
)

// queue numbers the hardware queue that it is for: a discipline for many queues
// (mq) has one child for each, from class 1 on.
func (q *queueReading) queue() uint32 {
	if q.parent == queueRoot || q.filters() || q.parent&^queueMajor == 0 {
		return 0
	}
	return q.parent&^queueMajor - 1
}

// filters reports whether what it dropped, a filter at it dropped.
func (q *queueReading) filters() bool { return q.parent == queueIngress }

// heads are the queue disciplines whose drops are all there are of an interface:
// each counts those of its classes too (qdisc_tree_reduce_backlog in
// net/sched/sch_api.c), but one for many queues is told of by its children, which
// know their queue.
func (p *portReading) heads() []queueReading {
	many := map[uint32]bool{}
	for _, q := range p.queues {
		if q.parent == queueRoot && (q.kind == "mq" || q.kind == "mqprio") {
			many[q.handle&queueMajor] = true
		}
	}
	var out []queueReading
	for _, q := range p.queues {
		switch {
		case q.filters():
		case q.parent == queueRoot && many[q.handle&queueMajor]:
			continue
		case q.parent == queueRoot:
		case !many[q.parent&queueMajor]:
			continue
		}
		out = append(out, q)
	}
	return out
}

// side is where packets are counted that the kernel, too, may have told of.
type side uint8

const (
	noSide side = iota
	receiving
	sending
	queueing
	filtering
	allSides
)

// part is one cause of loss in an interface's counters. Parts do not overlap.
type part struct {
	reason string
	class  string
	side   side
	of     func(rise *[allCounters]uint64) uint64
}

// parts map an interface's counters to classes. Within a side the more general
// stand first: what the kernel told of is taken from them first.
var parts = []part{
	{"rx_dropped", Unknown, receiving, just(rxDropped)},
	// What rx_errors counts beside its named parts, which it includes.
	{"rx_errors", "errors/l2/rx", receiving, func(r *[allCounters]uint64) uint64 {
		return less(r[rxErrors], r[rxCRC]+r[rxFrame]+r[rxLength]+max(r[rxFIFO], r[rxOver]))
	}},
	// Drivers use one of these, or several for the same packets.
	{"rx_missed_errors", NoBuffer, receiving, func(r *[allCounters]uint64) uint64 { return max(r[rxMissed], r[rxFIFO], r[rxOver]) }},
	{"rx_length_errors", ErrorsL2RxFrame, receiving, just(rxLength)},
	{"rx_frame_errors", ErrorsL2RxFrame, receiving, just(rxFrame)},
	{"rx_crc_errors", ErrorsL2RxCRC, receiving, just(rxCRC)},
	{"tx_dropped", NoBuffer, sending, just(txDropped)},
	{"tx_errors", ErrorsL2Tx, sending, just(txErrors)},
}

func just(c counter) func(*[allCounters]uint64) uint64 {
	return func(r *[allCounters]uint64) uint64 { return r[c] }
}

func less(a, b uint64) uint64 { return a - min(a, b) }

// toldByOthers are counters of virtual interfaces that count what another
// namespace drops, whose kernel tells of it: what a veth could not send, its other
// end had no room for.
var toldByOthers = map[string][]counter{"veth": {txDropped}}

// queueReasons are the kernel's reasons for what a queue discipline drops, and
// counts.
var queueReasons = map[string]bool{
	"QDISC_DROP": true, "QDISC_OVERLIMIT": true, "QDISC_CONGESTED": true, "CAKE_FLOOD": true,
	"FQ_BAND_LIMIT": true, "FQ_HORIZON_LIMIT": true, "FQ_FLOW_LIMIT": true, "DUALPI2_STEP_DROP": true,
}

// shownByCounters reports whether the counters of an interface or of its queues show
// drops of class no-buffer of a reason.
func shownByCounters(reason string) bool {
	return queueReasons[reason] || strings.HasSuffix(reason, queueDrops) || reason == "tx_dropped"
}

// queueDrops ends the reason of drops that only a queue's counter told of: "tbf_drops".
const queueDrops = "_drops"

// tunnelErrors are the reasons for which the function where a tunnel's device takes
// packets out drops one and counts an error of that device.
var tunnelErrors = map[string][]string{"vxlan_rcv": {"IP_TUNNEL_ECN", "PKT_TOO_SMALL"}}

// countedOn tells the side of an interface whose counters a drop that the kernel
// told of has raised, if any; in and out are its interfaces. Drops without a rule
// may have: drivers give no reason.
func countedOn(reason, function, class string, in, out uint32) (side, uint32) {
	switch {
	case slices.Contains(tunnelErrors[function], reason):
		return receiving, in
	case queueReasons[reason]:
		return queueing, out
	case reason == "TC_INGRESS":
		return filtering, in
	case reason == "TC_EGRESS":
		return filtering, out
	case reason == "CPU_BACKLOG", reason == "UNHANDLED_PROTO":
		return receiving, in
	case class != Unknown && !isUnder(class, "errors/l2"):
		return noSide, 0
	case out != 0:
		return sending, out
	}
	return receiving, in
}

// isUnder reports whether a class is another or below it.
func isUnder(class, parent string) bool {
	return class == parent || len(class) > len(parent) && class[:len(parent)] == parent && class[len(parent)] == '/'
}

// counterCounts is what came of counters and what was left out.
type counterCounts struct {
	readings, told, failed, leftOut uint64
	rulesLeftOut                    uint64 // firewall rules beyond maxRules, as last read
}

// rise is packets that were lost without anybody having told of them.
type rise struct {
	class, reason string
	index         uint32 // of the interface
	name          string // its
	ingress       bool   // they came in by it; else they were to leave by it
	queue         uint32
	packets       uint64
	at            time.Time // of the reading
}

// rises makes losses of counters that rise. Where the kernel tells of drops too,
// a packet that it told of and that a counter counts is left out. The kernel's word
// comes to the agent after the counter has risen, and while it has much to say long
// after: so what rose waits until all was heard that the kernel had to say then, and
// what was explained by that is taken from it.
//
// A counter that falls (a driver that was reset, a queue that was replaced) starts
// over; what it counted before its first reading is nobody's. It does no I/O and
// is not safe for concurrent use.
type rises struct {
	kernel  bool // tells of drops too
	most    int  // interfaces that are followed
	ports   map[uint32]*port
	waiting []batch // oldest first

	readings uint64
	leftOut  uint64 // interfaces beyond most, in each
	told     uint64 // packets
}

// port is what is known of one interface.
type port struct {
	last    portReading
	queues  map[uint64]uint32 // drops by handle and place
	octets  uint64            // of drops at its queues that the kernel told of
	credits [allSides][]credit
	missing int // readings in a row that it was not in
}

// credit is packets that the kernel told of and no counter is known to have
// counted yet. Those told of while a reading was made may be in the next one only,
// but no later.
type credit struct {
	reading uint64 // that was done last when it told
	packets uint64
}

// batch is what rose in one reading.
type batch struct {
	number uint64 // of the reading
	at     time.Time
	rises  []rise
}

const (
	// maxPorts bounds the interfaces that are followed; one takes some 500 bytes.
	maxPorts = 16384
	// forgetAfter is in how many lists an interface is missing before it is gone:
	// a list that changed while it was made may lack it.
	forgetAfter = 3
	// maxWaiting bounds the readings that wait; when there are more two become
	// one.
	maxWaiting = 32
)

func newRises(kernel bool, most int) *rises {
	return &rises{kernel: kernel, most: most, ports: map[uint32]*port{}}
}

// explain takes in drops that the kernel told of, of so many bytes together.
func (r *rises) explain(s side, index uint32, drops, bytes uint64) {
	p := r.ports[index]
	if p == nil || s == noSide {
		return
	}
	if s == queueing {
		p.octets += bytes
	}
	if list := p.credits[s]; len(list) > 0 && list[len(list)-1].reading == r.readings {
		list[len(list)-1].packets += drops
		return
	}
	p.credits[s] = append(p.credits[s], credit{r.readings, drops}) // at most one for each reading that waits, and two
}

// read takes in what all interfaces count now.
func (r *rises) read(at time.Time, now []portReading) {
	r.readings++
	b := batch{number: r.readings, at: at}
	seen := make(map[uint32]bool, len(now))
	for i := range now {
		n := &now[i]
		seen[n.index] = true
		p := r.ports[n.index]
		if p == nil {
			if len(r.ports) >= r.most {
				r.leftOut++
				continue
			}
			p = &port{last: *n, queues: map[uint64]uint32{}}
			for _, q := range n.queues {
				p.queues[q.key()] = q.drops
			}
			r.ports[n.index] = p
			continue
		}
		p.missing = 0
		b.rises = append(b.rises, p.rises(n, r.kernel)...)
	}
	for index, p := range r.ports {
		if seen[index] {
			continue
		}
		if p.missing++; p.missing >= forgetAfter {
			delete(r.ports, index)
		}
	}
	for i := range b.rises {
		b.rises[i].at = at
	}
	r.waiting = append(r.waiting, b)
	if len(r.waiting) > maxWaiting {
		r.waiting[1].merge(r.waiting[0])
		r.waiting = slices.Delete(r.waiting, 0, 1)
	}
}

// merge takes in what rose before.
func (b *batch) merge(before batch) {
	for _, x := range before.rises {
		i := slices.IndexFunc(b.rises, func(y rise) bool { return y.index == x.index && y.reason == x.reason && y.queue == x.queue })
		if i < 0 {
			b.rises = append(b.rises, x)
			continue
		}
		b.rises[i].packets += x.packets
	}
}

// settle returns what was lost by the readings up to a time and nobody told of;
// all that the kernel had to say until then was explained.
func (r *rises) settle(upTo time.Time) []rise {
	var out []rise
	for len(r.waiting) > 0 && !r.waiting[0].at.After(upTo) {
		b := r.waiting[0]
		r.waiting = slices.Delete(r.waiting, 0, 1)
		for _, x := range b.rises {
			if p := r.ports[x.index]; p != nil {
				x.packets -= p.explained(x.side(), x.packets)
			}
			if x.packets > 0 {
				r.told += x.packets
				out = append(out, x)
			}
		}
		// What was told before the reading before this one, and is in no counter,
		// none counts.
		for _, p := range r.ports {
			for s := range p.credits {
				p.credits[s] = slices.DeleteFunc(p.credits[s], func(c credit) bool { return c.reading+1 < b.number })
			}
		}
	}
	return out
}

// explained uses up to so many credits, the oldest first, and returns how many
// there were.
func (p *port) explained(s side, most uint64) (n uint64) {
	list := p.credits[s]
	for len(list) > 0 && n < most {
		used := min(list[0].packets, most-n)
		n += used
		if list[0].packets -= used; list[0].packets == 0 {
			list = list[1:]
		}
	}
	p.credits[s] = list
	return n
}

func (q *queueReading) key() uint64 { return uint64(q.handle)<<32 | uint64(q.parent) }

// rises returns what rose since the last reading.
func (p *port) rises(n *portReading, kernel bool) []rise {
	var up [allCounters]uint64
	for c := range up {
		up[c] = less(n.counts[c], p.last.counts[c])
	}
	if kernel {
		for _, c := range toldByOthers[n.kind] {
			up[c] = 0
		}
	}
	var out []rise
	for _, x := range parts {
		if packets := x.of(&up); packets > 0 {
			out = append(out, rise{class: x.class, reason: x.reason, index: n.index, name: n.name, ingress: x.side == receiving, packets: packets})
		}
	}
	queues := make(map[uint64]uint32, len(n.queues))
	for _, q := range n.heads() {
		queues[q.key()] = q.drops
		before, known := p.queues[q.key()]
		up := q.drops - before // of 32 bits, which wrap
		if !known || up == 0 || up > 1<<31 {
			continue
		}
		x := rise{class: NoBuffer, reason: q.kind + queueDrops, index: n.index, name: n.name, queue: q.queue(), packets: uint64(up)}
		if q.filters() {
			x.class, x.ingress = PolicyL3ACL, true
		}
		out = append(out, x)
	}
	p.last, p.queues = *n, queues
	return out
}

// side tells which credits a rise is held against.
func (x *rise) side() side {
	for i := range parts {
		if parts[i].reason == x.reason {
			return parts[i].side
		}
	}
	if x.class == NoBuffer {
		return queueing
	}
	return filtering
}

// counters tells what the interfaces counted, as last read.
func (r *rises) counters() []InterfaceCounters {
	var out []InterfaceCounters
	for _, index := range slices.Sorted(maps.Keys(r.ports)) {
		n := &r.ports[index].last
		c := InterfaceCounters{
			Name: n.name, Index: index,
			InErrors: n.counts[rxErrors], InDiscards: n.counts[rxDropped] + n.counts[rxMissed], InFCSErrors: n.counts[rxCRC],
			OutErrors: n.counts[txErrors], OutDiscards: n.counts[txDropped],
		}
		heads := slices.DeleteFunc(n.heads(), func(q queueReading) bool { return q.filters() })
		for _, q := range heads {
			c.OutDiscards += uint64(q.drops)
			told := QueueCounters{Name: fmt.Sprintf("%s-%x:", q.kind, q.handle>>16), Queue: q.queue(), DroppedPkts: uint64(q.drops), BacklogBytes: uint64(q.backlog)}
			if r.kernel && len(heads) == 1 {
				told.DroppedOctets, told.Octets = r.ports[index].octets, true
			}
			c.Queues = append(c.Queues, told)
		}
		out = append(out, c)
	}
	return out
}
