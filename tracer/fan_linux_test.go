package tracer

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// fan is h1 - r1 - {s1..s4} - r2 - h2 in network namespaces without a name, for
// IPv4 and IPv6: four equal paths, three switches on each.
//
//	h1–r1 10.1.0.0/31   r1–sI 10.2.I.0/31   sI–r2 10.3.I.0/31   r2–h2 10.4.0.0/31
//	and the same digits in fd00::/16, the even address on the left.
type fan struct {
	t     testing.TB
	nodes map[string]netns.NsHandle
}

const spines = 4

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
}

func newFan(t testing.TB) *fan {
	t.Helper()
	needRoot(t)
	f := &fan{t: t, nodes: map[string]netns.NsHandle{}}
	names := []string{"h1", "r1", "r2", "h2"}
	for i := 1; i <= spines; i++ {
		names = append(names, fmt.Sprint("s", i))
	}
	t.Cleanup(func() {
		for _, ns := range f.nodes {
			ns.Close()
		}
	})
	for _, name := range names {
		f.nodes[name] = newNamespace(t)
	}
	f.sysctls(names)
	f.link("h1", "eth0", "r1", "h1", 1, 0)
	for i := 1; i <= spines; i++ {
		s := fmt.Sprint("s", i)
		f.link("r1", s, s, "r1", 2, i)
		f.link(s, "r2", "r2", s, 3, i)
	}
	f.link("r2", "h2", "h2", "eth0", 4, 0)
	f.routes()
	return f
}

// newNamespace makes a namespace that lives as long as the handle: the thread
// on which it was made ends with its goroutine.
func newNamespace(t testing.TB) netns.NsHandle {
	t.Helper()
	type result struct {
		ns  netns.NsHandle
		err error
	}
	out := make(chan result)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			out <- result{err: err}
			return
		}
		ns, err := netns.Get()
		out <- result{ns, err}
	}()
	r := <-out
	if r.err != nil {
		t.Skipf("needs root: unshare network namespace: %v", r.err)
	}
	return r.ns
}

// do runs fn in a node's namespace, on a thread that ends afterwards.
func (f *fan) do(node string, fn func() error) {
	f.t.Helper()
	out := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(f.nodes[node]); err != nil {
			out <- err
			return
		}
		out <- fn()
	}()
	if err := <-out; err != nil {
		f.t.Fatalf("%s: %v", node, err)
	}
}

// handle runs fn with a netlink handle of a node.
func (f *fan) handle(node string, fn func(h *netlink.Handle) error) {
	f.t.Helper()
	h, err := netlink.NewHandleAt(f.nodes[node], unix.NETLINK_ROUTE)
	if err != nil {
		f.t.Fatalf("%s: netlink: %v", node, err)
	}
	defer h.Close()
	if err := fn(h); err != nil {
		f.t.Fatalf("%s: %v", node, err)
	}
}

func sysctl(key, value string) error {
	path := filepath.Join("/proc/sys/net", strings.ReplaceAll(key, ".", "/"))
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
	}
	return nil
}

func (f *fan) sysctls(names []string) {
	f.t.Helper()
	for i, name := range names {
		f.do(name, func() error {
			for _, kv := range [][2]string{
				{"ipv4.ip_forward", "1"},
				// With two CPUs packets of one flow overtake each other.
				{"core.rps_default_mask", "1"},
				{"ipv6.conf.all.forwarding", "1"},
				// Hash what the packet says, not what the sender's socket knew; each
				// switch in its own way, or the tiers polarise.
				{"ipv4.fib_multipath_hash_policy", "3"},
				{"ipv4.fib_multipath_hash_fields", fmt.Sprint(0x37)},
				{"ipv4.fib_multipath_hash_seed", fmt.Sprint(1000 + i)},
				{"ipv6.fib_multipath_hash_policy", "3"},
				{"ipv6.fib_multipath_hash_fields", fmt.Sprint(0x37)},
				{"ipv4.icmp_errors_use_inbound_ifaddr", "1"},
				{"ipv4.icmp_ratemask", "4120"}, // all that is limited by default but time exceeded
				// The mask, not ipv6.icmp.ratelimit=0: that leaves the host-wide limit on.
				{"ipv6.icmp.ratemask", "0-1,4-127"},
				{"ipv4.conf.all.rp_filter", "0"},
				{"ipv4.conf.default.rp_filter", "0"},
				{"ipv6.conf.all.accept_dad", "0"},
				{"ipv6.conf.default.accept_dad", "0"},
				{"ipv6.conf.default.dad_transmits", "0"},
			} {
				if err := sysctl(kv[0], kv[1]); err != nil {
					return err
				}
			}
			return nil
		})
		f.handle(name, func(h *netlink.Handle) error {
			lo, err := h.LinkByName("lo")
			if err != nil {
				return err
			}
			return h.LinkSetUp(lo)
		})
	}
}

func addr4(net, i, side int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(net), byte(i), byte(side)})
}

func addr6(net, i, side int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:%d:%d::%d", net, i, side))
}

// link joins two nodes; a has the even address.
func (f *fan) link(a, aIf, b, bIf string, net, i int) {
	f.t.Helper()
	macs := [2]macAddr{{2, 0, byte(net), byte(i), 0, 0}, {2, 0, byte(net), byte(i), 0, 1}}
	f.handle(a, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: aIf, HardwareAddr: macs[0].mac()},
			PeerName:         bIf,
			PeerHardwareAddr: macs[1].mac(),
			PeerNamespace:    netlink.NsFd(f.nodes[b]),
		})
	})
	for side, end := range [][2]string{{a, aIf}, {b, bIf}} {
		f.handle(end[0], func(h *netlink.Handle) error {
			l, err := h.LinkByName(end[1])
			if err != nil {
				return err
			}
			if err := h.LinkSetUp(l); err != nil {
				return err
			}
			for _, pair := range [][2]netip.Addr{
				{addr4(net, i, side), addr4(net, i, 1-side)},
				{addr6(net, i, side), addr6(net, i, 1-side)},
			} {
				bits := pair[0].BitLen() - 1
				a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(pair[0], bits)), Flags: unix.IFA_F_NODAD}
				if err := h.AddrAdd(l, a); err != nil {
					return fmt.Errorf("address %s on %s: %w", pair[0], end[1], err)
				}
				// Permanent, so that no packet waits or dies for a neighbour.
				err := h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT,
					IP: pair[1].AsSlice(), HardwareAddr: macs[1-side].mac()})
				if err != nil {
					return fmt.Errorf("neighbour %s on %s: %w", pair[1], end[1], err)
				}
			}
			return nil
		})
	}
}

type macAddr [6]byte

func (m macAddr) mac() net.HardwareAddr { return m[:] }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// route adds node's route to a network by one or more gateways.
func (f *fan) route(node string, dst netip.Prefix, gateways map[string]netip.Addr) {
	f.t.Helper()
	f.setRoute(node, dst, gateways, (*netlink.Handle).RouteAdd)
}

// replace puts a route in the place of the one to the same network.
func (f *fan) replace(node string, dst netip.Prefix, gateways map[string]netip.Addr) {
	f.t.Helper()
	f.setRoute(node, dst, gateways, (*netlink.Handle).RouteReplace)
}

func (f *fan) setRoute(node string, dst netip.Prefix, gateways map[string]netip.Addr, set func(*netlink.Handle, *netlink.Route) error) {
	f.t.Helper()
	f.handle(node, func(h *netlink.Handle) error {
		r := &netlink.Route{Dst: ipNet(dst.Masked())}
		for dev, gw := range gateways {
			l, err := h.LinkByName(dev)
			if err != nil {
				return err
			}
			r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: l.Attrs().Index, Gw: gw.AsSlice()})
		}
		if err := set(h, r); err != nil {
			return fmt.Errorf("route %s: %w", dst, err)
		}
		return nil
	})
}

func (f *fan) routes() {
	f.t.Helper()
	for _, v6 := range []bool{false, true} {
		a, bits, all := addr4, 31, netip.MustParsePrefix("10.0.0.0/8")
		if v6 {
			a, bits, all = addr6, 127, netip.MustParsePrefix("fd00::/16")
		}
		h1, h2 := netip.PrefixFrom(a(1, 0, 0), bits), netip.PrefixFrom(a(4, 0, 0), bits)
		f.route("h1", all, map[string]netip.Addr{"eth0": a(1, 0, 1)})
		f.route("h2", all, map[string]netip.Addr{"eth0": a(4, 0, 0)})
		up, down := map[string]netip.Addr{}, map[string]netip.Addr{}
		for i := 1; i <= spines; i++ {
			s := fmt.Sprint("s", i)
			up[s], down[s] = a(2, i, 1), a(3, i, 0)
			f.route(s, h2, map[string]netip.Addr{"r2": a(3, i, 1)})
			f.route(s, h1, map[string]netip.Addr{"r1": a(2, i, 0)})
		}
		f.route("r1", h2, up)
		f.route("r2", h1, down)
		// So that every router can answer h1 from wherever a probe died.
	}
}

// received gives the packets each spine got from r1.
func (f *fan) received() [spines]uint64 {
	f.t.Helper()
	var out [spines]uint64
	for i := range out {
		f.handle(fmt.Sprint("s", i+1), func(h *netlink.Handle) error {
			l, err := h.LinkByName("r1")
			if err != nil {
				return err
			}
			out[i] = l.Attrs().Statistics.RxPackets
			return nil
		})
	}
	return out
}
