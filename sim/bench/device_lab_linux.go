package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"decaf/api/packet"
)

// space is an anonymous network namespace. It ends with its descriptor and the
// processes in it.
type space struct {
	ns netns.NsHandle
	nl *netlink.Handle
}

func newSpace() (*space, error) {
	s := &space{}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.ns, err = netns.Get()
		}
		made <- err
	}()
	if err := <-made; err != nil {
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w (run as root)", err)
		}
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	var err error
	if s.nl, err = netlink.NewHandleAt(s.ns); err != nil {
		s.ns.Close()
		return nil, fmt.Errorf("open a netlink socket in a new network namespace: %w", err)
	}
	return s, nil
}

// do runs fn in the namespace, on a thread that ends with it.
func (s *space) do(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(s.ns)
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}

func (s *space) close() {
	if s.nl != nil {
		s.nl.Close()
	}
	s.ns.Close()
}

// router is r between h1, h2 and a sink:
//
//	h1 eth0 10.0.1.2 | eth1 10.0.1.1 r eth2 10.0.2.1 | eth0 10.0.2.2 h2
//	                                  r eth3 10.0.3.1 | eth0 10.0.3.2 sink
//
// What comes to the sink is taken without a word. r has a blackhole route to
// 10.9.0.0/16 and no route to 10.8.0.0/16.
type router struct{ h1, r, h2, sink *space }

var (
	sinkAddress  = netip.MustParseAddrPort("10.0.3.2:9")
	floodAddress = netip.MustParseAddrPort("10.9.9.9:9")
	quietAddress = netip.MustParseAddrPort("10.8.8.8:9")
)

func newRouter() (_ *router, err error) {
	n := &router{}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	for _, s := range []**space{&n.h1, &n.r, &n.h2, &n.sink} {
		if *s, err = newSpace(); err != nil {
			return nil, err
		}
		lo, err := (*s).nl.LinkByName("lo")
		if err != nil {
			return nil, err
		}
		if err := (*s).nl.LinkSetUp(lo); err != nil {
			return nil, err
		}
		if err := (*s).do(func() error {
			// Its housekeeping would be dropped too.
			return errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0), os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0))
		}); err != nil {
			return nil, err
		}
	}
	for i, host := range []*space{n.h1, n.h2, n.sink} {
		if err := n.cable(i+1, host); err != nil {
			return nil, fmt.Errorf("lay cable %d: %w", i+1, err)
		}
	}
	if err := n.r.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }); err != nil {
		return nil, err
	}
	_, hole, _ := net.ParseCIDR("10.9.0.0/16")
	if err := n.r.nl.RouteAdd(&netlink.Route{Dst: hole, Type: unix.RTN_BLACKHOLE}); err != nil {
		return nil, fmt.Errorf("blackhole route: %w", err)
	}
	return n, n.swallow()
}

// cable lays one between r and a host, with addresses, neighbours and the host's
// default route.
func (n *router) cable(net4 int, host *space) error {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("eth%d", net4)}, PeerName: "eth0", PeerNamespace: netlink.NsFd(host.ns)}
	if err := n.r.nl.LinkAdd(veth); err != nil {
		return err
	}
	ends := []struct {
		*space
		name string
		last byte
	}{{n.r, veth.Name, 1}, {host, "eth0", 2}}
	var links [2]netlink.Link
	for i, e := range ends {
		l, err := e.nl.LinkByName(e.name)
		if err != nil {
			return err
		}
		links[i] = l
		address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, byte(net4), e.last), Mask: net.CIDRMask(24, 32)}}
		if err := errors.Join(e.nl.AddrAdd(l, address), e.nl.LinkSetUp(l)); err != nil {
			return err
		}
	}
	for i, e := range ends {
		other := 1 - i
		if err := e.nl.NeighSet(&netlink.Neigh{
			LinkIndex: links[i].Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: net.IPv4(10, 0, byte(net4), ends[other].last), HardwareAddr: links[other].Attrs().HardwareAddr,
		}); err != nil {
			return err
		}
	}
	return host.nl.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 0, byte(net4), 1)})
}

// swallow has the sink take all that comes without the kernel freeing it as
// dropped.
func (n *router) swallow() error {
	l, err := n.sink.nl.LinkByName("eth0")
	if err != nil {
		return err
	}
	index := l.Attrs().Index
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := n.sink.nl.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("clsact at the sink: %w", err)
	}
	stolen, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "decaf_sink", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(netlink.TC_ACT_STOLEN)), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("program of the sink: %w", err)
	}
	defer stolen.Close() // the filter holds it
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:          stolen.FD(), Name: "sink", DirectAction: true,
	}
	if err := n.sink.nl.FilterAdd(filter); err != nil {
		return fmt.Errorf("filter at the sink: %w", err)
	}
	return nil
}

func (n *router) close() {
	for _, s := range []*space{n.h1, n.r, n.h2, n.sink} {
		if s != nil {
			s.close()
		}
	}
}

// arrived counts the packets that came to the sink since it was made.
func (n *router) arrived() (uint64, error) {
	l, err := n.sink.nl.LinkByName("eth0")
	if err != nil {
		return 0, err
	}
	return l.Attrs().Statistics.RxPackets, nil
}

// udp is a UDP packet with its IPv4 header, of 64 bytes.
func udp(src, dst netip.AddrPort) []byte {
	b := make([]byte, 64)
	b[0], b[3], b[8], b[9] = 0x45, byte(len(b)), 64, packet.UDP
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	b[25] = byte(len(b) - 20) // no checksum
	return b
}

// blaster sends frames out of h1 as fast as it is told, past queues.
type blaster struct {
	fd     int
	frames [][]byte
	iov    []unix.Iovec
	msgs   []mmsghdr
	at     int
}

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// batch is how many frames one call sends.
const batch = 32

// blast opens a blaster for these packets, which it sends in turn.
func (n *router) blast(packets [][]byte) (_ *blaster, err error) {
	b := &blaster{fd: -1}
	from, err := n.h1.nl.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	to, err := n.r.nl.LinkByName("eth1")
	if err != nil {
		return nil, err
	}
	for _, p := range packets {
		frame := append(append(append([]byte(nil), to.Attrs().HardwareAddr...), from.Attrs().HardwareAddr...), 8, 0)
		b.frames = append(b.frames, append(frame, p...))
	}
	err = n.h1.do(func() (err error) {
		if b.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.Bind(b.fd, &unix.SockaddrLinklayer{Ifindex: from.Attrs().Index}),
			unix.SetsockoptInt(b.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		)
	})
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	b.iov, b.msgs = make([]unix.Iovec, batch), make([]mmsghdr, batch)
	for i := range b.msgs {
		b.msgs[i].hdr.Iov = &b.iov[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b, nil
}

// send sends so many frames by one call, at most batch.
func (b *blaster) send(n int) (int, error) {
	for i := range n {
		f := b.frames[(b.at+i)%len(b.frames)]
		b.iov[i].Base = &f[0]
		b.iov[i].SetLen(len(f))
	}
	sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(b.fd), uintptr(unsafe.Pointer(&b.msgs[0])), uintptr(n), 0, 0, 0)
	if errno != 0 && errno != unix.ENOBUFS && errno != unix.EAGAIN && errno != unix.EINTR {
		return 0, fmt.Errorf("send: %w", errno)
	}
	if errno != 0 {
		return 0, nil
	}
	b.at = (b.at + int(sent)) % len(b.frames)
	return int(sent), nil
}

// run sends so many frames a second until ctx ends; 0 is as many as it can. What a
// busy machine keeps it from sending it makes up for, up to a tenth of a second's.
// It returns how many it sent.
func (b *blaster) run(ctx context.Context, rate float64) (sent uint64, err error) {
	begin := time.Now()
	behind := 0.0 // frames given up
	for ctx.Err() == nil {
		n := batch
		if rate > 0 {
			due := time.Since(begin).Seconds()*rate - behind - float64(sent)
			if most := max(rate/10, 1); due > most {
				behind += due - most
				due = most
			}
			if due < min(batch, max(1, rate/1000)) {
				time.Sleep(200 * time.Microsecond)
				continue
			}
			n = min(int(due), batch)
		}
		s, err := b.send(n)
		if err != nil {
			return sent, err
		}
		sent += uint64(s)
	}
	return sent, nil
}

func (b *blaster) close() {
	if b.fd >= 0 {
		unix.Close(b.fd)
	}
}
