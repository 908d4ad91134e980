package kernel

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// install puts a node's routes into its main table.
func (s *space) install(routes []route, index map[string]int) error {
	for _, r := range routes {
		nr := &netlink.Route{Dst: &net.IPNet{
			IP:   r.dst.Addr().AsSlice(),
			Mask: net.CIDRMask(r.dst.Bits(), r.dst.Addr().BitLen()),
		}}
		if len(r.over) == 1 {
			nr.LinkIndex = index[r.over[0].From.Name]
			nr.Gw = r.over[0].To.Addr.Addr().AsSlice()
		} else {
			for _, l := range r.over {
				nr.MultiPath = append(nr.MultiPath, &netlink.NexthopInfo{
					LinkIndex: index[l.From.Name],
					Gw:        l.To.Addr.Addr().AsSlice(),
				})
			}
		}
		if err := s.rt.RouteAdd(nr); err != nil {
			return fmt.Errorf("add a route to %s: %w", r.dst, err)
		}
	}
	return nil
}
