package device

import (
	"container/list"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// loops tells which of the packets whose TTL expired went round in circles, so
// that they are no traces: the device would have sent them back out of the
// interface that they came in by, or saw the very same packet before. Of each flow
// that is told once in a while only. It does no I/O, the time is a parameter, and
// it is not safe for concurrent use.
type loops struct {
	quiet time.Duration // after a flow was told of
	most  int           // packets, and flows, remembered

	packets, flows *recent

	forgotten uint64 // for want of room
}

// sighted names a packet that was seen: its flow and what tells it from the
// flow's others.
type sighted struct {
	flow   packet.Flow
	id     uint32
	seq    uint32
	length uint32
}

const (
	// A packet that loops has come round again within this; the times between a
	// flow's events are as long.
	loopQuiet = 10 * time.Second
	// maxLoops bounds the packets and flows that are remembered.
	maxLoops = 8192
	// longestProbe is more than what traceroutes send by default.
	longestProbe = 100
)

func newLoops(quiet time.Duration, most int) *loops {
	return &loops{quiet: quiet, most: max(most, 1), packets: newRecent(), flows: newRecent()}
}

// reasons of an anomaly/loop event.
const (
	loopBack  = "ROUTE_BACK"   // the way on is the way it came
	loopAgain = "PACKET_TWICE" // the very packet came by before
)

// take looks at a drop and returns why it went in a circle, "" when it did not or
// its flow was told of.
func (l *loops) take(now time.Time, ev *decafpb.DropEvent) string {
	if ev.Class != ErrorsL3RxTTL || ev.Packet == nil {
		return ""
	}
	f, err := packet.FlowFromPB(ev.Packet.Flow)
	if err != nil {
		return ""
	}
	s := sighted{flow: f, id: ev.Packet.IpId, seq: ev.Packet.TcpSeq, length: ev.Packet.Length}
	why := ""
	switch {
	case ev.Ingress != "" && ev.Ingress == ev.Egress:
		why = loopBack
	// Without an identification one packet is like the next, and a trace may send
	// a probe again.
	case s.id != 0 && s.length > longestProbe && !l.see(l.packets, s, now):
		why = loopAgain
	}
	if why == "" || !l.see(l.flows, f, now) {
		return ""
	}
	return why
}

// see remembers a key, and reports whether it was not there.
func (l *loops) see(r *recent, key any, now time.Time) bool {
	r.expire(now, l.quiet)
	if _, ok := r.known[key]; ok {
		return false
	}
	if len(r.known) >= l.most {
		r.drop(r.order.Front())
		l.forgotten++
	}
	r.known[key] = r.order.PushBack(memory{key, now})
	return true
}

// recent is what was seen, oldest first.
type recent struct {
	known map[any]*list.Element
	order *list.List
}

type memory struct {
	key any
	at  time.Time
}

func newRecent() *recent { return &recent{known: map[any]*list.Element{}, order: list.New()} }

// expire forgets what is older than that, or from the time before the clock
// stepped back.
func (r *recent) expire(now time.Time, age time.Duration) {
	for e := r.order.Front(); e != nil; e = r.order.Front() {
		if d := now.Sub(e.Value.(memory).at); d >= 0 && d < age {
			return
		}
		r.drop(e)
	}
}

func (r *recent) drop(e *list.Element) {
	delete(r.known, e.Value.(memory).key)
	r.order.Remove(e)
}

// loopEvent is the anomaly beside a drop: no loss of its own, so it counts no
// packets.
func loopEvent(drop *decafpb.DropEvent, why string) observed {
	return observed{known: true, event: &decafpb.DropEvent{
		TimeNs: drop.TimeNs, Class: AnomalyLoop, Reason: why, Source: drop.Source,
		Ingress: drop.Ingress, Egress: drop.Egress, Packet: drop.Packet,
	}}
}
