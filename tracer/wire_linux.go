package tracer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"decaf/api/packet"
)

// wire sends whole IP packets below this host's own address translation and
// firewall: by the interface and to the neighbour that its routes name. Used
// for flows that were translated here, whose translated packets the kernel
// would take for a new connection and give another port.
//
// Its sockets are opened when first needed: to close a packet socket takes the
// kernel some 10 ms.
type wire struct {
	ns *os.File // the namespace in which it was made

	mu   sync.Mutex // also of rt and near: one question at a time
	f    *os.File
	raw  syscall.RawConn
	rt   *netlink.Handle
	near *neighbours

	tap tap
}

func openWire() (*wire, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open this network namespace: %w", err)
	}
	return &wire{ns: ns}, nil
}

// open opens the sockets.
func (w *wire) open() error {
	if w.f != nil {
		return nil
	}
	return w.inside(func() error {
		rt, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open a route netlink socket: %w", err)
		}
		near, err := openNeighbours(rt)
		if err != nil {
			rt.Close()
			return err
		}
		f, raw, err := openSocket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0, "packet sender")
		if err != nil {
			rt.Close()
			near.close()
			return err
		}
		w.f, w.raw, w.rt, w.near = f, raw, rt, near
		return nil
	})
}

// inside runs fn in the namespace, on a thread that ends afterwards.
func (w *wire) inside(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(w.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// way is where packets go first: by an interface, to a hardware address.
type way = unix.SockaddrLinklayer

// send sends one packet.
func (w *wire) send(b []byte, to *way) (err error) {
	controlErr := w.raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, to) })
	return errors.Join(controlErr, err)
}

// way finds that of a flow's packets as it is now. Errors: no route, no neighbour
// known yet.
func (w *wire) way(f packet.Flow) (*way, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.open(); err != nil {
		return nil, err
	}
	routes, err := w.rt.RouteGet(f.Dst.Addr().AsSlice())
	if err != nil || len(routes) == 0 {
		return nil, fmt.Errorf("route to %s: %w", f.Dst.Addr(), errors.Join(err, unix.ENETUNREACH))
	}
	gateway, index := f.Dst.Addr(), routes[0].LinkIndex
	if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		gateway = gw.Unmap()
	}
	to := &way{Protocol: networkOrder(unix.ETH_P_IP), Ifindex: index}
	if f.Is6() {
		to.Protocol = networkOrder(unix.ETH_P_IPV6)
	}
	link, err := w.rt.LinkByIndex(index)
	if err != nil {
		return nil, fmt.Errorf("interface %d: %w", index, err)
	}
	if link.Attrs().RawFlags&(unix.IFF_NOARP|unix.IFF_LOOPBACK) != 0 || len(link.Attrs().HardwareAddr) == 0 {
		return to, nil
	}
	hardware, err := w.near.at(index, gateway)
	switch {
	case err != nil:
		return nil, fmt.Errorf("neighbour %s on %s: %w", gateway, link.Attrs().Name, err)
	case hardware == nil:
		return nil, fmt.Errorf("the hardware address of %s on %s is not known: the flow's next packet will find it out", gateway, link.Attrs().Name)
	}
	to.Halen = uint8(copy(to.Addr[:], hardware))
	return to, nil
}

func (w *wire) close() error {
	err := w.tap.close()
	w.mu.Lock()
	defer w.mu.Unlock()
	err = errors.Join(err, w.ns.Close())
	if w.f != nil {
		w.rt.Close()
		w.near.close()
		err = errors.Join(err, w.f.Close())
	}
	return err
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// watch receives copies of the TCP packets that come in and pass its filter,
// from their IP header on.
type watch struct {
	endpoint
	flow    packet.Flow
	sampled bool // wakes nobody: it is to be drained
}

func openWatch(what watchFor) (_ *watch, err error) {
	w := &watch{endpoint: endpoint{v6: what.v6}, flow: what.flow, sampled: what.sampled}
	protocol, family, name := uint16(unix.ETH_P_IP), unix.AF_INET, "IPv4 watch"
	if what.v6 {
		protocol, family, name = unix.ETH_P_IPV6, unix.AF_INET6, "IPv6 watch"
	}
	single, kind, room := what.flow.Src.IsValid(), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 256<<10
	if what.sampled {
		kind, room = unix.SOCK_DGRAM, 1<<20
	}
	if single {
		w.receiver, w.receiveRaw, err = openRaw(family, unix.IPPROTO_TCP, name)
	} else {
		// Protocol 0 receives nothing yet: first the filter, then the packets.
		w.receiver, w.receiveRaw, err = openSocket(unix.AF_PACKET, kind, 0, name)
	}
	if err != nil {
		return nil, err
	}
	filter, err := what.filter(what.v6)
	if err == nil {
		err = w.configure(filter, room)
	}
	if err == nil {
		controlErr := w.receiveRaw.Control(func(fd uintptr) {
			switch {
			case !single:
				err = unix.Bind(int(fd), &unix.SockaddrLinklayer{Protocol: networkOrder(protocol)})
			case what.v6:
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
			}
		})
		err = errors.Join(controlErr, err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", name, err), w.close())
	}
	return w, nil
}

// read waits for one packet. The bytes are in buf, which holds more than 40.
func (w *watch) read(buf []byte) ([]byte, error) {
	bare := w.v6 && w.flow.Src.IsValid() // raw(7): IPv6 comes without its header
	at := 0
	if bare {
		at = 40
	}
	b, err := w.receive(buf[at:])
	if err != nil {
		return nil, err
	}
	if bare {
		header6(buf, netip.AddrFrom16(w.in.from.Addr), w.flow.Dst.Addr(), hopLimit(w.in.said), len(b))
	}
	return buf[:at+len(b)], nil
}

// maxDrained bounds what drain takes at a time, for who makes it wait is a trace.
const maxDrained = 4096

// drain hands over the packets that are there; the bytes are the callee's until it
// returns. An error means that the socket is broken or closed.
func (w *watch) drain(take func(b []byte)) error {
	w.glancing.Lock()
	defer w.glancing.Unlock()
	for range maxDrained {
		var n int
		errno := unix.EAGAIN
		if err := w.receiveRaw.Control(func(fd uintptr) { n, errno = w.seen.take(fd, w.seenBuf[:]) }); err != nil {
			return err
		}
		switch errno {
		case 0:
			w.noteDropped(w.seen.said)
			take(w.seenBuf[:n])
		case unix.EAGAIN:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
	return nil
}

// attend has a sampled watch take all that comes of one flow, as it is received,
// and no more of the one before.
func (w *watch) attend(f packet.Flow) error {
	filter, err := watchFilter(w.v6, f.Src.Port(), f.Dst.Port())
	if err != nil {
		return err
	}
	return w.attach(filter)
}

// hopLimit finds the IPv6 hop limit in control messages; 0, from which no
// distance follows, where it is missing.
func hopLimit(oob []byte) uint8 {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4 {
			return uint8(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}
