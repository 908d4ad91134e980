package blame

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// report is what devices said of one component.
type report struct {
	count  float64
	class  string
	most   float64 // count of that class
	device int32
}

// deviceClasses are the discard classes that accuse the device itself: its
// rules, routes and tables did it, whatever the interface. All others are of
// the link.
var deviceClasses = []string{"policy/", "errors/l3/", "errors/internal/"}

func accusesDevice(class string) bool {
	return slices.ContainsFunc(deviceClasses, func(prefix string) bool { return strings.HasPrefix(class, prefix) })
}

const (
	toldMost     = 25 // nats that the word of one device is worth at most
	contradicted = 12 // nats that hosts take away who lost nothing there
	silence      = -4 // nats that a silent device takes away at most

	// Before an epoch has shown it, one fault in five is seen by its device, with
	// the weight of one fault: many are gray.
	visiblePrior  = 0.2
	visibleWeight = 1.0
)

// listen sorts the drop events by component. Of devices that are not known to
// be instrumented it believes the drops, but not the silence.
func (e *engine) listen() {
	e.reports = make(map[Component]*report)
	e.mute = make(map[int32]bool)
	for _, d := range e.e.Instrumented {
		if e.n.validDevice(d) {
			e.mute[d] = true
		}
	}
	classes := make(map[Component]map[string]float64)
	for i := range e.e.Drops {
		d := &e.e.Drops[i]
		count := sane(d.Count)
		if count == 0 || !e.n.validDevice(d.Device) {
			continue
		}
		c := Component{Device, d.Device}
		if !accusesDevice(d.Class) {
			if l, ok := e.dropLink(d); ok {
				c = Component{Link, l}
			}
		}
		r := e.reports[c]
		if r == nil {
			r = &report{device: d.Device}
			e.reports[c] = r
			classes[c] = make(map[string]float64)
		}
		r.count += count
		classes[c][d.Class] += count
		if m := classes[c][d.Class]; m > r.most {
			r.most, r.class = m, d.Class
		}
		e.mute[d.Device] = false
	}
}

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

// observed says whether an instrumented device would have seen a component's
// drops.
func (e *engine) observed(c Component) bool {
	known := func(d int32) bool { _, ok := e.mute[d]; return d >= 0 && ok }
	switch c.Kind {
	case Link:
		from, to := e.n.ends(c.ID)
		return known(from) || known(to)
	case Device:
		return known(c.ID)
	default:
		return false
	}
}

// covered says whether a fault in the set accounts for a report.
func (e *engine) covered(c Component, by func(*fault) bool) bool {
	for _, f := range e.faults {
		if !by(f) {
			continue
		}
		if f.at == c || c.Kind == Link && f.at.Kind != Link && slices.Contains(e.n.linksOf(f.at), c.ID) {
			return true
		}
	}
	return false
}

// said gathers all reports that are about a component: for a device or host,
// those about its links too.
func (e *engine) said(c Component) (out report) {
	add := func(r *report) {
		if r == nil {
			return
		}
		out.count += r.count
		if r.most > out.most {
			out.most, out.class = r.most, r.class
		}
		out.device = r.device
	}
	add(e.reports[c])
	if c.Kind != Link {
		for _, l := range e.n.linksOf(c) {
			add(e.reports[Component{Link, l}])
		}
	}
	return out
}

// calibrate learns from the epoch what devices are good for: how many of the
// losses that are mere noise they report, and how often they report a fault
// that the hosts alone prove.
func (e *engine) calibrate() {
	proven := func(f *fault) bool { return !f.told && !f.weak }
	watched := 0.0
	for l, p := range e.packets {
		if p > 0 && e.observed(Component{Link, int32(l)}) {
			watched += p
		}
	}
	// The reports that no fault accounts for are noise, but for outliers: taken
	// out again and again until the rest agree.
	type loose struct{ packets, drops float64 }
	var list []loose
	for _, c := range e.reported() {
		if !e.covered(c, proven) {
			list = append(list, loose{e.packetsThrough(c) / e.reach(), e.reports[c].count})
		}
	}
	watched /= e.reach()
	rate := math.Inf(1)
	for range 20 {
		sum := 0.5
		for _, r := range list {
			if mean := rate * r.packets; r.drops <= 2+mean+3*math.Sqrt(mean) {
				sum += r.drops
			}
		}
		rate = sum / math.Max(1, watched)
	}
	// And devices see no more noise than hosts lose to it.
	e.devNoise = math.Min(rate, e.noise)
	seen, all := visiblePrior, visibleWeight
	for _, f := range e.faults {
		if e.observed(f.at) && f.evidence > 15 {
			all++
			if e.said(f.at).count > 0 {
				seen++
			}
		}
	}
	e.visible = seen / all
}

// reach is the share of the traffic that hosts tell of, as far as can be known.
func (e *engine) reach() float64 { return math.Max(e.coverage, 0.001) }

// word is what devices add to the log-odds of a component: mass is the losses
// that hosts saw there. Drops that a device reports and hosts saw too are the
// same packets, so the better of the two counts, not their sum.
func (e *engine) word(c Component, host, mass float64) (float64, string) {
	r := e.said(c)
	if r.count == 0 {
		if !e.observed(c) || len(e.mute) == 0 {
			return 0, ""
		}
		return math.Max(math.Log(1-e.visible), silence), "its device was silent, and would have seen it with " + percent(e.visible)
	}
	mean := e.devNoise * e.packetsThrough(c) / e.reach()
	if expected := mass / e.reach(); r.count < expected/2 {
		// Less than hosts lost there: as noise would have it, or a fault that
		// the device does not see.
		seen := r.count*math.Log(expected/mean) - (expected - mean)
		nats := math.Log(1 - e.visible + e.visible*math.Exp(math.Min(seen, 20)))
		if nats < 0 {
			return math.Max(nats, silence), "its device reported fewer drops than hosts lost"
		}
	}
	nats := math.Min(countEvidence(r.count, mean), toldMost)
	why := "its device reported drops"
	if expected := r.count * e.coverage; mass < expected {
		deviance := expected - mass
		if mass > 0 {
			deviance += mass * math.Log(mass/expected)
		}
		if deviance > 1 {
			why = "its device reported drops that hosts did not lose"
		}
		nats -= math.Min(deviance, contradicted)
	}
	if most := e.lie(c, r); nats > most {
		nats, why = most, "its device reported drops, perhaps of the wrong port"
	}
	return math.Max(0, nats-math.Max(0, host)), why
}

// noiseShape is how even the noise of good links is: that of rates spread
// evenly from zero to twice their mean (the shape of a gamma of equal variance).
const noiseShape = 3

// countEvidence is the log of the likelihood of a count under a fault of unknown
// rate (averaged over the log of the rate, that is 1/count) over that under noise
// of a mean that varies from link to link (negative binomial).
func countEvidence(count, mean float64) float64 {
	if count <= mean || mean <= 0 {
		return 0
	}
	a, _ := math.Lgamma(count + noiseShape)
	b, _ := math.Lgamma(noiseShape)
	c, _ := math.Lgamma(count + 1)
	noise := a - b - c + noiseShape*math.Log(noiseShape/(noiseShape+mean)) + count*math.Log(mean/(noiseShape+mean))
	return math.Max(0, -math.Log(count)-noise)
}

// rateTold is the loss rate that a device's own count amounts to.
func (e *engine) rateTold(c Component) float64 {
	packets := e.packetsThrough(c) / e.reach()
	return math.Max(rateFloor, math.Min(rateCeiling, e.said(c).count/math.Max(1, packets)))
}

// lie is the most that a report is worth when its device has a fault that
// hosts prove and that it did not report: then this may be that.
func (e *engine) lie(c Component, r report) float64 {
	if c.Kind != Link {
		return math.Inf(1)
	}
	for _, f := range e.faults {
		if f.at == c || f.told || f.weak || f.evidence < 8 {
			continue
		}
		for _, l := range e.n.linksOf(f.at) {
			from, to := e.n.ends(l)
			if from != r.device && to != r.device {
				continue
			}
			// What hosts say the link lost, and what the device did.
			lost := f.typical() * e.packets[l] / e.reach()
			if lost >= 1 && e.said(Component{Link, l}).count < lost/2 {
				ports := float64(len(e.n.linksOf(Component{Device, r.device})))
				return math.Log((1 - e.o.DeviceError) / e.o.DeviceError * math.Max(1, ports))
			}
		}
	}
	return math.Inf(1)
}

// reported lists the components with reports, most drops first.
func (e *engine) reported() []Component {
	list := make([]Component, 0, len(e.reports))
	for c := range e.reports {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Component) int {
		return cmp.Or(-cmp.Compare(e.reports[a].count, e.reports[b].count), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// displace puts a component that a device accuses in the place of a link next
// to that device, if the losses hosts saw fit it too and both words together
// speak for it. It says whether it did.
func (e *engine) displace(c Component) bool {
	device := e.reports[c].device
	for i, f := range e.faults {
		if f.at.Kind != Link || f.told || f.weak {
			continue
		}
		if from, to := e.n.ends(f.at.ID); from != device && to != device {
			continue
		}
		others := e.learn(certain)
		nats, _ := e.word(f.at, f.evidence, f.peak.mass)
		as := f.evidence + nats + e.prior(f.at, math.Max(f.peak.x, rateFloor), others, f)

		e.addRates(f, -1)
		e.faults = slices.Delete(slices.Clone(e.faults), i, i+1)
		p := e.peak(e.through(c), e.packetsThrough(c))
		nats, _ = e.word(c, p.evidence(), p.mass)
		better := p.x > 0 && math.Max(p.evidence(), 0)+nats+e.prior(c, math.Max(p.x, rateFloor), others, f) > as && p.mass > f.peak.mass/2
		if !better {
			e.faults = slices.Insert(e.faults, i, f)
			e.addRates(f, 1)
			continue
		}
		e.take(f, false)
		if c.Kind == Link {
			e.add(e.newLinkFault(c.ID, p.x))
		} else {
			e.add(e.newWholeFault(c, p.x))
		}
		e.rates()
		return true
	}
	return false
}

// told puts components into the set that devices accuse and that hosts alone
// would not have brought up.
func (e *engine) told() {
	if len(e.reports) == 0 {
		return
	}
	e.rates()
	for _, c := range e.reported() {
		if e.covered(c, func(*fault) bool { return true }) || e.displace(c) {
			continue
		}
		p := e.peak(e.through(c), e.packetsThrough(c))
		host := p.evidence()
		nats, _ := e.word(c, host, p.mass)
		x := math.Max(p.x, e.rateTold(c))
		odds := math.Max(host, 0) + nats + e.prior(c, x, e.learn(certain), nil)
		if odds < suspectOdds {
			continue
		}
		f := e.newWholeFault(c, x)
		if c.Kind == Link {
			f = e.newLinkFault(c.ID, x)
		}
		f.told, f.weak = true, odds < faultOdds
		e.add(f)
		e.rates()
	}
	e.fit(5)
}
