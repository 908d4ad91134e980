package tracer

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// neighbours asks the kernel for one neighbour at a time: a host may have thousands,
// and to list them takes longer than a trace. Kernels before Linux 5.0 can only list
// them. It has one caller at a time.
type neighbours struct {
	socket *nl.SocketHandle
	one    func(index int, a netip.Addr) (*netlink.Neigh, error) // nil: none
	list   func(index, family int) ([]netlink.Neigh, error)
	old    bool // the kernel can only list them
}

// openNeighbours asks about the network namespace of the calling thread, which is that
// of the handle too.
func openNeighbours(rt *netlink.Handle) (*neighbours, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	patience := unix.NsecToTimeval(int64(time.Second))
	err = errors.Join(s.SetSendTimeout(&patience), s.SetReceiveTimeout(&patience))
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("configure a route netlink socket: %w", err)
	}
	n := &neighbours{socket: &nl.SocketHandle{Socket: s}, list: rt.NeighList}
	n.one = n.ask
	return n, nil
}

func (n *neighbours) close() { n.socket.Close() }

// at gives the hardware address that belongs to an address on an interface, nil where
// none is known.
func (n *neighbours) at(index int, a netip.Addr) (net.HardwareAddr, error) {
	var found *netlink.Neigh
	err := error(unix.EOPNOTSUPP)
	if !n.old {
		found, err = n.one(index, a)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		n.old = true
		found, err = n.among(index, a)
	}
	if err != nil || found == nil || found.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE) != 0 {
		return nil, err
	}
	return found.HardwareAddr, nil
}

// among looks for one in a list of all on the interface.
func (n *neighbours) among(index int, a netip.Addr) (*netlink.Neigh, error) {
	all, err := n.list(index, int(familyOf(a)))
	if err != nil {
		return nil, err
	}
	for i := range all {
		if ip, ok := netip.AddrFromSlice(all[i].IP); ok && ip.Unmap() == a {
			return &all[i], nil
		}
	}
	return nil, nil
}

// familyOf is the address family.
func familyOf(a netip.Addr) uint8 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// ask asks for one.
func (n *neighbours) ask(index int, a netip.Addr) (*netlink.Neigh, error) {
	r := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: n.socket}
	r.AddData(&netlink.Ndmsg{Family: familyOf(a), Index: uint32(index)})
	r.AddData(nl.NewRtAttr(netlink.NDA_DST, a.AsSlice()))
	answers, err := r.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, err
	case len(answers) == 0 || len(answers[0]) < (&netlink.Ndmsg{}).Len():
		return nil, errors.New("the kernel answered without a neighbour")
	}
	return netlink.NeighDeserialize(answers[0])
}
