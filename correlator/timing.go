package correlator

import (
	"math"
	"time"

	"decaf/correlator/blame"
)

// The clock of package blame is that of the records, in seconds.

func seconds(ns int64) float64 { return float64(ns) / 1e9 }

func nanoseconds(s float64) int64 { return int64(math.Round(s * 1e9)) }

// clockSpan is for people: "12:00:03–12:00:05".
func clockSpan(from, to int64) string {
	text := func(ns int64) string { return time.Unix(0, ns).UTC().Format(time.TimeOnly) }
	return text(from) + "–" + text(to)
}

// spanOf is a time from and to; unknown for zeros.
func spanOf(from, to int64) blame.Span { return blame.Span{From: seconds(from), To: seconds(to)} }

// timeStep is in which steps the time of a window moves, ns: what is told of it
// anew would have to be inferred from anew.
const timeStep = 1e9

// timeOf gives the part of a window whose losses are known: later ones may be told
// of still, and silence until then means nothing. It is the shorter rather than the
// longer.
func timeOf(w *Window) (from, to int64) {
	known := w.Known
	if known == 0 {
		known = w.End
	}
	from = (w.Start + timeStep - 1) / timeStep * timeStep
	return from, max(from, known/timeStep*timeStep)
}

// part is in which steps a window counts loss-free traffic, ns.
func (w *Window) part() int64 { return max((w.End-w.Current)/trafficParts, 1) }

// pour shares a row's packets out over the parts of its time.
func (c *cleanRows) pour(row *Traffic, weight float64) {
	part := c.span.part
	first := max(0, (row.Start-c.span.from)/part)
	for i := first; i < int64(len(c.parts)); i++ {
		from := c.span.from + i*part
		if share := row.within(from, from+part); share > 0 {
			c.parts[i] += row.Packets * share * weight
		} else if from > row.End {
			break
		}
	}
}

// loads is how the traffic of a window, as it counts, is spread over its time. Of
// parts whose rows have not all come, or without any, it is taken to be the mean of
// the others.
func (c *cleanRows) loads(w *Window) []blame.Load {
	part := c.span.part
	n := int((c.span.to - c.span.from) / part)
	mean, weights := 0.0, 0.0
	counted := func(i int) bool { return i < len(c.parts) && c.span.from+int64(i+1)*part <= w.Counted }
	weight := func(i int) float64 { return w.weight(c.span.from + int64(i)*part + part/2) }
	for i := range c.parts {
		if counted(i) {
			mean, weights = mean+c.parts[i], weights+weight(i)
		}
	}
	if mean > 0 {
		mean /= weights
	} else {
		mean = 1
	}
	out := make([]blame.Load, n)
	for i := range out {
		from := c.span.from + int64(i)*part
		out[i] = blame.Load{Span: spanOf(from, from+part), Packets: mean * weight(i)}
		if weights > 0 && counted(i) {
			out[i].Packets = c.parts[i]
		}
	}
	return out
}
