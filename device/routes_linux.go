package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"decaf/api/decafpb"

	"golang.org/x/sys/unix"
)

const (
	// routeBeat is how often time passes for flaps.
	routeBeat = time.Second
	// A change that the kernel does not tell in so many words (an interface that
	// goes down takes its IPv4 routes along in silence, fib_flush in
	// net/ipv4/fib_frontend.c) makes all be listed again: this soon, so that
	// several are one, and so many times longer after a list than it took.
	relistAfter = 20 * time.Millisecond
	relistShare = 10
	// rangeShare is the same for the ranges over each interface.
	rangeShare = 100

	// routeRate bounds the route events of a second; a table that is loaded anew
	// has a million.
	routeRate = 1000
)

// routeSource is the source of changes of routes and neighbours, in one network
// namespace.
type routeSource struct {
	cfg     RoutesConfig
	log     *slog.Logger
	changes *rtnetlink
	lister  *lister
	ifname  func(uint32) string

	mu         sync.Mutex // of what follows
	table      *routeTable
	neighbours *neighbours
	flaps      *flaps
	gate       gate
	up         map[uint32]bool // interfaces
	missed     bool            // changes

	ranges   map[uint32]ranges // over each interface
	ranged   uint64            // the table's version then
	rangedAt time.Time
	rangedIn time.Duration

	relist time.Time     // when to list again; zero for not at all
	listed time.Time     // when the last list ended
	took   time.Duration // it

	counts routeCounts
	broken complaint
}

// openRoutes opens its sockets in the network namespace of the calling thread and
// reads the routes and neighbours there are.
func openRoutes(cfg RoutesConfig, ifname func(uint32) string, log *slog.Logger) (_ *routeSource, err error) {
	s := &routeSource{
		cfg: cfg, log: log, ifname: ifname,
		table: newRouteTable(maxRoutes), neighbours: newNeighbours(maxNeighbours),
		flaps: newFlaps(cfg.Changes, cfg.Window, maxFlaps),
		gate:  gate{threshold: routeRate, burst: routeRate, hold: rateWindow},
		up:    map[uint32]bool{},
	}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("routes: %w", err)
		}
	}()
	// Listen first, then list: nothing falls between.
	if s.changes, err = openRtnetlink(unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE); err != nil {
		return nil, err
	}
	if s.lister, err = openLister(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	if _, err = s.list(); err != nil {
		return nil, err
	}
	if _, err = s.listNeighbours(); err != nil {
		return nil, err
	}
	return s, s.listUp()
}

// listUp reads which interfaces are up.
func (s *routeSource) listUp() error {
	up := map[uint32]bool{}
	_, err := s.lister.list(unix.RTM_GETLINK, linkRequest(), func(_ nlHeader, body []byte) {
		if l, err := parseLink(body); err == nil && len(up) < maxInterfaces {
			up[l.index] = l.flags&unix.IFF_UP != 0
		}
	})
	if err != nil {
		return err
	}
	for index, was := range s.up {
		if was && !up[index] {
			s.neighbours.forget(index)
		}
	}
	s.up = up
	return nil
}

// list reads all routes and returns what is different from before.
func (s *routeSource) list() ([]routeChange, error) {
	begun := time.Now()
	var all []routeMessage
	for range 3 { // one that changed while it was made is made again
		all = all[:0]
		whole, err := s.lister.list(unix.RTM_GETROUTE, make([]byte, unix.SizeofRtMsg), func(_ nlHeader, body []byte) {
			if m, ok, err := parseRoute(nlHeader{kind: unix.RTM_NEWROUTE}, body); err == nil && ok {
				m.appends = m.prefix.Addr().Is6() // IPv6 lists one next hop at a time where each came by itself
				all = append(all, m)
			}
		})
		if err != nil {
			return nil, err
		}
		if whole {
			break
		}
	}
	out := s.table.replace(all)
	s.counts.lists++
	s.listed = time.Now()
	s.took = s.listed.Sub(begun)
	return out, nil
}

// listNeighbours reads all neighbours and returns what is different from before.
func (s *routeSource) listNeighbours() (out []neighbourChange, err error) {
	_, err = s.lister.list(unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg), func(_ nlHeader, body []byte) {
		if m, ok, err := parseNeighbour(false, body); err == nil && ok {
			if c, ok := s.neighbours.apply(m); ok {
				out = append(out, c)
			}
		}
	})
	return out, err
}

// observe tells of changes until ctx ends.
func (s *routeSource) observe(ctx context.Context, tell routeTeller) error {
	defer context.AfterFunc(ctx, s.changes.wake)()
	ticked := time.Now()
	for ctx.Err() == nil {
		s.mu.Lock()
		until := ticked.Add(routeBeat)
		if !s.relist.IsZero() && s.relist.Before(until) {
			until = s.relist
		}
		s.mu.Unlock()
		err := s.changes.receive(until, func(h nlHeader, body []byte) { s.take(time.Now(), h, body, tell) })
		now := time.Now()
		s.mu.Lock()
		switch {
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, errMissed):
			s.counts.missed++
			s.missed = true
			s.again(now)
		case errors.Is(err, errNetlinkShort):
			s.complain(err, now)
		default:
			s.mu.Unlock()
			return fmt.Errorf("routes: %w", err)
		}
		if !s.relist.IsZero() && !now.Before(s.relist) {
			s.relist = time.Time{}
			list, err := s.list()
			if err != nil {
				s.complain(err, now)
				s.again(now.Add(routeBeat))
			}
			for i := range list {
				s.changed(now, &list[i], tell)
			}
			s.recover(now, tell)
		}
		if now.Sub(ticked) >= routeBeat || now.Before(ticked) {
			ticked = now
			s.tick(now, tell)
		}
		s.mu.Unlock()
	}
	return nil
}

// again makes all routes be listed soon.
func (s *routeSource) again(now time.Time) {
	if !s.relist.IsZero() {
		return
	}
	s.relist = now.Add(relistAfter)
	if rest := s.listed.Add(relistShare * s.took); rest.After(s.relist) {
		s.relist = rest
	}
}

func (s *routeSource) complain(err error, now time.Time) {
	s.counts.malformed++
	if count, due := s.broken.make(now); due {
		s.log.Warn("what the kernel told of routes was left out", "count", count, "error", err)
	}
}

// take takes in one message.
func (s *routeSource) take(now time.Time, h nlHeader, body []byte, tell routeTeller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	switch h.kind {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		var m routeMessage
		var ok bool
		if m, ok, err = parseRoute(h, body); ok && err == nil {
			if c, ok := s.table.apply(m); ok {
				s.changed(now, &c, tell)
			}
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		var m neighbourMessage
		var ok bool
		if m, ok, err = parseNeighbour(h.kind == unix.RTM_DELNEIGH, body); ok && err == nil {
			if c, ok := s.neighbours.apply(m); ok {
				s.neighbour(now, &c, tell)
			}
		}
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		var l linkMessage
		if l, err = parseLink(body); err != nil {
			break
		}
		up := h.kind == unix.RTM_NEWLINK && l.flags&unix.IFF_UP != 0
		if was, known := s.up[l.index]; known && was && !up {
			s.neighbours.forget(l.index)
			s.again(now)
		}
		if h.kind == unix.RTM_DELLINK {
			delete(s.up, l.index)
		} else if _, known := s.up[l.index]; known || len(s.up) < maxInterfaces {
			s.up[l.index] = up
		}
	case unix.RTM_DELADDR:
		s.again(now) // routes from that address are gone
	}
	if err != nil {
		s.complain(err, now)
	}
}

// changed tells of a change of a route.
func (s *routeSource) changed(now time.Time, c *routeChange, tell routeTeller) {
	s.tell(now, c.event(now, s.ifname), flapKey{prefix: c.prefix, table: c.table}, tell)
}

// neighbour tells of a change of a neighbour.
func (s *routeSource) neighbour(now time.Time, c *neighbourChange, tell routeTeller) {
	s.tell(now, c.event(now, s.ifname), flapKey{prefix: netip.PrefixFrom(c.addr, c.addr.BitLen()), index: c.neighbourKey.index}, tell)
}

// recover finds what else was missed: neighbours, and which interfaces are up.
func (s *routeSource) recover(now time.Time, tell routeTeller) {
	if !s.missed {
		return
	}
	s.missed = false
	list, err := s.listNeighbours()
	if err = errors.Join(err, s.listUp()); err != nil {
		s.complain(err, now)
		s.missed = true
		s.again(now.Add(routeBeat))
	}
	for i := range list {
		s.neighbour(now, &list[i], tell)
	}
}

// tell tells of a change, and of a flap when it makes one.
func (s *routeSource) tell(now time.Time, ev *decafpb.RouteEvent, key flapKey, tell routeTeller) {
	if pass, _ := s.gate.take(now, 1); pass {
		s.counts.changes++
		tell.route(ev)
	} else {
		s.counts.suppressed++
	}
	if n := s.flaps.change(now, key); n > 0 {
		s.flap(now, key, n, ev.Interface, tell)
	}
}

// tick lets time pass.
func (s *routeSource) tick(now time.Time, tell routeTeller) {
	s.gate.tick(now)
	for _, p := range s.flaps.tick(now) {
		if p.ended {
			s.log.Info("a prefix flaps no more", "prefix", p.key.prefix, "changes", p.changes, "window", s.cfg.Window)
			continue
		}
		ifname := s.ifname(p.key.index)
		if best := s.table.best(routeKey{p.key.table, p.key.prefix}); best != nil && len(best.hops) > 0 {
			ifname = s.ifname(best.hops[0].index)
		}
		s.flap(now, p.key, p.changes, ifname, tell)
	}
}

// flap tells of a prefix that flaps: once as what became of the route, once among
// the drops.
func (s *routeSource) flap(now time.Time, key flapKey, changes int, ifname string, tell routeTeller) {
	s.counts.flaps++
	s.log.Info("a prefix flaps", "prefix", key.prefix, "interface", ifname, "changes", changes, "window", s.cfg.Window)
	tell.route(&decafpb.RouteEvent{
		TimeNs: uint64(now.UnixNano()), Prefix: prefixPB(key.prefix), Interface: ifname,
		Change: decafpb.RouteChange_ROUTE_CHANGE_FLAPPING, Changes: uint32(changes),
	})
	tell.anomaly(observed{known: true, event: &decafpb.DropEvent{
		TimeNs: uint64(now.UnixNano()), Class: AnomalyRouteFlap, Reason: "FLAPPING", Source: "routes",
		Egress: ifname, Prefixes: []*decafpb.Prefix{prefixPB(key.prefix)},
	}})
}

// over lists the prefixes routed over an interface, as few ranges that hold them
// all. Where routes change all the time and are many, it may be some time old.
func (s *routeSource) over(index uint32) ranges {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.ranges == nil || s.ranged != s.table.version && now.Sub(s.rangedAt) >= rangeShare*s.rangedIn {
		s.ranges, s.ranged = s.table.over(), s.table.version
		s.rangedAt = time.Now()
		s.rangedIn = s.rangedAt.Sub(now)
	}
	return s.ranges[index]
}

// left is what came and what was left out; how many prefixes flap; and routes,
// neighbours and flaps that there was no room to remember.
func (s *routeSource) left() (c routeCounts, flapping, leftOut uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts, uint64(s.flaps.flapping), s.table.leftOut + s.neighbours.leftOut + s.flaps.forgotten
}

func (s *routeSource) close() {
	if s.changes != nil {
		s.changes.close()
	}
	if s.lister != nil {
		s.lister.close()
	}
}

// parseRoute takes a message about a route apart. It reports false for one that
// leads no packet on: of the device's own addresses, multicast, a cache's.
func parseRoute(h nlHeader, b []byte) (m routeMessage, ok bool, err error) {
	if len(b) < unix.SizeofRtMsg {
		return m, false, errNetlinkShort
	}
	family, bits, kind := b[0], int(b[1]), b[7]
	ne := binary.NativeEndian
	m.deleted = h.kind == unix.RTM_DELROUTE
	m.replaces, m.appends = h.flags&unix.NLM_F_REPLACE != 0, h.flags&unix.NLM_F_APPEND != 0
	m.table = uint32(b[4])
	var dst netip.Addr
	var hop nextHop
	err = attributes(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) bool {
		u32 := func(to *uint32) bool {
			if len(v) < 4 {
				return false
			}
			*to = ne.Uint32(v)
			return true
		}
		switch kind {
		case unix.RTA_DST:
			dst, ok = netip.AddrFromSlice(v)
			return ok || family != unix.AF_INET && family != unix.AF_INET6
		case unix.RTA_TABLE:
			return u32(&m.table)
		case unix.RTA_PRIORITY:
			return u32(&m.metric)
		case unix.RTA_MULTIPATH:
			return eachNextHop(v, func(h nextHop) { m.hops = append(m.hops, h) })
		default:
			return hop.take(kind, v)
		}
	})
	if err != nil {
		return m, false, err
	}
	if hop != (nextHop{}) {
		m.hops = append(m.hops, hop)
	}
	switch family {
	case unix.AF_INET:
		if !dst.IsValid() {
			dst = netip.IPv4Unspecified()
		}
	case unix.AF_INET6:
		if !dst.IsValid() {
			dst = netip.IPv6Unspecified()
		}
	default:
		return m, false, nil
	}
	switch kind {
	case unix.RTN_UNICAST:
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
		m.hops = nil // IPv6 gives the loopback interface
	default:
		return m, false, nil
	}
	if ne.Uint32(b[8:])&unix.RTM_F_CLONED != 0 || m.table == unix.RT_TABLE_LOCAL || dst.IsLinkLocalUnicast() || dst.IsMulticast() {
		return m, false, nil
	}
	if dst.Is4() != (family == unix.AF_INET) || bits > dst.BitLen() {
		return m, false, fmt.Errorf("a route to %s/%d of family %d", dst, bits, family)
	}
	m.prefix = netip.PrefixFrom(dst, bits).Masked()
	return m, true, nil
}

// take takes in an attribute of a next hop; others it passes over.
func (h *nextHop) take(kind uint16, v []byte) (ok bool) {
	switch kind {
	case unix.RTA_OIF:
		if ok = len(v) >= 4; ok {
			h.index = binary.NativeEndian.Uint32(v)
		}
		return ok
	case unix.RTA_GATEWAY:
		h.addr, ok = netip.AddrFromSlice(v)
		return ok
	case unix.RTA_VIA: // a family, and an address of it
		if ok = len(v) >= 2; ok {
			if a, valid := netip.AddrFromSlice(v[2:]); valid {
				h.addr = a
			}
		}
		return ok
	}
	return true
}

// eachNextHop walks the next hops of a route that has several: struct rtnexthop,
// each with attributes of its own.
func eachNextHop(b []byte, each func(nextHop)) bool {
	for len(b) > 0 {
		if len(b) < unix.SizeofRtNexthop {
			return false
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			return false
		}
		h := nextHop{index: binary.NativeEndian.Uint32(b[4:])}
		if attributes(b[unix.SizeofRtNexthop:n], h.take) != nil {
			return false
		}
		each(h)
		b = b[min((n+3)&^3, len(b)):]
	}
	return true
}

// parseNeighbour takes a message about a neighbour apart. It reports false for
// one that is no machine: a proxied address, a multicast's.
func parseNeighbour(deleted bool, b []byte) (m neighbourMessage, ok bool, err error) {
	const (
		proxy    = 0x08 // NTF_PROXY
		noARP    = 0x40 // NUD_NOARP
		ndaDst   = 1
		ndaMAC   = 2
		macBytes = 6
	)
	if len(b) < unix.SizeofNdMsg {
		return m, false, errNetlinkShort
	}
	family, flags := b[0], b[10]
	m.deleted = deleted
	m.index, m.state = binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint16(b[8:])
	err = attributes(b[unix.SizeofNdMsg:], func(kind uint16, v []byte) bool {
		switch kind {
		case ndaDst:
			if a, valid := netip.AddrFromSlice(v); valid {
				m.addr = a
			}
		case ndaMAC:
			if len(v) == macBytes {
				m.mac = [6]byte(v)
			}
		}
		return true
	})
	ok = (family == unix.AF_INET || family == unix.AF_INET6) && flags&proxy == 0 && m.state&noARP == 0 &&
		m.addr.IsValid() && !m.addr.IsMulticast()
	return m, ok, err
}
