package kernel

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// install puts a node's routes into its main table.
func (s *space) install(routes []route, index map[string]int) error {
	for _, r := range routes {
		v := versionOf(r.dst.Addr())
		nr := &netlink.Route{Dst: ipNet(r.dst)}
		if len(r.over) == 1 {
			nr.LinkIndex = index[r.over[0].From.Name]
			nr.Gw = v.at(r.over[0].To).Addr().AsSlice()
		} else {
			for _, l := range r.over {
				nr.MultiPath = append(nr.MultiPath, &netlink.NexthopInfo{
					LinkIndex: index[l.From.Name],
					Gw:        v.at(l.To).Addr().AsSlice(),
				})
			}
		}
		if err := s.rt.RouteAdd(nr); err != nil {
			return fmt.Errorf("add a route to %s: %w", r.dst, err)
		}
	}
	return nil
}

// family is the version's number for the kernel.
func (v version) family() int {
	if v == ipv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// ipNet is a prefix as netlink takes it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
