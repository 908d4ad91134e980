package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
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
	prefixes func(index uint32) ranges     // routed over an interface
	heard    func(now time.Time) time.Time // until when all was explained that the kernel had to say; nil: it tells of nothing

	ruler *lister // of firewall rules; nil: not read

	mu    sync.Mutex
	rises *rises
	ruled *ruleSets // as last read

	ruling   sync.Mutex // guards ruler and what follows
	rulesDue time.Time
	tell     func([]ruleRecord) // of rules that log, as they are read
	needed   time.Time          // until when the time that reading them out of turn took counts
	broken   complaint
	failed   uint64 // readings
}

const (
	// rulesEvery is how often firewall rules are read at most, and rulesShare how
	// much of the time it may take: a firewall may have a hundred thousand.
	rulesEvery = 5 * time.Second
	rulesShare = 0.005
	// neededShare is how much of the time it may take while rules are needed out of
	// turn, over neededOver: a flood's beginning is not to wait.
	neededShare = 0.02
	neededOver  = 5 * time.Second
)

// openCounters opens its socket in the network namespace of the calling thread,
// and reads for the first time. heard is nil where the kernel does not tell of
// drops too; else it returns until when all was explained that it had to say.
func openCounters(cfg CountersConfig, heard func(time.Time) time.Time, prefixes func(uint32) ranges, log *slog.Logger) (*counterSource, error) {
	l, err := openLister(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("counters: %w", err)
	}
	c := &counterSource{cfg: cfg, log: log, lister: l, prefixes: prefixes, heard: heard, rises: newRises(heard != nil, maxPorts), ruled: newRuleSets()}
	now, err := c.read()
	if err != nil {
		l.close()
		return nil, fmt.Errorf("counters: %w", err)
	}
	c.rises.read(time.Now(), now)
	if c.ruler, err = openLister(unix.NETLINK_NETFILTER); err != nil {
		log.Warn("the counters of firewall rules are not read, all others are", "error", err)
	}
	c.lookAtRules()
	return c, nil
}

// lookAtRules reads the counters of firewall rules when it is time to.
func (c *counterSource) lookAtRules() {
	c.ruling.Lock()
	defer c.ruling.Unlock()
	if !time.Now().Before(c.rulesDue) {
		c.takeRules()
	}
}

// readRulesNow reads them out of turn, for who needs them as they are. It reports
// whether it could.
func (c *counterSource) readRulesNow() bool {
	c.ruling.Lock()
	defer c.ruling.Unlock()
	begin := time.Now()
	if c.needed.Sub(begin) > neededOver {
		return false
	}
	if c.needed.Before(begin) {
		c.needed = begin
	}
	ok := c.takeRules()
	c.needed = c.needed.Add(time.Duration(float64(time.Since(begin)) / neededShare))
	return ok
}

// tellRules has the rules told that log to a group, each time that they are read.
func (c *counterSource) tellRules(tell func([]ruleRecord)) {
	c.ruling.Lock()
	defer c.ruling.Unlock()
	c.tell = tell
	c.takeRules()
}

// takeRules reads the rules. The caller holds c.ruling.
func (c *counterSource) takeRules() bool {
	begin := time.Now()
	if c.ruler == nil {
		return false
	}
	sets, whole, err := c.readRules()
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		c.log.Warn("the counters of firewall rules are not read: that needs cap_net_admin, and nftables in the kernel (CONFIG_NF_TABLES)", "error", err)
		c.ruler.close()
		c.ruler = nil
		return false
	case err != nil:
		if count, due := c.broken.make(begin); due {
			c.log.Warn("firewall rules were not read", "times", count, "error", err)
		}
	}
	took := time.Since(begin)
	c.rulesDue = begin.Add(max(rulesEvery, time.Duration(float64(took)/rulesShare)))
	if err != nil || !whole { // the next list will be
		return false
	}
	if c.tell != nil {
		c.tell(sets.logging)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ruled = sets
	return true
}

// readRules lists the rules of all tables. whole is false when they changed
// meanwhile.
func (c *counterSource) readRules() (sets *ruleSets, whole bool, err error) {
	const (
		getRule = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE
		newRule = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE
	)
	sets = newRuleSets()
	var bad error
	whole, err = c.ruler.list(getRule, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, func(h nlHeader, body []byte) {
		if h.kind != newRule {
			return
		}
		r, err := parseRule(body)
		if err != nil {
			bad = err
			return
		}
		sets.add(&r)
	})
	return sets, whole, errors.Join(err, bad)
}

// rules tells what the rules that count counted, as last read.
func (c *counterSource) rules() []RuleSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ruled.sets
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
			c.lookAtRules()
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
func (x *rise) event(prefixes func(uint32) ranges) observed {
	ev := &decafpb.DropEvent{
		TimeNs: uint64(x.at.UnixNano()),
		Class:  x.class, Reason: x.reason, Source: "counters", Queue: x.queue,
	}
	if x.ingress {
		ev.Ingress = x.name
	} else {
		ev.Egress = x.name
	}
	over := prefixes(x.index)
	for _, p := range over.list {
		ev.Prefixes = append(ev.Prefixes, prefixPB(p))
	}
	return observed{event: ev, packets: x.packets, known: x.class != Unknown, routed: over.routed, widened: over.widened}
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

// explain takes in drops that the kernel told of, of so many bytes together.
func (c *counterSource) explain(s side, index uint32, drops, bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rises.explain(s, index, drops, bytes)
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
	return counterCounts{readings: c.rises.readings, told: c.rises.told, failed: c.failed, leftOut: c.rises.leftOut, rulesLeftOut: c.ruled.leftOut}
}

func (c *counterSource) close() {
	c.lister.close()
	c.ruling.Lock()
	defer c.ruling.Unlock()
	if c.ruler != nil {
		c.ruler.close()
	}
}
