package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// noRoute takes a device's routes away, as a withdrawal that its neighbours have
// not heard of. What is on its own links stays reachable. Devices say
// errors/l3/rx/no-route.
type noRoute struct {
	space   *space
	removed []netlink.Route
	before  uint64
	last    uint64
	gone    bool
}

func (f *Fabric) noRoute(g *target) (effect, error) {
	e, err := f.withdrawable(g)
	if err != nil {
		return nil, err
	}
	if err := e.withdraw(); err != nil {
		return nil, errors.Join(err, e.undo())
	}
	return e, nil
}

// withdrawable finds the routes of a fault; they are still there.
func (f *Fabric) withdrawable(g *target) (*noRoute, error) {
	n, err := f.node(g.device)
	if err != nil {
		return nil, err
	}
	e := &noRoute{space: n.space}
	if e.before, err = e.misses(); err != nil {
		return nil, err
	}
	routes, err := n.space.routes()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if overNeighbour(r) && covered(r, g.dst) {
			e.removed = append(e.removed, r)
		}
	}
	if len(e.removed) == 0 {
		return nil, errors.New("the device has no such route over a neighbour: another fault has it")
	}
	return e, nil
}

// withdraw takes the routes away. When it fails some are.
func (e *noRoute) withdraw() error {
	for _, r := range e.removed {
		if err := e.space.rt.RouteDel(&r); err != nil {
			return fmt.Errorf("remove the route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// restore puts the routes back; those that are there stay.
func (e *noRoute) restore() error { return e.space.restore(e.removed) }

// routes lists the main table. A listing during which something changed is taken
// again, a few times.
func (s *space) routes() (routes []netlink.Route, err error) {
	for range 5 {
		routes, err = s.rt.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

// restore puts routes back that were listed before.
func (s *space) restore(routes []netlink.Route) error {
	var errs []error
	for _, r := range routes {
		if err := s.rt.RouteReplace(&r); err != nil {
			errs = append(errs, fmt.Errorf("put the route to %s back: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// overNeighbour says whether a route leads over a neighbour, not to what is on the
// device's own links.
func overNeighbour(r netlink.Route) bool { return len(r.MultiPath) > 0 || r.Gw != nil }

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
	restored := e.restore()
	now, err := e.misses()
	e.last, e.gone = now-e.before, true
	return errors.Join(restored, err)
}

// misses reads the namespace's IpExtInNoRoutes and Ip6InNoRoutes.
func (e *noRoute) misses() (uint64, error) {
	four, err := e.space.netstat("IpExt", "InNoRoutes")
	if err != nil {
		return 0, err
	}
	six, err := e.space.netstat("Ip6", "InNoRoutes")
	return four + six, err
}

// netstat reads a counter of the space.
func (s *space) netstat(group, name string) (n uint64, err error) {
	err = s.do(func() (err error) {
		n, err = netstat(group, name)
		return err
	})
	return n, err
}

// netstat reads a counter of the calling thread's namespace, from /proc/net/netstat
// (groups TcpExt, IpExt), /proc/net/snmp (Ip, Icmp, Tcp, Udp) or /proc/net/snmp6 (Ip6,
// Icmp6); that is not there on a machine without IPv6, which counts as 0.
func netstat(group, name string) (uint64, error) {
	if strings.HasSuffix(group, "6") {
		b, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		} else if err != nil {
			return 0, fmt.Errorf("read kernel counters: %w", err)
		}
		for line := range bytes.Lines(b) { // a name and a value
			if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == group+name {
				return strconv.ParseUint(string(f[1]), 10, 64)
			}
		}
		return 0, fmt.Errorf("the kernel has no counter %s%s", group, name)
	}
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
