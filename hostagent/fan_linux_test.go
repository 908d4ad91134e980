package hostagent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/tracer"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// fan is the lab with two ways from the router to b, by one more switch each,
// between which the router chooses: two switches on each way there, and back.
//
//	a – r – {s1, s2} – b
//	r–sN 10.N0.0.0/24 and fd00:N0::/64, sN–b 10.N1.0.0/24 and fd00:N1::/64
type fan struct {
	*lab
	s    [2]*space
	sent map[packet.Flow]uint32 // where what was sent again last ends
}

// fanned makes a lab a fan. label has the router go by the IPv6 flow label alone.
func (l *lab) fanned(label bool) *fan {
	l.t.Helper()
	f := &fan{lab: l, sent: map[packet.Flow]uint32{}}
	for i := range f.s {
		f.s[i] = newSpace(l.t)
	}
	if err := f.join(label); err != nil {
		l.t.Fatal(err)
	}
	return f
}

func (f *fan) join(label bool) error {
	fields := "0x37"
	if label {
		fields = "0x08"
	}
	for _, s := range []*space{f.s[0], f.s[1], f.r} {
		if err := s.sysctl(map[string]string{
			"net/ipv4/ip_forward":                     "1",
			"net/ipv4/icmp_ratelimit":                 "0",
			"net/ipv4/conf/all/rp_filter":             "0",
			"net/ipv4/conf/default/rp_filter":         "0",
			"net/ipv4/fib_multipath_hash_policy":      "3",
			"net/ipv6/conf/all/forwarding":            "1",
			"net/ipv6/conf/default/accept_dad":        "0",
			"net/ipv6/icmp/ratemask":                  "0-1,4-127",
			"net/ipv6/fib_multipath_hash_policy":      "3",
			"net/ipv6/fib_multipath_hash_fields":      fields,
			"net/ipv4/icmp_errors_use_inbound_ifaddr": "1",
		}); err != nil {
			return err
		}
	}
	up4, up6 := &netlink.Route{Dst: network(addrB + "/32")}, &netlink.Route{Dst: network(addrB6 + "/128")}
	for i, s := range f.s {
		n := i + 1
		if err := f.wireTo(f.r, fmt.Sprint("s", n), s, "r", fmt.Sprintf("%d0", n)); err != nil {
			return err
		}
		if err := f.wireTo(s, "b", f.b, fmt.Sprint("s", n), fmt.Sprintf("%d1", n)); err != nil {
			return err
		}
		if err := f.with(f.r, func(h *netlink.Handle) error {
			link, err := h.LinkByName(fmt.Sprint("s", n))
			if err != nil {
				return err
			}
			up4.MultiPath = append(up4.MultiPath, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(fmt.Sprintf("10.%d0.0.2", n))})
			up6.MultiPath = append(up6.MultiPath, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(fmt.Sprintf("fd00:%d0::2", n))})
			return nil
		}); err != nil {
			return err
		}
		if err := f.with(s, func(h *netlink.Handle) error {
			for to, by := range map[string]string{
				addrB + "/32": fmt.Sprintf("10.%d1.0.2", n), addrB6 + "/128": fmt.Sprintf("fd00:%d1::2", n),
				addrA + "/32": fmt.Sprintf("10.%d0.0.1", n), addrA6 + "/128": fmt.Sprintf("fd00:%d0::1", n),
			} {
				if err := h.RouteAdd(&netlink.Route{Dst: network(to), Gw: net.ParseIP(by)}); err != nil {
					return fmt.Errorf("%s by %s: %w", to, by, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if err := f.with(f.b, func(h *netlink.Handle) error {
		return errors.Join(
			h.RouteAdd(&netlink.Route{Dst: network(addrA + "/32"), Gw: net.ParseIP("10.11.0.1")}),
			h.RouteAdd(&netlink.Route{Dst: network(addrA6 + "/128"), Gw: net.ParseIP("fd00:11::1")}))
	}); err != nil {
		return err
	}
	return f.with(f.r, func(h *netlink.Handle) error { return errors.Join(h.RouteAdd(up4), h.RouteAdd(up6)) })
}

func network(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}

func (f *fan) with(s *space, do func(h *netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(s.fd))
	if err != nil {
		return err
	}
	defer h.Close()
	return do(h)
}

// wireTo joins two namespaces; a has address 1 of the network, b has 2.
func (f *fan) wireTo(a *space, aIf string, b *space, bIf, net string) error {
	if err := f.with(a, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = aIf
		return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bIf, PeerNamespace: netlink.NsFd(b.fd)})
	}); err != nil {
		return err
	}
	for i, end := range []struct {
		s    *space
		name string
	}{{a, aIf}, {b, bIf}} {
		if err := f.with(end.s, func(h *netlink.Handle) error {
			link, err := h.LinkByName(end.name)
			if err != nil {
				return err
			}
			for _, text := range []string{fmt.Sprintf("10.%s.0.%d/24", net, i+1), fmt.Sprintf("fd00:%s::%d/64", net, i+1)} {
				addr, err := netlink.ParseAddr(text)
				if err != nil {
					return err
				}
				addr.Flags = unix.IFA_F_NODAD
				if err := h.AddrAdd(link, addr); err != nil {
					return fmt.Errorf("%s: %w", text, err)
				}
			}
			return h.LinkSetUp(link)
		}); err != nil {
			return err
		}
	}
	return nil
}

// carried is how many packets each of the two switches had from the router.
func (f *fan) carried() (n [2]uint64) {
	f.t.Helper()
	for i, s := range f.s {
		if err := f.with(s, func(h *netlink.Handle) error {
			link, err := h.LinkByName("r")
			if err == nil {
				n[i] = link.Attrs().Statistics.RxPackets
			}
			return err
		}); err != nil {
			f.t.Fatal(err)
		}
	}
	return n
}

// goesBy sends on a connection, and says over which switch: 1 or 2.
func (f *fan) goesBy(p pair) int {
	f.t.Helper()
	before := f.carried()
	const times = 20
	for range times {
		if _, err := p.client.Write([]byte{1}); err != nil {
			f.t.Fatal(err)
		}
		if err := read(p.server, 1); err != nil {
			f.t.Fatal(err)
		}
	}
	after := f.carried()
	for i := range after {
		if after[i]-before[i] >= times {
			return i + 1
		}
	}
	f.t.Fatalf("%v, %v: no switch had all of the flow's packets", before, after)
	return 0
}

// lose has the router lose data that comes from a, until undone.
func (f *fan) lose() *filter { return f.drop("eth1", longerThan(80)...) }

// mistrust has the router drop what connection tracking calls invalid.
func (f *fan) mistrust() {
	f.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(f.r.fd))
	if err != nil {
		f.t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "firewall"})
	chain := c.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{1, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := c.Flush(); err != nil {
		f.t.Fatal(err)
	}
}

// tcpCount is a counter of a namespace's TCP in /proc/net/snmp.
func (s *space) tcpCount(t *testing.T, name string) (n uint64) {
	t.Helper()
	if err := s.do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(b)) {
			fields := strings.Fields(line)
			if fields[0] != "Tcp:" {
				continue
			}
			for i := range names {
				if names[i] == name {
					n, err = strconv.ParseUint(fields[i], 10, 64)
					return err
				}
			}
			names = fields
		}
		return errors.New("no " + name + " in /proc/net/snmp")
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// retransmitOf loses what a connection sends until something of it was sent again.
func (f *fan) retransmitOf(t *testing.T, rec *recorder, p pair, kinds ...decafpb.RetransmitKind) *decafpb.Retransmit {
	t.Helper()
	return f.retransmitsOf(t, rec, []pair{p}, kinds...)[0]
}

// retransmitsOf does so with several at a time.
func (f *fan) retransmitsOf(t *testing.T, rec *recorder, pairs []pair, kinds ...decafpb.RetransmitKind) (out []*decafpb.Retransmit) {
	t.Helper()
	loss := f.lose()
	for _, p := range pairs {
		if _, err := p.client.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pairs {
		of := ofFlow(p.flow(), kinds...)
		end, again := f.sent[p.flow()]
		r := rec.wait(t, "a retransmit", func(r *decafpb.Retransmit) bool {
			return of(r) && (!again || int32(r.GetTcpSeq()-end) >= 0)
		})
		f.sent[p.flow()] = r.GetTcpEndSeq()
		out = append(out, r)
	}
	loss.remove()
	for _, p := range pairs {
		if err := read(p.server, 100); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// switchOn is which of the two switches a path goes over.
func switchOn(t *testing.T, p *decafpb.Path) int {
	t.Helper()
	if len(p.GetHops()) != 2 {
		t.Errorf("path %v, want two switches", p)
		return 0
	}
	at, _ := netip.AddrFromSlice(p.GetHops()[1].GetAddress())
	for i := range 2 {
		for _, is := range []string{fmt.Sprintf("10.%d0.0.2", i+1), fmt.Sprintf("fd00:%d0::2", i+1)} {
			if at == netip.MustParseAddr(is) {
				return i + 1
			}
		}
	}
	t.Errorf("hop %v is of neither switch", at)
	return 0
}

// labels is a tracer that notes with which flow label it is asked for a flow
// first.
type labels struct {
	tracerFunc
	mu    sync.Mutex
	asked map[packet.Flow]uint32
}

func newLabels() *labels { return &labels{tracerFunc: complete, asked: map[packet.Flow]uint32{}} }

func (l *labels) Do(ctx context.Context, r tracer.Request) *decafpb.Path {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, again := l.asked[r.Flow]; !again {
		l.asked[r.Flow] = r.FlowLabel
	}
	return l.tracerFunc.Do(ctx, r)
}

func (l *labels) of(f packet.Flow) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[f]
}

// sniffer sees what a namespace sends.
type sniffer int

func (l *lab) sniff(t *testing.T, s *space) sniffer {
	t.Helper()
	var fd int
	if err := s.do(func() (err error) {
		all := uint16(unix.ETH_P_ALL)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all<<8|all>>8)); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return sniffer(fd)
}

// label is the flow label of the first data packet of an IPv6 flow.
func (s sniffer) label(t *testing.T, f packet.Flow) uint32 {
	t.Helper()
	b := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(int(s), b, 0)
		if err != nil {
			t.Fatal(err)
		}
		if n < 60 || b[0]>>4 != 6 || netip.AddrFrom16([16]byte(b[24:40])) != f.Dst.Addr() || binary.BigEndian.Uint16(b[40:]) != f.Src.Port() {
			continue
		}
		if _, bytes := segment(b[:n]); bytes > 0 {
			return binary.BigEndian.Uint32(b) & maxFlowLabel
		}
	}
}

const flowinfoSend = 33 // IPV6_FLOWINFO_SEND, include/uapi/linux/in6.h

// connectLabelled is connect for IPv6, with a flow label of one's own unless that
// is 0.
func (l *lab) connectLabelled(to string, label uint32) pair {
	l.t.Helper()
	if label == 0 {
		return l.connect(to, false)
	}
	ln := l.listen()
	addr := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: netip.MustParseAddr(to).As16()}
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&addr.Port))[:], port)
	binary.BigEndian.PutUint32((*[4]byte)(unsafe.Pointer(&addr.Flowinfo))[:], label)
	var client net.Conn
	if err := l.a.do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "labelled")
		defer f.Close()
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, flowinfoSend, 1); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr)), unix.SizeofSockaddrInet6); errno != 0 {
			return fmt.Errorf("connect: %w", errno)
		}
		client, err = net.FileConn(f)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { client.Close() })
	server, err := ln.AcceptTCP()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { server.Close() })
	return pair{client.(*net.TCPConn), server}
}
