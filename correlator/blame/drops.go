package blame

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// report is what devices said of one component.
type report struct {
	about  Component // as reported
	at     Component // where the drops most likely were; None: nobody can say
	count  float64
	class  string
	most   float64 // count of that class
	device int32   // that said so
	when   Span    // of all of them
	side   side

	moved     float64 // log of the probability that its device reports drops of at so
	elsewhere float64 // the same with how hosts agree, summed over all other places
}

// side is the end of a link at which a device sees its drops: faults of one
// kind show at one end, like full queues where packets leave and checksum errors
// where they arrive.
type side uint8

const (
	leaving side = iota
	arriving
)

// deviceClasses are the discard classes that accuse the device itself: its
// rules, routes and tables did it, whatever the interface. All others are of
// the link.
var deviceClasses = []string{"policy/", "errors/l3/", "errors/internal/"}

func accusesDevice(class string) bool {
	return slices.ContainsFunc(deviceClasses, func(prefix string) bool { return strings.HasPrefix(class, prefix) })
}

// listen sorts the drop events by component. Of devices that are not known to
// be instrumented it believes the drops, but not the silence.
func (e *engine) listen() {
	e.reports = make(map[Component]*report)
	e.watching = make(map[int32]bool)
	for _, d := range e.e.Instrumented {
		if e.n.validDevice(d) {
			e.watching[d] = true
		}
	}
	classes := make(map[Component]map[string]float64)
	for i := range e.e.Drops {
		d := &e.e.Drops[i]
		count := sane(d.Count)
		if count == 0 || !e.n.validDevice(d.Device) {
			continue
		}
		c, at := Component{Device, d.Device}, leaving
		if !accusesDevice(d.Class) {
			if l, ok := e.dropLink(d); ok {
				c = Component{Link, l}
				if from, _ := e.n.ends(l); from != d.Device {
					at = arriving
				}
			}
		}
		r := e.reports[c]
		if r == nil {
			r = &report{about: c, at: c, device: d.Device, side: at, when: d.When}
			e.reports[c] = r
			classes[c] = make(map[string]float64)
		}
		r.count += count
		r.when = r.when.join(d.When)
		classes[c][d.Class] += count
		if m := classes[c][d.Class]; m > r.most {
			r.most, r.class = m, d.Class
		}
	}
	e.errs = e.o.DeviceError
	for s := range e.visible {
		e.visible[s] = visibility(0, 0)
	}
	for _, r := range e.reports {
		e.trust(r)
	}
	e.order = make([]*report, 0, len(e.reports))
	for _, r := range e.reports {
		e.order = append(e.order, r)
	}
	slices.SortFunc(e.order, func(a, b *report) int {
		return cmp.Or(-cmp.Compare(a.count, b.count), cmp.Compare(a.about.Kind, b.about.Kind), cmp.Compare(a.about.ID, b.about.ID))
	})
	e.place()
	e.perFlow = 0
	if len(e.order) > 0 && e.lossSum > 0 {
		for i := range e.rows {
			e.perFlow += e.rows[i].lost * e.rows[i].packets / e.lossSum
		}
	}
	if e.devices() {
		e.hears()
	}
}

// devices says whether any device reports, or would.
func (e *engine) devices() bool { return len(e.order) > 0 || len(e.watching) > 0 }

func (e *engine) dropLink(d *Drop) (int32, bool) {
	switch {
	case d.To >= 0:
		return e.n.linkBetween(d.Device, d.To)
	case d.From >= 0:
		return e.n.linkBetween(d.From, d.Device)
	default:
		return 0, false
	}
}

// place gathers the reports by where their drops were.
func (e *engine) place() {
	e.placed = make(map[Component][]*report, len(e.order))
	for _, r := range e.order {
		if r.at.Kind != None {
			e.placed[r.at] = append(e.placed[r.at], r)
		}
	}
}

// said gathers all drops that were at a component: for a device or host, those
// of its links too.
func (e *engine) said(c Component) (out report) {
	add := func(c Component) {
		for _, r := range e.placed[c] {
			if out.count == 0 {
				out = *r
				continue
			}
			out.count += r.count
			out.when = out.when.join(r.when)
			if r.most > out.most {
				out.most, out.class = r.most, r.class
			}
			out.moved = math.Max(out.moved, r.moved)
			out.elsewhere = math.Min(out.elsewhere, r.elsewhere)
		}
	}
	add(c)
	if c.Kind != Link {
		for _, l := range e.n.linksOf(c) {
			add(Component{Link, l})
		}
	}
	return out
}

// watchers says at which ends of a link, or of the links of a device, there is a
// device that would have reported drops.
func (e *engine) watchers(c Component) (at [2]bool) {
	switch c.Kind {
	case Link:
		from, to := e.n.ends(c.ID)
		at[leaving] = from >= 0 && e.watching[from]
		at[arriving] = to >= 0 && e.watching[to]
	case Device:
		at[leaving] = e.watching[c.ID]
		at[arriving] = at[leaving]
	}
	return at
}

// covered says whether a fault in the set accounts for a component's losses.
func (e *engine) covered(c Component) bool {
	for _, f := range e.faults {
		if f.at == c || c.Kind == Link && f.at.Kind != Link && slices.Contains(e.n.linksOf(f.at), c.ID) {
			return true
		}
	}
	return false
}

// coveredLinks says of each link whether a fault in the set accounts for its losses.
func (e *engine) coveredLinks() []bool {
	out := make([]bool, len(e.packets))
	for _, f := range e.faults {
		for _, l := range e.n.linksOf(f.at) {
			out[l] = true
		}
	}
	return out
}

// hears works out which share of the packets through a device's links hosts tell
// of, as far as can be known: of what leaves a device with hosts, most is theirs.
func (e *engine) hears() {
	for l, p := range e.packets {
		s := e.stratum(Component{Link, int32(l)})
		e.usual[s] += p / math.Max(1, e.carrying[s]) / math.Max(e.coverage, 0.001)
	}
	e.heard = make([]float64, e.n.Devices())
	for d := range e.heard {
		e.heard[d] = e.coverage
		hosts := e.n.hostsOf(int32(d))
		if len(hosts) == 0 || e.assumed {
			continue
		}
		n := 0.0
		for _, h := range hosts {
			if e.packets[e.n.Up(h)] > 0 {
				n++
			}
		}
		e.heard[d] = n / float64(len(hosts))
	}
}

// reach is the share of a component's packets that hosts tell of.
func (e *engine) reach(c Component) float64 {
	share := e.coverage
	if c.Kind == Link && c.ID < e.n.fabric() {
		from, _ := e.n.ends(c.ID)
		share = e.heard[from]
	}
	return math.Max(share, 0.001)
}

// carries is how many packets devices had to carry through a component: at least
// a tenth of what is usual, since hosts that nobody hears use it too.
func (e *engine) carries(c Component) float64 {
	usual := 0.0
	if c.Kind == Link {
		if s := e.stratum(c); e.carrying[s] > 0 {
			usual = e.usual[s] / 10
		}
	}
	return math.Max(1, math.Max(usual, e.packetsThrough(c)/e.reach(c)))
}

// rateTold is the loss rate that a device's own count amounts to.
func (e *engine) rateTold(c Component, count float64) float64 {
	return math.Max(rateFloor, math.Min(rateCeiling, count/e.carries(c)))
}

// priorTold is the prior of a component at the rate that a count amounts to.
func (e *engine) priorTold(c Component, class string, count float64, others learned, self *fault) float64 {
	return e.priorAt(e.kindAs(c, isCongestion(class)), e.rateTold(c, count), count, others, self)
}

// A kind of fault is either seen by devices, nearly always, or gray and never
// seen; seldom is it something between. Gray is what to expect before an epoch
// has shown it.
var (
	allGray = 0.9
	allSeen = 0.04
)

// visibility is the expected share of faults that devices see after they saw so
// many of so many.
func visibility(seen, all float64) float64 {
	a, _ := math.Lgamma(seen + 1)
	b, _ := math.Lgamma(all - seen + 1)
	c, _ := math.Lgamma(all + 2)
	some := (1 - allGray - allSeen) * math.Exp(a+b-c)
	sum, mean := some, some*(seen+1)/(all+2)
	if seen == 0 {
		sum += allGray
	}
	if seen == all {
		sum += allSeen
		mean += allSeen
	}
	return mean / sum
}

// Mere noise is either of a kind that devices see, nearly all of it, or of one
// that they do not see; seldom do they see a part of it.
var noiseSeen = []struct{ share, prior float64 }{
	{0, .5},
	{.001, .001}, {.003, .001}, {.01, .001}, {.03, .001}, {.1, .001}, {.2, .001}, {.35, .001}, {.5, .013},
	{.7, .13}, {1, .2}, {1.4, .13}, {2, .02},
}

// seenOf is the share of the noise losses of hosts that devices see whose counts
// are such a share of them: nearly all, if their counts are alike.
func seenOf(share float64) float64 {
	if share > 0.6 {
		return sees
	}
	return share
}

// seesFaults is the share of faults that devices see that see even noise.
const seesFaults = 0.9

// calibrate learns from the epoch what devices are good for: which share of the
// losses that are mere noise they see, and which of the faults.
func (e *engine) calibrate() {
	if !e.devices() {
		return
	}
	silent, heard, unheard := e.silent()
	others := e.learn(certain)
	logs := make([]float64, len(noiseSeen))
	for i, s := range noiseSeen {
		// Losses of hosts are seen or not, one by one; what hosts do not tell of, and
		// what devices count beyond their losses, is of the number that it is.
		logs[i] = math.Log(s.prior) + silent*math.Log1p(-seenOf(s.share)) - e.noise*(s.share*unheard+math.Max(0, s.share-1)*heard)
	}
	for _, r := range e.order {
		packets := e.carries(r.about)
		fault := e.priorTold(r.about, r.class, r.count, others, nil) - math.Log(r.count)
		for i, s := range noiseSeen {
			logs[i] += addLogs(fault, logPoisson(r.count, s.share*e.noise*packets)+s.share*e.noise*packets)
		}
	}
	sum := addLogs(logs...)
	seen, mean := 0.0, 0.0
	for i, s := range noiseSeen {
		if w := math.Exp(logs[i] - sum); s.share > 0 {
			seen += w
			mean += w * s.share
		}
	}
	e.devNoise, e.seesNoise = e.noise, math.Log(math.Max(seen, 1e-12))
	if seen > 0 {
		e.devNoise = math.Max(mean/seen*e.noise, 1e-15)
	}

	for s := range e.visible {
		seen, all := 0.0, 0.0
		for _, f := range e.faults {
			if f.weak || !f.told && f.evidence < proven || !e.watchers(f.at)[s] {
				continue
			}
			all++
			if said := e.said(f.at); said.count > 0 && (f.at.Kind != Link || said.side == side(s)) {
				seen++
			}
		}
		e.visible[s] = visibility(seen, all)
	}
	right, wrong := make(map[int32]bool), make(map[int32]bool)
	for _, r := range e.order {
		if r.at != r.about {
			wrong[r.device] = true
		} else if r.at.Kind == Link && e.links[r.at.ID] {
			right[r.device] = true
		}
	}
	e.errs = (errorWeight*e.o.DeviceError + float64(len(wrong))) / (errorWeight + float64(len(wrong)+len(right)))
}

// silent counts, by the rates held in e.rate, the losses of hosts that were mere
// noise and of which no device on their way reported any, as far as there are
// some that would; heard is the packets of hosts through the links of those,
// unheard the packets there that hosts do not tell of.
func (e *engine) silent() (silent, heard, unheard float64) {
	const watched, told = 1, 2
	state := make([]uint8, len(e.packets))
	for l, p := range e.packets {
		c := Component{Link, int32(l)}
		if at := e.watchers(c); p > 0 && (at[leaving] || at[arriving]) {
			state[l] = watched
			unheard += p/e.reach(c) - p
			heard += p
		}
	}
	for _, r := range e.order {
		for _, c := range []Component{r.about, r.at} {
			if c.Kind != None {
				for _, l := range e.n.linksOf(c) {
					state[l] = told
				}
			}
		}
	}
	for i := range e.rows {
		r := &e.rows[i]
		if r.hops == 0 {
			continue // it says nothing of links
		}
		seen, there := 0.0, 0.0
		for j := e.entStart[i]; j < e.entStart[i+1]; j++ {
			switch w := float64(e.entWeight[j]); state[e.entLink[j]] {
			case watched:
				seen += w
			case told:
				there += w
			}
		}
		silent += r.lost * math.Min(1, r.hops*e.noise/e.rate[i]) * math.Max(0, 1-there) * math.Min(1, seen/r.hops)
	}
	return silent, heard, unheard
}

// errorWeight is how many devices the expected share of those that err weighs.
const errorWeight = 2

// logPoisson is the log of the probability of a count.
func logPoisson(count, mean float64) float64 {
	if mean <= 0 {
		return math.Inf(-1)
	}
	g, _ := math.Lgamma(count + 1)
	return count*math.Log(mean) - mean - g
}

// proven is the evidence in nats from which hosts need no other to tell a fault,
// even from a link that is noisy by nature.
const proven = 25
