package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const mtu = 1500

// end is one end of a veth pair.
type end struct {
	in   *space
	name string
	mac  net.HardwareAddr
}

// hardwareAddr is a locally administered unicast address, told by number.
func hardwareAddr(n uint32) net.HardwareAddr {
	mac := net.HardwareAddr{0x02, 0xdc, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(mac[2:], n)
	return mac
}

// cable makes a veth pair directly in the namespaces of its ends, so that no end
// of it is ever seen elsewhere. The ends are down and have no address yet.
func cable(a, b end) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.name
	attrs.MTU = mtu
	attrs.HardwareAddr = a.mac
	attrs.Namespace = netlink.NsFd(a.in.fd)
	// One queue each: a flow's packets keep their order.
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	return a.in.rt.LinkAdd(&netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         b.name,
		PeerHardwareAddr: b.mac,
		PeerNamespace:    netlink.NsFd(b.in.fd),
	})
}

// indexes gives the interface numbers of the space by name.
func (s *space) indexes() (map[string]int, error) {
	links, err := s.links()
	if err != nil {
		return nil, err
	}
	index := make(map[string]int, len(links))
	for _, l := range links {
		index[l.Attrs().Name] = l.Attrs().Index
	}
	return index, nil
}

// links lists the space's interfaces. A listing during which something changed is
// taken again, a few times.
func (s *space) links() ([]netlink.Link, error) {
	var links []netlink.Link
	var err error
	for range 5 {
		if links, err = s.rt.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return links, nil
}

// raise gives an interface its addresses and brings it up.
func (s *space) raise(index int, addrs ...netip.Prefix) error {
	for _, addr := range addrs {
		err := s.rt.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, &netlink.Addr{IPNet: ipNet(addr)})
		if err != nil {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
	}
	if err := s.rt.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	return nil
}

// carrierTime is how long the kernel may take to note at one end of a cable that the
// other came up or went down.
const carrierTime = 5 * time.Second

// await returns when interfaces have a carrier, and so a queue, or none. Until the
// kernel has noted a change they drop what is sent over them. It may leave that for a
// second, but does it at once for an interface that is asked for by itself
// (rtnl_getlink in net/core/rtnetlink.c).
func (s *space) await(up bool, indexes ...int) error {
	const running = unix.IFF_LOWER_UP | unix.IFF_RUNNING
	deadline := time.Now().Add(carrierTime)
	for _, i := range indexes {
		for {
			l, err := s.rt.LinkByIndex(i)
			if err != nil {
				return fmt.Errorf("read the state of interface %d: %w", i, err)
			}
			if (l.Attrs().RawFlags&running == running) == up {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s: the carrier did not change within %v", l.Attrs().Name, carrierTime)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// awaitOwn returns when the kernel takes packets for addresses of this space as its
// own, which for IPv6 is some time after they were given.
func (s *space) awaitOwn(addrs []netip.Prefix) error {
	missing := slices.DeleteFunc(slices.Clone(addrs), func(p netip.Prefix) bool { return versionOf(p.Addr()) == ipv4 })
	for deadline := time.Now().Add(carrierTime); len(missing) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("address %s was not in use within %v", missing[0], carrierTime)
		}
		routes, err := s.rt.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		} else if err != nil {
			return fmt.Errorf("list own addresses: %w", err)
		}
		missing = slices.DeleteFunc(missing, func(p netip.Prefix) bool {
			return slices.ContainsFunc(routes, func(r netlink.Route) bool {
				return r.Type == unix.RTN_LOCAL && r.Dst != nil && r.Dst.IP.Equal(p.Addr().AsSlice())
			})
		})
	}
	return nil
}

// pin makes a neighbour permanent: an unresolved one drops packets, some at once
// and the rest seconds later.
func (s *space) pin(index int, addr netip.Addr, mac net.HardwareAddr) error {
	err := s.rt.NeighSet(&netlink.Neigh{
		LinkIndex:    index,
		Family:       versionOf(addr).family(),
		State:        netlink.NUD_PERMANENT,
		IP:           addr.AsSlice(),
		HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", addr, err)
	}
	return nil
}

// offloading is something an interface does for packets, by the number of the command
// that sets it (include/uapi/linux/ethtool.h).
type offloading struct {
	name    string
	command uint32
}

var genericReceive = offloading{"generic receive", 0x2c} // ETHTOOL_SGRO

// plainOffloads are what an interface must not do, so that one drop is one
// packet: with segmentation offload on a veth a single drop takes up to 64 KB.
var plainOffloads = []offloading{
	{"tcp segmentation", 0x1f},     // ETHTOOL_STSO
	{"generic segmentation", 0x24}, // ETHTOOL_SGSO
	genericReceive,
}

// without turns offloads off, for interfaces of the namespace the thread is in.
func without(offloads []offloading, names []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket for interface settings: %w", err)
	}
	defer unix.Close(fd)
	for _, name := range names {
		for _, o := range offloads {
			value := struct{ command, data uint32 }{o.command, 0}
			if err := offloadCommand(fd, name, unsafe.Pointer(&value)); err != nil {
				return fmt.Errorf("turn off %s offload of %s: %w", o.name, name, err)
			}
		}
	}
	return nil
}

// offloadCommand sends an ethtool command, whose value is told by its number.
func offloadCommand(fd int, name string, value unsafe.Pointer) error {
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte // struct ifreq is 40 bytes
	}{data: value}
	copy(request.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}
