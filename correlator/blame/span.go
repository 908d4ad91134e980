package blame

import "math"

// Span is a stretch of time in seconds, on a clock that everything in an epoch
// shares. The zero Span is an unknown time.
type Span struct{ From, To float64 }

// Known says whether a span says anything.
func (s Span) Known() bool { return s != Span{} && s.To >= s.From && !math.IsInf(s.To-s.From, 0) }

func (s Span) length() float64 { return s.To - s.From }

// within says whether all of a span is in another.
func (s Span) within(o Span) bool { return s.From >= o.From && s.To <= o.To }

// join is the stretch from the first to the last of two; unknown if one is.
func (s Span) join(o Span) Span {
	if !s.Known() || !o.Known() {
		return Span{}
	}
	return Span{math.Min(s.From, o.From), math.Max(s.To, o.To)}
}

// Load is packets sent evenly over a span.
type Load struct {
	Span
	Packets float64
}

// clock is an epoch's time cut into bins, with the share of the packets that
// hosts sent before each: even where nobody says otherwise.
type clock struct {
	Span
	before []float64 // by bin, one more than bins; nil: no loss of a known time
}

const (
	binLasts = 0.25 // seconds, of an epoch that is not too long for it
	maxBins  = 4096
)

// newClock spans an epoch. Without times of losses there is none.
func newClock(ep *Epoch, rows []row) (c clock) {
	for i := range rows {
		if s := rows[i].when; s.Known() {
			if !c.Known() {
				c.Span = s
			}
			c.From, c.To = min(c.From, s.From), max(c.To, s.To)
		}
	}
	if !c.Known() {
		return clock{}
	}
	if ep.During.Known() {
		c.From, c.To = math.Min(c.From, ep.During.From), math.Max(c.To, ep.During.To)
	}
	bins := int(math.Min(maxBins, math.Ceil(c.length()/binLasts)))
	if bins < 2 {
		return clock{}
	}
	c.before = make([]float64, bins+1)
	each := make([]float64, bins)
	total := 0.0
	for _, l := range ep.Load {
		total += c.pour(each, l)
	}
	if total == 0 {
		total = c.pour(each, Load{c.Span, 1})
	}
	for i, p := range each {
		c.before[i+1] = c.before[i] + p/total
	}
	return c
}

// pour adds a load to the bins and says how much of it fell into them.
func (c *clock) pour(bins []float64, l Load) (sum float64) {
	if !l.Known() || sane(l.Packets) == 0 {
		return 0
	}
	from, to := c.at(l.From), math.Max(c.at(l.To), c.at(l.From)+1e-9)
	per := sane(l.Packets) / (to - from)
	for i := max(0, int(from)); i < len(bins) && float64(i) < to; i++ {
		part := per * math.Max(0, math.Min(to, float64(i+1))-math.Max(from, float64(i)))
		bins[i] += part
		sum += part
	}
	return sum
}

// at is a time in bins.
func (c *clock) at(t float64) float64 {
	return (t - c.From) / c.length() * float64(len(c.before)-1)
}

// bin is the one that a time falls in.
func (c *clock) bin(t float64) int32 { return int32(max(0, min(len(c.before)-2, int(c.at(t))))) }

// time is when a bin begins.
func (c *clock) time(bin int) float64 {
	return c.From + c.length()*float64(bin)/float64(len(c.before)-1)
}

// share is that of the packets sent within a span.
func (c *clock) share(s Span) float64 {
	until := func(t float64) float64 {
		i := c.bin(t)
		part := math.Max(0, math.Min(1, c.at(t)-float64(i)))
		return c.before[i] + part*(c.before[i+1]-c.before[i])
	}
	return math.Max(until(s.To)-until(s.From), 1e-6)
}
