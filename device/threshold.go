package device

import "time"

const (
	// rateWindow is what the rate of a class above its threshold is taken over.
	rateWindow = time.Second
	// resumeShare is the share of the threshold that the rate must stay under
	// for the events to come back: a rate that hovers about the threshold does
	// not make them come and go.
	resumeShare = 0.8
)

// gate lets the events of one class through while its rate is below a
// threshold. A leaky bucket (ITU-T I.371, annex A) tells when it is above: it
// leaks threshold drops a second and holds burst. When it runs over the events
// stop: all of them, they are not thinned out. They come back when the rate,
// window by window, was at most resumeShare of the threshold for as long as hold
// says.
//
// It does no I/O and is not safe for concurrent use. A threshold of 0 lets
// nothing through.
type gate struct {
	threshold float64 // drops per second
	burst     float64
	hold      time.Duration

	level float64 // of the bucket
	last  time.Time

	above  bool
	window time.Time // while above: begin of the present window; else when the bucket was last empty
	drops  uint64    // since then
	calm   time.Time // since when the rate was low enough; zero when it is not
}

// crossing says that the rate crossed the threshold.
type crossing struct {
	above    bool
	measured float64 // drops per second
	limit    float64
}

// take counts so many drops. It tells whether they may have an event, and of a
// crossing.
func (g *gate) take(now time.Time, drops uint64) (pass bool, c *crossing) {
	if g.threshold == 0 {
		return false, nil
	}
	c = g.tick(now)
	if g.above {
		g.drops += drops
		return false, c
	}
	if !g.last.IsZero() {
		g.level -= max(now.Sub(g.last), 0).Seconds() * g.threshold
	}
	if g.level <= 0 {
		g.level, g.window, g.drops = 0, now, 0
	}
	g.level += float64(drops)
	g.drops += drops
	g.last = now
	if g.level <= g.burst {
		return true, c
	}
	// All at once is as fast as can be told apart.
	measured := float64(g.drops) / max(now.Sub(g.window), time.Millisecond).Seconds()
	*g = gate{threshold: g.threshold, burst: g.burst, hold: g.hold, above: true, window: now, drops: drops}
	return false, &crossing{above: true, measured: measured, limit: g.threshold}
}

// tick tells when the rate is back under the threshold; it is to be called now
// and then also when no drops come.
func (g *gate) tick(now time.Time) *crossing {
	elapsed := now.Sub(g.window)
	if !g.above || elapsed < rateWindow {
		return nil
	}
	rate := float64(g.drops) / elapsed.Seconds()
	limit := g.threshold * resumeShare
	if rate > limit {
		g.calm = time.Time{}
	} else if g.calm.IsZero() {
		g.calm = g.window
	}
	g.window, g.drops = now, 0
	if g.calm.IsZero() || now.Sub(g.calm) < g.hold {
		return nil
	}
	*g = gate{threshold: g.threshold, burst: g.burst, hold: g.hold}
	return &crossing{measured: rate, limit: limit}
}
