package tracer

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// maxChecksums bounds the destinations of which is remembered whether right
	// checksums help.
	maxChecksums = 4096
	// checksumsHold is for how long: firewalls change, and so do paths.
	checksumsHold = time.Minute
)

// checksums remembers, by destination, from which TTL on probes are answered only
// if their checksum is right, or that such probes were sent and did not help: so
// that the next traces need not find out again. It reads no clock.
type checksums struct {
	mu    sync.Mutex
	found map[netip.Addr]checksum
	full  uint64 // forgotten for want of room
}

type checksum struct {
	from  uint8 // lowest TTL that answers right ones alone; 0: they do not help
	until time.Time
}

// learn takes what a trace found out; from is 0 where right checksums do not help.
func (c *checksums) learn(to netip.Addr, from int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found == nil {
		c.found = make(map[netip.Addr]checksum)
	}
	if _, known := c.found[to]; !known && len(c.found) >= maxChecksums {
		for other, was := range c.found { // any: its next trace finds out again
			delete(c.found, other)
			if now.Before(was.until) {
				c.full++
			}
			break
		}
	}
	c.found[to] = checksum{uint8(from), now.Add(checksumsHold)}
}

// of gives what is known of a destination: zeroes where that is nothing.
func (c *checksums) of(to netip.Addr, now time.Time) (from int, fails bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.found[to]
	switch {
	case !ok:
		return 0, false
	case !now.Before(known.until):
		delete(c.found, to)
		return 0, false
	}
	return int(known.from), known.from == 0
}

func (c *checksums) forgotten() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full
}
