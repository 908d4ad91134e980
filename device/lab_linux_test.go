package device

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// node is an anonymous network namespace.
type node struct {
	t  testing.TB
	ns netns.NsHandle
	nl *netlink.Handle
}

// newNode makes a namespace on a thread of its own. The thread ends with its
// goroutine, and the namespace with its last descriptor.
func newNode(t testing.TB) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and eBPF")
	}
	n := &node{t: t}
	errs := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.ns, err = netns.Get()
		}
		errs <- err
	}()
	if err := <-errs; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { n.ns.Close() })
	var err error
	if n.nl, err = netlink.NewHandleAt(n.ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.nl.Close)
	n.up("lo")
	return n
}

// do runs fn in the namespace.
func (n *node) do(fn func() error) error {
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		if err := netns.Set(n.ns); err != nil {
			errs <- err
			return
		}
		errs <- fn()
	}()
	return <-errs
}

func (n *node) must(what string, err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatalf("%s: %v", what, err)
	}
}

func (n *node) link(name string) netlink.Link {
	n.t.Helper()
	l, err := n.nl.LinkByName(name)
	n.must(name, err)
	return l
}

func (n *node) up(name string) {
	n.t.Helper()
	n.must("set up "+name, n.nl.LinkSetUp(n.link(name)))
}

func (n *node) address(ifname string, prefixes ...string) {
	n.t.Helper()
	for _, p := range prefixes {
		a, err := netlink.ParseAddr(p)
		n.must(p, err)
		a.Flags |= unix.IFA_F_NODAD
		n.must("address "+p, n.nl.AddrAdd(n.link(ifname), a))
	}
}

func (n *node) route(dst, via string, kind int) {
	n.t.Helper()
	_, ipnet, err := net.ParseCIDR(dst)
	n.must(dst, err)
	r := &netlink.Route{Dst: ipnet, Type: kind}
	if via != "" {
		r.Gw = net.ParseIP(via)
	}
	n.must("route "+dst, n.nl.RouteAdd(r))
}

func (n *node) sysctl(name, value string) {
	n.t.Helper()
	n.must(name, n.do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) }))
}

// lab is h1 - r - h2: a router between two hosts, IPv4 and IPv6.
//
//	h1 eth0 10.0.1.2, fd00:1::2 | eth1 10.0.1.1, fd00:1::1 r eth2 10.0.2.1, fd00:2::1 | eth0 10.0.2.2, fd00:2::2 h2
type lab struct{ h1, r, h2 *node }

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{h1: newNode(t), r: newNode(t), h2: newNode(t)}
	for i, h := range []*node{l.h1, l.h2} {
		net := i + 1
		veth := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: fmt.Sprintf("eth%d", net)},
			PeerName:      "eth0",
			PeerNamespace: netlink.NsFd(h.ns),
		}
		l.r.must("veth", l.r.nl.LinkAdd(veth))
		h.address("eth0", fmt.Sprintf("10.0.%d.2/24", net), fmt.Sprintf("fd00:%d::2/64", net))
		l.r.address(veth.Name, fmt.Sprintf("10.0.%d.1/24", net), fmt.Sprintf("fd00:%d::1/64", net))
		h.up("eth0")
		l.r.up(veth.Name)
		h.route("0.0.0.0/0", fmt.Sprintf("10.0.%d.1", net), unix.RTN_UNICAST)
		h.route("::/0", fmt.Sprintf("fd00:%d::1", net), unix.RTN_UNICAST)
	}
	for _, n := range []*node{l.h1, l.r, l.h2} {
		n.sysctl("net/ipv4/conf/all/rp_filter", "0")
		n.sysctl("net/ipv4/conf/default/rp_filter", "0")
	}
	l.r.sysctl("net/ipv4/ip_forward", "1")
	l.r.sysctl("net/ipv6/conf/all/forwarding", "1")
	// Neighbours are known, so that no packet waits for one.
	l.r.neighbour("eth1", l.h1, "10.0.1.2", "fd00:1::2")
	l.r.neighbour("eth2", l.h2, "10.0.2.2", "fd00:2::2")
	l.h1.neighbourOf("eth0", l.r, "eth1", "10.0.1.1", "fd00:1::1")
	l.h2.neighbourOf("eth0", l.r, "eth2", "10.0.2.1", "fd00:2::1")
	return l
}

func (l *lab) withoutIPv6() {
	for _, n := range []*node{l.h1, l.r, l.h2} {
		n.sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	}
}

func (n *node) neighbour(ifname string, peer *node, addresses ...string) {
	n.t.Helper()
	n.neighbourOf(ifname, peer, "eth0", addresses...)
}

func (n *node) neighbourOf(ifname string, peer *node, peerIf string, addresses ...string) {
	n.t.Helper()
	for _, a := range addresses {
		ip := net.ParseIP(a)
		n.must("neighbour "+a, n.nl.NeighSet(&netlink.Neigh{
			LinkIndex:    n.link(ifname).Attrs().Index,
			State:        netlink.NUD_PERMANENT,
			IP:           ip,
			HardwareAddr: peer.link(peerIf).Attrs().HardwareAddr,
		}))
	}
}

// sendRaw sends IP packets, header included, from a node.
func (n *node) sendRaw(packets ...[]byte) {
	n.t.Helper()
	n.must("send", n.do(func() error {
		for _, b := range packets {
			family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(b[16:20])})
			if b[0]>>4 == 6 {
				family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(b[24:40])}
			}
			s, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			err = unix.Sendto(s, b, 0, to)
			unix.Close(s)
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
