package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// noRoute takes a device's routes away, as a withdrawal that its neighbours have
// not heard of. What is on its own links stays reachable.
type noRoute struct {
	space   *space
	removed []netlink.Route
	before  uint64
	last    uint64
	gone    bool
}

func (f *Fabric) noRoute(g *target) (effect, error) {
	n, err := f.node(g.device)
	if err != nil {
		return nil, err
	}
	s := n.space
	var routes []netlink.Route
	for range 5 { // a listing during which something changed is taken again
		routes, err = s.rt.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	e := &noRoute{space: s}
	if e.before, err = e.misses(); err != nil {
		return nil, err
	}
	for _, r := range routes {
		connected := len(r.MultiPath) == 0 && r.Gw == nil
		if connected || !covered(r, g.dst) {
			continue
		}
		if err := s.rt.RouteDel(&r); err != nil {
			return nil, errors.Join(fmt.Errorf("remove the route to %s: %w", r.Dst, err), e.undo())
		}
		e.removed = append(e.removed, r)
	}
	if len(e.removed) == 0 {
		return nil, errors.New("the device has no such route over a neighbour: another fault has it, or only connected ones are meant")
	}
	return e, nil
}

// covered says whether all a route leads to lies in one of the prefixes; nil
// stands for all.
func covered(r netlink.Route, list []netip.Prefix) bool {
	if list == nil {
		return true
	}
	if r.Dst == nil {
		return false
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	if !ok {
		return false
	}
	ones, _ := r.Dst.Mask.Size()
	for _, p := range list {
		if p.Contains(a.Unmap()) && p.Bits() <= ones {
			return true
		}
	}
	return false
}

func (e *noRoute) read(t *Truth) error {
	if !e.gone {
		now, err := e.misses()
		if err != nil {
			return err
		}
		e.last = now - e.before
	}
	t.Packets = e.last
	return nil
}

func (e *noRoute) undo() error {
	var errs []error
	for _, r := range e.removed {
		if err := e.space.rt.RouteReplace(&r); err != nil {
			errs = append(errs, fmt.Errorf("put the route to %s back: %w", r.Dst, err))
		}
	}
	now, err := e.misses()
	e.last, e.gone = now-e.before, true
	return errors.Join(append(errs, err)...)
}

// misses reads the namespace's IpExtInNoRoutes.
func (e *noRoute) misses() (uint64, error) {
	var n uint64
	err := e.space.do(func() (err error) {
		n, err = netstat("IpExt", "InNoRoutes")
		return err
	})
	return n, err
}

// netstat reads a counter of the calling thread's namespace, from /proc/net/netstat
// (groups TcpExt, IpExt) or /proc/net/snmp (Ip, Icmp, Tcp, Udp).
func netstat(group, name string) (uint64, error) {
	for _, file := range []string{"/proc/thread-self/net/netstat", "/proc/thread-self/net/snmp"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, fmt.Errorf("read kernel counters: %w", err)
		}
		// Lines come in pairs: names, values.
		lines := bytes.Split(b, []byte("\n"))
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := bytes.Fields(lines[i]), bytes.Fields(lines[i+1])
			if len(names) == 0 || string(names[0]) != group+":" {
				continue
			}
			for j := 1; j < len(names) && j < len(values); j++ {
				if string(names[j]) == name {
					return strconv.ParseUint(string(values[j]), 10, 64)
				}
			}
		}
	}
	return 0, fmt.Errorf("the kernel has no counter %s%s", group, name)
}
