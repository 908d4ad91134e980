package flow

import (
	"fmt"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// probeRounds are when a tracer probes the TTLs that stay silent: 2 ms after the
// first time, then each gap twice as long, up to the timeout.
var probeRounds = [probeTries]time.Duration{0, 2 * time.Millisecond, 6 * time.Millisecond, 14 * time.Millisecond, 30 * time.Millisecond}

const (
	probeTimeout = 50 * time.Millisecond
	traceEpoch   = 30 * time.Second // a flow is traced once in each
	hopRTT       = 40 * time.Microsecond
)

// bucket is the budget of traces of one host.
type bucket struct {
	rate, tokens, most float64
	last               time.Duration
}

// newBucket is full: at the default rate the agents may make 50 at once.
func newBucket(rate float64, now time.Duration) bucket {
	most := max(1, 5*rate)
	return bucket{rate: rate, tokens: most, most: most, last: now}
}

func (b *bucket) take(now time.Duration) bool {
	b.tokens = min(b.most, b.tokens+b.rate*(now-b.last).Seconds())
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// book holds one trace per flow and epoch.
type book struct {
	epoch int64
	paths map[packet.Flow]*traced
}

type traced struct {
	path *decafpb.Path // as further records of the epoch show it
	done time.Duration // when the trace was over
}

// pathOf gives what a host's record shows of its flow's path, and when it has it.
func (f *Fabric) pathOf(c *conn, t time.Duration) (*decafpb.Path, time.Duration) {
	if epoch := f.options.Start.Add(t).UnixNano() / int64(traceEpoch); epoch != f.traces.epoch {
		f.traces.epoch = epoch
		clear(f.traces.paths)
	}
	if known := f.traces.paths[c.flow]; known != nil {
		return known.path, max(t, known.done)
	}
	b := f.buckets[c.src]
	if b == nil {
		full := newBucket(f.traceRate, t)
		b = &full
		f.buckets[c.src] = b
	}
	if !b.take(t) {
		return &decafpb.Path{
			Status:  decafpb.PathStatus_PATH_STATUS_REFUSED,
			Why:     fmt.Sprintf("more than %g traces per second asked of this host", f.traceRate),
			StartNs: f.clock(t),
		}, t
	}
	p := f.trace(c, t)
	done := t + time.Duration(p.GetTookNs())
	f.traces.paths[c.flow] = &traced{repeated(p), done}
	return p, done
}

// repeated is what further records of the epoch say of a path.
func repeated(p *decafpb.Path) *decafpb.Path {
	why := "traced earlier in this epoch"
	switch p.GetStatus() {
	case decafpb.PathStatus_PATH_STATUS_COMPLETE:
	case decafpb.PathStatus_PATH_STATUS_PARTIAL:
		why += ", in part: " + p.GetWhy()
	default:
		return p
	}
	return &decafpb.Path{
		Status: decafpb.PathStatus_PATH_STATUS_CACHED, Why: why,
		Hops: p.GetHops(), Distance: p.GetDistance(),
		ProbeSeq: p.GetProbeSeq(), ProbeId: p.GetProbeId(),
		StartNs: p.GetStartNs(), TookNs: p.GetTookNs(),
	}
}

// trace probes the switches of a connection's path.
func (f *Fabric) trace(c *conn, t time.Duration) *decafpb.Path {
	links := c.path.Links()
	n := len(links) - 1 // switches
	p := &decafpb.Path{
		Distance: uint32(n), ProbeSeq: f.dice.rng.Uint32(), ProbeId: uint32(1+f.dice.below(1022)) << 6,
		StartNs: f.clock(t), Hops: make([]*decafpb.Hop, n),
	}
	if c.v6 {
		p.ProbeId = 0 // there is no such field
	}
	answered, firstSilent := 0, 0
	var took time.Duration
	for ttl := 1; ttl <= n; ttl++ {
		h := &decafpb.Hop{Ttl: uint32(ttl), Status: decafpb.HopStatus_HOP_STATUS_SILENT}
		for _, after := range probeRounds {
			h.Probes++
			at, ok := f.probe(c, p, ttl, t+after)
			if !ok {
				continue
			}
			h.Status, h.Address = decafpb.HopStatus_HOP_STATUS_ANSWERED, f.graph.Address(at, c.v6).AsSlice()
			rtt := hopRTT*time.Duration(ttl) + time.Duration(f.dice.below(int(hopRTT)))
			h.RttNs = uint64(rtt)
			took = max(took, after+rtt)
			answered++
			break
		}
		if h.Status == decafpb.HopStatus_HOP_STATUS_SILENT {
			took = probeTimeout
			if firstSilent == 0 {
				firstSilent = ttl
			}
		}
		p.Hops[ttl-1] = h
	}
	p.TookNs = uint64(took)
	switch {
	case answered == n:
		p.Status = decafpb.PathStatus_PATH_STATUS_COMPLETE
	case answered == 0:
		p.Status, p.Why = decafpb.PathStatus_PATH_STATUS_FAILED, "nothing answered"
	default:
		p.Status = decafpb.PathStatus_PATH_STATUS_PARTIAL
		p.Why = fmt.Sprintf("%d of %d hops silent, first TTL %d after %d probes", n-answered, n, firstSilent, probeTries)
	}
	return p
}

// probe sends one probe, and its answer back; it gives the link by which the switch
// that answers got it.
func (f *Fabric) probe(c *conn, trace *decafpb.Path, ttl int, t time.Duration) (in Link, ok bool) {
	g := f.graph
	p := c.head(probeSize, flagACK, trace.GetProbeSeq(), 0)
	p.probe, p.ttl, p.id = true, uint8(ttl), uint16(trace.GetProbeId())|uint16(ttl)
	path := c.path.Links()
	hop, cause := f.cross(path[:ttl], &p, t, true)
	last := path[ttl-1]
	switch {
	case cause == byNone:
	case cause >= 0 && f.faults[cause].name == "ttl-loop":
		// In the loop the TTL ends as it would elsewhere, and whoever has it then
		// answers.
		m := f.loop(path, hop, ttl-hop)
		last = m.in
		f.took(cause, t)
	default:
		f.die(path, hop, cause, &p, t)
		return 0, false
	}
	f.expired(path, last, &p, t)
	at := g.to[last]
	if f.down(at, t) {
		return 0, false
	}
	// Time exceeded, from the interface that the probe came in by.
	answer := packetHead{
		v6: c.v6, src: g.address(last), dst: p.src, host: c.src, proto: icmp(c.v6), dstPort: uint16(timeExceeded(c.v6)) << 8,
		ttl: firstTTL, size: sizeOf(c.v6, 20+8+p.size), id: uint16(f.dice.below(1 << 16)), probe: true, quotes: &p,
	}
	var back Path
	f.route(f.dice, at, c.src, &back)
	return last, f.send(back.Links(), &answer, t)
}

// expired is the event of a device where a probe's TTL ended: every trace leaves
// one at each switch.
func (f *Fabric) expired(path []Link, in Link, p *packetHead, t time.Duration) {
	g := f.graph
	n := g.to[in]
	if t < f.late || !f.tells(n) {
		return
	}
	e := &decafpb.DropEvent{
		Class: "errors/l3/rx/ttl-expired", Reason: "IP_INHDR", Function: functionOf(p.v6, "ip_forward"),
		Packet: p.evidence(1, in),
	}
	out := Link(-1)
	for i, l := range path[:len(path)-1] {
		if l == in {
			out = path[i+1]
		}
	}
	f.publish(n, e, in, out, t)
}
