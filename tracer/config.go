package tracer

import (
	"fmt"
	"math"
	"net/netip"
	"time"
)

// Config is how a Tracer works. The zero value is not usable: start from
// [DefaultConfig].
type Config struct {
	// Rate is how many traces per second this host may start, 007's Ct: it
	// follows from the ICMP answers a switch can give per second and the number
	// of hosts that may ask (007, theorem 1). Burst is how many at once. After a
	// burst traces may start at random moments, so that hosts do not keep in step.
	Rate  float64
	Burst int
	// Host, if not nil, is the Tracer of this host's own network namespace, this one
	// being of another: traces are counted in its budget, in place of Rate and Burst,
	// and where that namespace translates a flow that passes it, so are its probes.
	Host *Tracer
	// MaxTTL bounds the path when the distance is unknown, and in all cases; at
	// most 63, the six bits a probe has for it.
	MaxTTL int
	// Resend is the wait before unanswered probes are sent again; it doubles
	// each time, until Timeout after the first probe, which ends the trace.
	Resend  time.Duration
	Timeout time.Duration
	// Glance is how long from the first probe on the trace looks for answers without
	// sleeping. It takes that much of a processor at most, as often as Rate says.
	Glance time.Duration
	// MaxCached bounds the traces remembered for their epoch, and MaxLive the ones
	// under way.
	MaxCached int
	MaxLive   int
	// ReceiveBuffer is the size in bytes of each ICMP receiver's socket buffer.
	ReceiveBuffer int
	// Overhear has the TTLs of TCP packets that come in tell distances, where the
	// Distance function does not: of those that open a connection, and of few others.
	Overhear bool
	// Translate says where five-tuples change on this host, or right behind it.
	Translate Translation
}

// DefaultConfig gives 10 traces per second, which is the budget 007 ended with
// in its network, 15 TTLs (007, section 4.2), a resend after 2 ms and an end
// after 50 ms.
func DefaultConfig() Config {
	return Config{
		Rate:          10,
		Burst:         20,
		MaxTTL:        15,
		Resend:        2 * time.Millisecond,
		Timeout:       50 * time.Millisecond,
		Glance:        200 * time.Microsecond,
		MaxCached:     16384,
		MaxLive:       256,
		ReceiveBuffer: 1 << 20,
		Overhear:      true,
		Translate:     Translation{Conntrack: true, IPVS: true},
	}
}

// Validate says what is wrong with a configuration, if anything.
func (c Config) Validate() error {
	switch {
	case !(c.Rate > 0) || math.IsInf(c.Rate, 0):
		return fmt.Errorf("trace rate %v: want more than 0 per second, and finite", c.Rate)
	case c.Burst < 1:
		return fmt.Errorf("trace burst %d: want at least 1", c.Burst)
	case c.MaxTTL < 1 || c.MaxTTL > maxTTL:
		return fmt.Errorf("trace max TTL %d: want 1 to %d", c.MaxTTL, maxTTL)
	case c.Resend < time.Millisecond:
		return fmt.Errorf("trace resend %s: want at least 1ms", c.Resend)
	case c.Timeout < c.Resend || c.Timeout > 10*time.Second:
		return fmt.Errorf("trace timeout %s: want between the resend (%s) and 10s", c.Timeout, c.Resend)
	case c.Glance < 0 || c.Glance > c.Resend:
		return fmt.Errorf("trace glance %s: want between 0 and the resend (%s)", c.Glance, c.Resend)
	case c.MaxCached < 1 || c.MaxLive < 1:
		return fmt.Errorf("trace limits: cached %d, live %d: want at least 1", c.MaxCached, c.MaxLive)
	case c.ReceiveBuffer < 0:
		return fmt.Errorf("trace receive buffer %d bytes: want 0 or more", c.ReceiveBuffer)
	}
	return c.Translate.validate()
}

// Distance gives the number of switches between two hosts, 0 if it is not
// known. It is called once per trace and must not block.
type Distance func(src, dst netip.Addr) int
