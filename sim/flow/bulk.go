package flow

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// maxTries is how often in a row a packet is lost before the connection is given
// up: the first try and seven more, which Linux' timeouts make within 20 s.
const maxTries = 8

// synTries are the handshake's: the first and those after 1, 3 and 7 s.
const synTries = 4

// probeTries is how often a tracer probes a TTL that stays silent.
const probeTries = 5

// Flow is one connection of the epoch form. Data packets alone are drawn; losses on
// the way back, which acknowledgements suffer, are not.
type Flow struct {
	At       time.Duration // since the start of the run; it meets the faults of this time
	Src, Dst int32         // hosts by number
	Sent     uint32        // packets, those sent again included
	Resent   uint32        // of these, sent again
	Lost     uint32        // died on the way; more than Resent when the flow gave up
	// Traced is how many links of the path its host's tracer would learn: all, or up
	// to where the probes die too, or 0 when the trace budget is used up. A
	// loss-free flow is not traced and shows its whole path here.
	Traced uint8
	V6     bool // over IPv6
	Path   Path
}

// Loss is where and why one packet of a flow died.
type Loss struct {
	Flow  int32 // index into Epoch.Flows
	Link  Link
	Fault int32 // index into the scenario's faults; -1 noise
}

// Drop is what one device says it dropped.
type Drop struct {
	Device Node
	// From and To are the nodes on the other ends of the ports named, -1 where
	// none is.
	From, To Node
	Class    string
	Count    uint64
}

// Epoch is everything that happened in a span of the run.
type Epoch struct {
	From, To time.Duration
	Flows    []Flow // by source host
	Losses   []Loss // by flow
	Drops    []Drop // in order of device, ports, class; of instrumented devices only
}

// Flows draws the connections of a span of the run: every host opens
// connections_per_host · length of them, at even times. The result depends on the
// fabric and the span alone. into, if not nil, lends its memory.
//
// A host of a fault like host-slow loses nothing and shows nothing in this form.
func (f *Fabric) Flows(from, to time.Duration, into *Epoch) *Epoch {
	if into == nil {
		into = new(Epoch)
	}
	e := into
	e.From, e.To = from, to
	e.Flows, e.Losses, e.Drops = e.Flows[:0], e.Losses[:0], e.Drops[:0]
	length := to - from
	if length <= 0 {
		return e
	}
	perHost := f.scenario.Traffic.ConnectionsPerHost * length.Seconds()
	whole := int(perHost + 1e-9)
	part := max(perHost-float64(whole), 0)
	if want := int(perHost * float64(f.graph.hosts)); cap(e.Flows) < want {
		e.Flows = make([]Flow, 0, want+want/64+16)
	}
	b := bulk{Fabric: f, dice: newDice(f.seed, "flows", from, to), e: e, drops: make(map[Drop]uint64)}
	low, span := f.scenario.Traffic.PacketsMin, f.scenario.Traffic.PacketsMax-f.scenario.Traffic.PacketsMin+1
	for src := range f.graph.hosts {
		n := whole
		if part > 0 && unit(b.dice.src.Uint64()) < part {
			n++
		}
		first := len(e.Flows)
		for range n {
			e.Flows = append(e.Flows, Flow{Src: int32(src)})
			fl := &e.Flows[len(e.Flows)-1]
			fl.At = from + time.Duration(unit(b.dice.src.Uint64())*float64(length))
			dst := f.pattern.to(b.dice, src)
			fl.Dst = int32(dst)
			fl.V6 = f.v6(b.dice)
			f.extend(b.dice, f.graph.HostNode(src), dst, &fl.Path)
			fl.Traced = fl.Path.n
			b.send(fl, low+b.dice.below(span))
		}
		b.budget(e.Flows[first:], from)
	}
	for d, n := range b.drops {
		d.Count = n
		e.Drops = append(e.Drops, d)
	}
	slices.SortFunc(e.Drops, func(a, b Drop) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Class, b.Class))
	})
	return e
}

// bulk makes one epoch.
type bulk struct {
	*Fabric
	dice   *dice
	e      *Epoch
	drops  map[Drop]uint64
	chance []chance // of the flow at hand
	lossy  []*Flow  // of the host at hand
}

// chance is one of those that every packet of a flow meets.
type chance struct {
	hazard float64
	link   Link
	cause  int32
}

// send draws what a flow of n packets loses.
func (b *bulk) send(fl *Flow, n int) {
	var sum float64
	faulty := false
	for _, l := range fl.Path.Links() {
		sum += b.noise[l]
		faulty = faulty || b.acting != nil && b.acting[l] != 0
	}
	if !faulty {
		// The common case: all packets of the flow at once.
		if all := float64(n) * sum; b.dice.left >= all {
			b.dice.left -= all
			fl.Sent = uint32(n)
			return
		}
		b.chance = b.chance[:0]
		for _, l := range fl.Path.Links() {
			b.chance = append(b.chance, chance{b.noise[l], l, byNoise})
		}
	} else {
		p := b.head(fl, flagSYN, smallSize)
		for try := range synTries {
			b.weigh(fl, &p, true)
			c := b.first()
			if c == nil {
				break
			}
			fl.Sent, fl.Lost, fl.Resent = fl.Sent+1, fl.Lost+1, uint32(try)
			b.lose(fl, c)
			if try == synTries-1 {
				b.trace(fl)
				return
			}
			fl.Resent++
		}
		p = b.head(fl, flagACK, fullSize)
		sum = b.weigh(fl, &p, false)
	}
	b.packets(fl, n, sum)
	if fl.Lost > 0 && faulty {
		b.trace(fl)
	}
}

// packets sends the data of a flow through its chances, which add up to sum.
func (b *bulk) packets(fl *Flow, n int, sum float64) {
	inARow := 0
	for need := n; ; {
		if all := float64(need) * sum; b.dice.left >= all {
			b.dice.left -= all
			fl.Sent += uint32(need)
			return
		}
		passed := min(int(b.dice.left/sum), need-1)
		b.dice.left -= float64(passed) * sum
		need -= passed
		fl.Sent += uint32(passed) + 1
		c := &b.chance[len(b.chance)-1] // where rounding leaves none, the last
		for i := range b.chance {
			if b.dice.left < b.chance[i].hazard {
				c = &b.chance[i]
				break
			}
			b.dice.left -= b.chance[i].hazard
		}
		b.dice.left = b.dice.rng.ExpFloat64()
		b.lose(fl, c)
		fl.Lost++
		if passed > 0 {
			inARow = 0
		}
		if inARow++; inARow == maxTries {
			return
		}
		fl.Resent++
	}
}

func (b *bulk) head(fl *Flow, flags uint8, size uint16) packetHead {
	g := b.graph
	return packetHead{
		v6: fl.V6, src: g.address(g.hostDown(int(fl.Src))), dst: g.address(g.hostDown(int(fl.Dst))),
		host: int(fl.Dst), dstPort: Port, flags: flags, size: sizeOf(fl.V6, size),
	}
}

// weigh lists the chances of a packet of the flow, in the order it meets them. With
// only, those of faults that take nothing but SYNs: the handshake's other losses
// are no data's.
func (b *bulk) weigh(fl *Flow, p *packetHead, only bool) (sum float64) {
	b.chance = b.chance[:0]
	add := func(h float64, l Link, cause int32) {
		if h > 0 {
			b.chance = append(b.chance, chance{h, l, cause})
			sum += h
		}
	}
	for _, l := range fl.Path.Links() {
		noise := b.noise[l]
		if only {
			noise = 0
		}
		for _, k := range b.faultsOn(l) {
			ft := b.faults[k]
			if ft.stage != stageQueue {
				add(noise, l, byNoise)
				noise = 0
			}
			if ft.syn || !only {
				add(ft.takes(b.graph, p, fl.At, false), l, k)
			}
		}
		add(noise, l, byNoise)
	}
	return sum
}

// first sends one packet through the chances; nil when it arrives.
func (b *bulk) first() *chance {
	for i := range b.chance {
		if b.dice.meets(b.chance[i].hazard) {
			return &b.chance[i]
		}
	}
	return nil
}

// lose notes where a packet died, and what the device there says.
func (b *bulk) lose(fl *Flow, c *chance) {
	b.e.Losses = append(b.e.Losses, Loss{Flow: int32(len(b.e.Flows) - 1), Link: c.link, Fault: c.cause})
	if c.cause < 0 || fl.At < b.late {
		return
	}
	ft := b.faults[c.cause]
	if ft.class == "" {
		return
	}
	g := b.graph
	d := Drop{Device: g.to[c.link], From: -1, To: -1, Class: ft.class}
	out := Link(-1) // the port named, as a link that leaves it
	switch {
	case ft.stage == stageQueue:
		d.Device, out = g.from[c.link], c.link
		d.To = g.to[c.link]
	case ft.name == "ttl-loop":
		path := fl.Path.Links()
		hop := slices.Index(path, c.link)
		d.Device = g.to[b.loop(path, hop, firstTTL-hop).in]
	case ft.counted: // errors of the port it came in by
		out = c.link ^ 1
		d.From = g.from[c.link]
	}
	if !b.tells(d.Device) {
		return
	}
	if b.agents[d.Device] == agentAstray {
		// The device's own faults name no port; one that errs names one.
		if out < 0 {
			out = c.link ^ 1
		}
		other := g.to[b.stray(out)]
		if d.From >= 0 {
			d.From = other
		} else {
			d.To = other
		}
	}
	b.drops[d]++
}

// trace finds how much of its path a lossy flow's tracer learns: up to the first
// switch none of whose probes comes through. Answers are taken to come back.
func (b *bulk) trace(fl *Flow) {
	p := b.head(fl, flagACK, smallSize)
	var upTo float64 // hazard of a probe that is to pass
	path := fl.Path.Links()
	for i, l := range path[:len(path)-1] {
		here := b.noise[l]
		for _, k := range b.faultsOn(l) {
			here += b.faults[k].takes(b.graph, &p, fl.At, true)
		}
		if dies := -math.Expm1(-(upTo + here)); dies > 1e-3 && unit(b.dice.src.Uint64()) < math.Pow(dies, probeTries) {
			fl.Traced = uint8(i)
			return
		}
		upTo += b.noise[l]
		for _, k := range b.faultsOn(l) {
			upTo += b.faults[k].takes(b.graph, &p, fl.At, false)
		}
	}
}

// budget refuses traces beyond what a host may make: a bucket of traces, filled
// at the agents' rate from the start of the span.
func (b *bulk) budget(flows []Flow, from time.Duration) {
	b.lossy = b.lossy[:0]
	for i := range flows {
		if flows[i].Lost > 0 {
			b.lossy = append(b.lossy, &flows[i])
		}
	}
	bucket := newBucket(b.traceRate, from)
	if float64(len(b.lossy)) <= bucket.tokens {
		return
	}
	slices.SortFunc(b.lossy, func(x, y *Flow) int { return cmp.Compare(x.At, y.At) })
	for _, fl := range b.lossy {
		if !bucket.take(fl.At) {
			fl.Traced = 0
		}
	}
}
