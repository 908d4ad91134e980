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
// and to list them takes longer than a trace. It has one caller at a time.
type neighbours struct{ socket *nl.SocketHandle }

// openNeighbours asks about the network namespace of the calling thread.
func openNeighbours() (*neighbours, error) {
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
	return &neighbours{&nl.SocketHandle{Socket: s}}, nil
}

func (n *neighbours) close() { n.socket.Close() }

// at gives the hardware address that belongs to an address on an interface, nil where
// none is known.
func (n *neighbours) at(index int, a netip.Addr) (net.HardwareAddr, error) {
	family := uint8(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	r := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	r.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: n.socket}
	r.AddData(&netlink.Ndmsg{Family: family, Index: uint32(index)})
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
	found, err := netlink.NeighDeserialize(answers[0])
	if err != nil || found.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE) != 0 {
		return nil, err
	}
	return found.HardwareAddr, nil
}
