package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"decaf/device"
)

// memoryEvery is how often an agent's memory is looked at during a long flood; in
// a short one, a memorySamples-th of it.
const (
	memoryEvery   = 5 * time.Second
	memorySamples = 12
)

// The ring of an agent, of events: what one of a flood has by default, and at the
// least here.
var mostRing, leastRing = device.DefaultConfig().Ring, 80

// ringThatFills is the room of a ring that the aggregates of a flood, one a second,
// fill before half of it is over. The default one takes some 17 minutes.
func ringThatFills(flood time.Duration) int {
	return min(max(int(.45*flood.Seconds()), leastRing), mostRing)
}

// memory has one agent live through a long flood and looks at what it holds: its
// process, and the maps of its programs in the kernel. The first half of the flood,
// in which a heap takes the size that it needs and the ring of aggregates fills, is
// not in the slope. Whether memory is flat in the second one says growth.
func (b *deviceRun) memory(ctx context.Context) error {
	ring := ringThatFills(b.Flood)
	a, err := b.startDevice(ctx, fmt.Sprintf("ring: %d\n", ring))
	if err != nil {
		return err
	}
	defer a.stop()
	over := make(chan error, 1)
	begin := time.Now()
	go func() {
		_, err := b.driveFor(ctx, b.Flood, b.most.forward/2, b.floodRate())
		over <- err
	}()
	tick := time.NewTicker(min(memoryEvery, b.Flood/memorySamples))
	defer tick.Stop()
	var at, process, maps []float64 // seconds, bytes
	most := 0.0
	for driving := true; driving; {
		select {
		case err := <-over:
			if err != nil {
				return err
			}
			driving = false
		case <-tick.C:
		}
		since := time.Since(begin)
		rss, err1 := a.resident()
		held, err2 := a.maps()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		most = max(most, rss)
		b.Log("after %v: %.2f MB resident, maps of %.2f MB", since.Round(time.Second), rss/1e6, held/1e6)
		if since >= b.Flood/2 {
			at, process, maps = append(at, since.Seconds()), append(process, rss), append(maps, held)
		}
	}
	g := growthOf(at, process, os.Getpagesize())
	riseMaps, _ := slope(at, maps)
	b.result("flood_rss_mb", most/1e6, "MB", "the agent's process, resident, at most")
	b.result("flood_rss_slope_kb_per_s", g.rise/1000, "kB/s", fmt.Sprintf("its rise over the second half of a flood of %v, by when a ring of %d events is full: least squares of the means of %d parts, of %d samples", b.Flood, ring, min(growthParts, len(at)), len(at)))
	b.result("flood_rss_slope_ci_kb_per_s", g.ci/1000, "kB/s", "either way, 95 % confidence")
	b.result("flood_rss_flat_kb_per_s", g.flat/1000, "kB/s", "the most that is flat: what would double it in a day, or one page in each part if that is more, and the confidence beside")
	b.result("flood_maps_mb", maps[len(maps)-1]/1e6, "MB", "the maps of its programs, in the kernel")
	b.result("flood_maps_slope_kb_per_s", riseMaps/1000, "kB/s", "their rise meanwhile")
	return nil
}
