package blame

import (
	"fmt"
	"math"
	"strings"
)

// Most links that lose packets for a moment are congested: their queue
// overflowed. Those are no faults, and come out under the class of such drops.

// congestion is the discard class of a queue that overflows.
const congestion = "no-buffer"

func isCongestion(class string) bool {
	return class == congestion || strings.HasPrefix(class, congestion+"/")
}

// period is when a link lost packets, where it was not all the time.
type period struct {
	Span            // zero: nobody knows, but it shows by how many of a flow's packets were lost
	share   float64 // of the epoch's packets, which were sent then
	passing bool    // it began and ended within the epoch
	nats    float64 // of the likelihood averaged over periods, over that at this one
}

// same says whether two periods are of the same time and kind.
func (p *period) same(o *period) bool {
	if p == nil || o == nil {
		return p == o
	}
	return p.Span == o.Span && p.passing == o.passing
}

const (
	// Of the faults in an epoch that are not mere congestion, few begin or end in it:
	// they last for an hour or so, and an epoch for half a minute.
	faultLasts  = 0.98
	faultBegins = 0.01
	faultEnds   = 0.01

	// Congestion is overload by less than a half: what takes more of the packets
	// for a moment is something else, a link that flaps.
	congestedMost = 0.35
)

// passes are the lengths of congestion in seconds, all alike before looking.
var passes = []float64{.5, 1, 2, 4, 8}

// during leaves what was lost in a period: what was certainly lost then, and of
// losses of an unknown time as many as there were packets then.
func (e *engine) during(hits []hit, p *period) []hit {
	if p == nil {
		return hits
	}
	out := make([]hit, 0, len(hits))
	for _, h := range hits {
		switch s := e.rows[h.flow].when; {
		case !s.Known() || !p.Known():
			h.own *= float32(p.share)
			h.share *= float32(p.share)
		case !s.within(p.Span):
			continue
		}
		out = append(out, h)
	}
	return out
}

// packetsDuring is the packets through a link in a period.
func (e *engine) packetsDuring(l int32, p *period) float64 {
	if p == nil {
		return e.packets[l]
	}
	return e.packets[l] * p.share
}

// date asks of each link fault that no device spoke of when it lost packets:
// all the time, from some time on, until some time, or in between; of those asked
// before only if again is true or there are no times, which costs little. It says
// whether any answer changed.
func (e *engine) date(again bool) (changed bool) {
	if e.timeless {
		return false
	}
	others := e.learn(certain)
	for _, f := range e.faults {
		if f.at.Kind != Link || f.told || f.weak || f.dated && !again && e.clock.before != nil {
			continue
		}
		f.dated = true
		e.addRates(f, -1)
		all := e.effective(f.always)
		p := e.periodOf(f.at.ID, all, e.likeliest(all, e.packets[f.at.ID]), others, f)
		if !p.same(f.period) {
			changed = true
			f.dateTo(e, p)
			f.params[0].x = e.likeliest(e.effective(f.params[0].hits), f.params[0].packets)
		}
		e.addRates(f, 1)
	}
	return changed
}

// dateTo gives a link fault its period; nil: all the time.
func (f *fault) dateTo(e *engine, p *period) {
	l := f.at.ID
	f.period = p
	f.congested = p != nil && p.passing
	f.params[0].hits, f.params[0].packets = e.during(f.always, p), e.packetsDuring(l, p)
}

// dated is a loss with its time.
type dated struct {
	span          Span
	from, mid, to int32   // bins of its begin, middle and end
	mass          float64 // what the link explains of it
	cost          float64 // nats for leaving it to the rest
}

// periodOf finds when a link lost packets that would most likely have this rate if
// it were all the time. e.rate is without it; nil: all the time, or nobody can say.
//
// At a rate that lasts, losses fall evenly over the packets. In a period with a
// share q of the packets, and of the losses m of M, the likelihood is greater by
// (m/Mq)^m·e^(M−m), but for what the losses outside cost. Averaged over the
// periods that may be, it is comparable with that of no period.
func (e *engine) periodOf(l int32, hits []hit, x float64, others learned, self *fault) *period {
	if x <= 0 || e.timeless {
		return nil
	}
	losses := e.windows.losses[:0]
	var counts crowds
	mass, cost := 0.0, 0.0
	for _, h := range hits {
		r := &e.rows[h.flow]
		part := x * float64(h.own)
		share := min(part/(part+e.rate[h.flow]), 1-1e-9)
		if share < 0.01 {
			continue
		}
		if !r.when.Known() || e.clock.before == nil {
			counts.add(r, share)
			continue
		}
		d := dated{span: r.when, mass: r.lost * share, cost: -r.lost * math.Log1p(-share)}
		losses = append(losses, d)
		mass, cost = mass+d.mass, cost+d.cost
	}
	e.windows.losses = losses
	if mass < singleFlow {
		return e.untimed(l, &counts, others, self)
	}
	w := &e.windows
	if w.c == nil {
		bins := len(e.clock.before) - 1
		w.c, w.densest = &e.clock, math.Log(float64(bins))
		w.masses, w.costs = again(w.masses, bins+1), again(w.costs, bins+1)
	}
	for i := range losses {
		d := &losses[i]
		d.from, d.to, d.mid = w.c.bin(d.span.From), w.c.bin(d.span.To), w.c.bin((d.span.From+d.span.To)/2)
	}
	w.mass, w.cost = mass, cost
	s := e.stratum(Component{Link, l})
	prior := func(s stratum, share float64) float64 {
		return e.priorAt(s, math.Min(rateCeiling, x/share), mass, others, self)
	}
	best, period := prior(s, 1)+math.Log(faultLasts), (*period)(nil)
	consider := func(p *guess, prior, share float64) {
		if odds := prior + math.Log(share) + p.nats; odds > best {
			best, period = odds, p.period(w)
			period.nats += math.Log(share)
		}
	}
	begins, ends := w.edge(true), w.edge(false)
	if begins != nil {
		consider(begins, prior(s, e.clock.share(begins.Span)), faultBegins)
	}
	if ends != nil {
		consider(ends, prior(s, e.clock.share(ends.Span)), faultEnds)
	}
	if pass := w.passing(); pass != nil {
		consider(pass, prior(s+bursts, e.clock.share(pass.Span)), 1)
	}
	return period
}

// crowds is losses of unknown times, by how many there were in each flow.
type crowds struct {
	lost, packets []float64
	all           float64
}

func (c *crowds) add(r *row, share float64) {
	c.all += share * r.total
	if share >= 0.5 {
		c.lost, c.packets = append(c.lost, r.total), append(c.packets, r.packets)
	}
}

// gain is the log of the likelihood of how many packets each lossy flow lost at
// a rate y over that at a rate x.
func (c *crowds) gain(x, y float64) (sum float64) {
	for i, r := range c.lost {
		t := c.packets[i]
		sum += r*math.Log(y/x) - logExpm1(y*t) + logExpm1(x*t)
	}
	return sum
}

func logExpm1(x float64) float64 {
	if x > 30 {
		return x
	}
	return math.Log(math.Expm1(x))
}

const (
	// crowdsCount is what of the evidence in how losses crowd is believed: they do
	// so for other reasons too, such as a sender that repeats more than was lost.
	crowdsCount = 0.5
	crowdsFlows = 3 // flows below which nothing is read into it
	crowdsRates = 8 // rates tried,
	crowdsLeast = 4 // from so many times the rate of all the time
	crowdsMost  = 0.5
)

// untimed asks by the losses of each flow alone whether they were of a moment:
// then few flows lost many packets each, and the rest, which passed at other
// times, none.
func (e *engine) untimed(l int32, c *crowds, others learned, self *fault) *period {
	packets := e.packets[l]
	if len(c.lost) < crowdsFlows || packets <= 0 {
		return nil
	}
	x := math.Min(crowdsMost/2, c.all/packets)
	var logs []float64
	best, rate := math.Inf(-1), x
	least := math.Min(crowdsMost, x*crowdsLeast)
	for i := range crowdsRates {
		y := least * math.Pow(crowdsMost/least, float64(i)/(crowdsRates-1))
		g := c.gain(x, y) * crowdsCount
		logs = append(logs, g)
		if g > best {
			best, rate = g, y
		}
	}
	s, mass := e.stratum(Component{Link, l}), float64(len(c.lost))
	lasts := e.priorAt(s, x, mass, others, self) + math.Log(faultLasts)
	passes := e.priorAt(s+bursts, rate, mass, others, self) + addLogs(logs...) - math.Log(crowdsRates)
	if passes <= lasts {
		return nil
	}
	return &period{share: x / rate, passing: true}
}

// windows weighs the periods that a link's losses may have been in.
type windows struct {
	c          *clock
	losses     []dated
	mass, cost float64
	densest    float64 // log of the bins

	masses, costs, gains []float64 // scratch
}

// guess is the likeliest period of its kind, and the log of the likelihood of
// all of them.
type guess struct {
	Span
	nats    float64
	passing bool
}

// gain is the log of the likelihood of a period over that of all the time.
func (w *windows) gain(mass, cost, share float64) float64 {
	out := w.mass - mass - (w.cost - cost)
	if mass > 0 {
		out += mass * math.Log(mass/(w.mass*math.Max(share, 1e-9)))
	}
	return out
}

// hopeless says, at little cost, whether a period that leaves so much outside
// cannot be: even if it were the shortest there is.
func (w *windows) hopeless(mass, cost float64) bool {
	const nats = -8
	return w.mass-mass-(w.cost-cost)+mass*w.densest < nats
}

// inside sums the losses within a span.
func (w *windows) inside(s Span) (mass, cost float64) {
	for _, d := range w.losses {
		if d.span.within(s) {
			mass, cost = mass+d.mass, cost+d.cost
		}
	}
	return mass, cost
}

// edge weighs the periods from a time on, or until a time.
func (w *windows) edge(begins bool) *guess {
	bins := len(w.c.before) - 1
	mass, cost := w.masses, w.costs
	clear(mass)
	clear(cost)
	for i := range w.losses {
		d := &w.losses[i]
		b := d.from
		if !begins {
			b = d.to
		}
		mass[b] += d.mass
		cost[b] += d.cost
	}
	gains := w.gains[:0]
	top, at := math.Inf(-1), 0
	m, k := 0.0, 0.0
	for i := range bins - 1 {
		b, share := i, w.c.before[i+1]
		if begins {
			b = bins - 1 - i
			share = 1 - w.c.before[b]
		}
		m, k = m+mass[b], k+cost[b]
		if w.hopeless(m, k) {
			continue
		}
		g := w.gain(m, k, share)
		gains = append(gains, g)
		if g > top {
			top, at = g, b
		}
	}
	w.gains = gains
	if len(gains) == 0 || math.IsInf(top, -1) {
		return nil
	}
	g := &guess{Span: Span{w.c.From, w.c.time(at + 1)}, nats: addLogs(gains...) - math.Log(float64(bins-1))}
	if begins {
		g.Span = Span{w.c.time(at), w.c.To}
	}
	return g
}

// passing weighs the periods in between.
func (w *windows) passing() *guess {
	bins := len(w.c.before) - 1
	each := w.c.length() / float64(bins)
	mass, cost, gains := w.masses, w.costs, w.gains
	var logs []float64
	var best *guess
	top := math.Inf(-1)
	lengths, counted := 0, -1
	for _, lasts := range passes {
		n := int(math.Ceil(lasts / each))
		if n > bins/3 {
			break
		}
		lengths++
		// Mostly the times of losses are exact: all of them are counted at every length.
		if brief := w.within(lasts); brief != counted {
			counted = brief
			w.sum(lasts)
		}
		gains = gains[:0]
		for i := 0; i+n <= bins; i++ {
			if w.hopeless(mass[i+n]-mass[i], cost[i+n]-cost[i]) {
				continue
			}
			g := w.gain(mass[i+n]-mass[i], cost[i+n]-cost[i], w.c.before[i+n]-w.c.before[i])
			gains = append(gains, g)
			if g > top {
				top, best = g, &guess{Span: Span{w.c.time(i), w.c.time(i + n)}, passing: true}
			}
		}
		if len(gains) > 0 {
			logs = append(logs, addLogs(gains...)-math.Log(float64(bins-n+1)))
		}
	}
	if best == nil {
		return nil
	}
	best.nats = addLogs(logs...) - math.Log(float64(lengths))
	return best
}

// within counts the losses whose time is known as exactly.
func (w *windows) within(lasts float64) (n int) {
	for i := range w.losses {
		if w.losses[i].span.length() <= lasts {
			n++
		}
	}
	return n
}

// sum leaves in masses and costs those of all losses before a bin, of which the
// time is known so exactly.
func (w *windows) sum(lasts float64) {
	mass, cost := w.masses, w.costs
	clear(mass)
	clear(cost)
	for i := range w.losses {
		if d := &w.losses[i]; d.span.length() <= lasts {
			mass[d.mid+1] += d.mass
			cost[d.mid+1] += d.cost
		}
	}
	for i := range len(mass) - 1 {
		mass[i+1] += mass[i]
		cost[i+1] += cost[i]
	}
}

// period closes in on the losses: as far beyond them as they are apart.
func (g *guess) period(w *windows) *period {
	span, wide := g.Span, g.length()
	from, to, n := math.Inf(1), math.Inf(-1), 0.0
	for _, d := range w.losses {
		if mid := (d.span.From + d.span.To) / 2; mid >= span.From && mid <= span.To && d.span.length() <= wide {
			from, to, n = math.Min(from, d.span.From), math.Max(to, d.span.To), n+d.mass
		}
	}
	if n > 0 {
		beyond := math.Min(wide/2, math.Max(to-from, binLasts)/math.Max(1, n-1))
		if g.passing || span.From > w.c.From {
			span.From = math.Max(w.c.From, from-beyond)
		}
		if g.passing || span.To < w.c.To {
			span.To = math.Min(w.c.To, to+beyond)
		}
	}
	p := &period{Span: span, share: w.c.share(span), passing: g.passing}
	m, k := w.inside(span)
	p.nats = g.nats - w.gain(m, k, p.share)
	return p
}

// tellPeriod puts a fault's period into words, and into a class where no device
// gave one.
func (e *engine) tellPeriod(f *fault, b *Blame) {
	p := f.period
	if p == nil {
		return
	}
	b.During = p.Span
	share := math.Min(1, e.lostAt(f)/math.Max(f.params[0].packets, 1)) // of the packets then
	young := !p.passing && p.To >= e.clock.To && p.length() <= passes[len(passes)-1]
	switch {
	case e.o.DateLast && young && share <= congestedMost:
		b.Trace = append(b.Trace, fmt.Sprintf("its losses began %.1f s ago, %s of the packets since: as of a queue that overflows, or a fault", p.length(), percent(share)))
		if b.Class == "" {
			b.Class = congestion
		}
	case !p.Known():
		b.Trace = append(b.Trace, fmt.Sprintf("few flows lost much there, the rest nothing: as in a moment when %s of the packets were lost, of a queue that overflowed", percent(share)))
		if b.Class == "" {
			b.Class = congestion
		}
	case !p.passing:
		if e.clock.To-p.To < p.From-e.clock.From {
			b.Trace = append(b.Trace, fmt.Sprintf("its losses began %.1f s into the epoch and went on to its end", p.From-e.clock.From))
		} else {
			b.Trace = append(b.Trace, fmt.Sprintf("its losses ended %.1f s before the epoch did", e.clock.To-p.To))
		}
	case share > congestedMost:
		b.Trace = append(b.Trace, fmt.Sprintf("its losses were within %.1f s, too many of the packets then for a full queue", p.length()))
	default:
		b.Trace = append(b.Trace, fmt.Sprintf("its losses were within %.1f s, %s of the packets then: a queue that overflowed", p.length(), percent(share)))
		if b.Class == "" {
			b.Class = congestion
		}
	}
}
