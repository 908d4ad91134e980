package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"decaf/api/decafpb"

	"golang.org/x/sys/unix"
)

// linkStats are the counters' places in struct rtnl_link_stats64, by number of
// the u64.
var linkStats = [allCounters]int{
	rxErrors: 4, txErrors: 5, rxDropped: 6, txDropped: 7,
	rxLength: 10, rxOver: 11, rxCRC: 12, rxFrame: 13, rxFIFO: 14, rxMissed: 15,
}

// counterSource is the source of losses that only counters show, in one network
// namespace.
type counterSource struct {
	cfg      CountersConfig
	log      *slog.Logger
	lister   *lister
	prefixes func(index uint32) []netip.Prefix // routed over an interface
	heard    func(now time.Time) time.Time     // until when all was explained that the kernel had to say; nil: it tells of nothing

	mu    sync.Mutex
	rises *rises

	broken complaint
	failed uint64 // readings
}

// openCounters opens its socket in the network namespace of the calling thread,
// and reads for the first time. heard is nil where the kernel does not tell of
// drops too; else it returns until when all was explained that it had to say.
func openCounters(cfg CountersConfig, heard func(time.Time) time.Time, prefixes func(uint32) []netip.Prefix, log *slog.Logger) (*counterSource, error) {
	l, err := openLister()
	if err != nil {
		return nil, fmt.Errorf("counters: %w", err)
	}
	c := &counterSource{cfg: cfg, log: log, lister: l, prefixes: prefixes, heard: heard, rises: newRises(heard != nil, maxPorts)}
	now, err := c.read()
	if err != nil {
		l.close()
		return nil, fmt.Errorf("counters: %w", err)
	}
	c.rises.read(time.Now(), now)
	return c, nil
}

// observe is [observer]'s. What the kernel could not yet explain at the end is left
// out.
func (c *counterSource) observe(ctx context.Context, handle func(observed)) error {
	ticker := time.NewTicker(c.cfg.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			c.look(handle)
			return nil
		case <-ticker.C:
			c.look(handle)
		}
	}
}

// look reads the counters once and hands on what was lost.
func (c *counterSource) look(handle func(observed)) {
	now := time.Now()
	readings, err := c.read()
	read := time.Now() // what was counted was counted by now
	c.mu.Lock()
	if err != nil {
		c.failed++
		if count, due := c.broken.make(now); due {
			c.log.Warn("counters were not read", "times", count, "error", err)
		}
	} else {
		c.rises.read(read, readings)
	}
	upTo := read
	if c.heard != nil {
		upTo = c.heard(read)
	}
	lost := c.rises.settle(upTo)
	c.mu.Unlock()
	for i := range lost {
		handle(lost[i].event(c.prefixes))
	}
}

// event makes a drop event without a packet of a rise.
func (x *rise) event(prefixes func(uint32) []netip.Prefix) observed {
	ev := &decafpb.DropEvent{
		TimeNs: uint64(x.at.UnixNano()),
		Class:  x.class, Reason: x.reason, Source: "counters", Queue: x.queue,
	}
	if x.ingress {
		ev.Ingress = x.name
	} else {
		ev.Egress = x.name
	}
	for _, p := range prefixes(x.index) {
		ev.Prefixes = append(ev.Prefixes, prefixPB(p))
	}
	return observed{event: ev, packets: x.packets, known: x.class != Unknown}
}

// read lists interfaces and queue disciplines.
func (c *counterSource) read() ([]portReading, error) {
	var (
		out []portReading
		at  = map[uint32]int{}
		bad error
	)
	_, err := c.lister.list(unix.RTM_GETLINK, linkRequest(), func(_ nlHeader, body []byte) {
		l, err := parseLink(body)
		if err != nil {
			bad = err
			return
		}
		p := portReading{index: l.index, name: l.name, kind: l.kind}
		if _, twice := at[l.index]; twice || !p.count(l.stats) {
			return
		}
		at[l.index] = len(out)
		out = append(out, p)
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, err
	}
	// A struct tcmsg: of all interfaces.
	_, err = c.lister.list(unix.RTM_GETQDISC, make([]byte, sizeofTCMsg), func(_ nlHeader, body []byte) {
		index, q, err := parseQueue(body)
		if err != nil {
			bad = err
			return
		}
		if i, ok := at[index]; ok && q.kind != "noqueue" {
			out[i].queues = append(out[i].queues, q)
		}
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, err
	}
	return out, nil
}

// count takes the counters from a struct rtnl_link_stats64, which newer kernels
// make longer.
func (p *portReading) count(stats []byte) bool {
	for c, at := range linkStats {
		if len(stats) < 8*(at+1) {
			return false
		}
		p.counts[c] = binary.NativeEndian.Uint64(stats[8*at:])
	}
	return true
}

const (
	sizeofTCMsg = 20 // struct tcmsg

	// Of include/uapi/linux/rtnetlink.h and gen_stats.h.
	tcaKind        = 1
	tcaStats2      = 7
	tcaStatsQueue  = 3
	sizeofGnetQ    = 20 // struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits
	gnetQueueDrops = 8
	gnetBacklog    = 4
)

// parseQueue takes an RTM_NEWQDISC apart.
func parseQueue(b []byte) (index uint32, q queueReading, err error) {
	if len(b) < sizeofTCMsg {
		return 0, q, errNetlinkShort
	}
	ne := binary.NativeEndian
	index = ne.Uint32(b[4:])
	q.handle, q.parent = ne.Uint32(b[8:]), ne.Uint32(b[12:])
	err = attributes(b[sizeofTCMsg:], func(kind uint16, v []byte) bool {
		switch kind {
		case tcaKind:
			q.kind = cString(v)
		case tcaStats2:
			return attributes(v, func(kind uint16, v []byte) bool {
				if kind == tcaStatsQueue && len(v) >= sizeofGnetQ {
					q.backlog, q.drops = ne.Uint32(v[gnetBacklog:]), ne.Uint32(v[gnetQueueDrops:])
				}
				return true
			}) == nil
		}
		return true
	})
	return index, q, err
}

// explain takes in drops that the kernel told of.
func (c *counterSource) explain(s side, index uint32, drops uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rises.explain(s, index, drops)
}

// interfaces tells what the interfaces counted, as last read.
func (c *counterSource) interfaces() []InterfaceCounters {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rises.counters()
}

// left counts readings, packets that only counters told of, readings that failed
// and interfaces that were too many to be followed.
func (c *counterSource) left() counterCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return counterCounts{readings: c.rises.readings, told: c.rises.told, failed: c.failed, leftOut: c.rises.leftOut}
}

func (c *counterSource) close() { c.lister.close() }
