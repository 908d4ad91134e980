package tracer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// endpoint is the raw sender and the ICMP receiver of one address family, in
// the network namespace in which it was opened.
type endpoint struct {
	v6         bool
	sender     *os.File
	receiver   *os.File
	senderRaw  syscall.RawConn
	receiveRaw syscall.RawConn
	oob        [64]byte      // of the one reader
	dropped    atomic.Uint64 // by the receiver's full buffer
}

// openEndpoint opens both sockets. Errors: errNoFamily, or what the kernel says
// with what to do about it.
func openEndpoint(v6 bool, receiveBuffer int) (_ *endpoint, err error) {
	family, icmp, name, assemble := unix.AF_INET, unix.IPPROTO_ICMP, "IPv4", filter4
	if v6 {
		family, icmp, name, assemble = unix.AF_INET6, unix.IPPROTO_ICMPV6, "IPv6", filter6
	}
	e := &endpoint{v6: v6}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	// IPPROTO_RAW takes whole packets, IP header included, and leaves the TCP
	// checksum alone (raw(7)).
	if e.sender, e.senderRaw, err = openRaw(family, unix.IPPROTO_RAW, name+" sender"); err != nil {
		return nil, err
	}
	if e.receiver, e.receiveRaw, err = openRaw(family, icmp, name+" ICMP receiver"); err != nil {
		return nil, err
	}
	filter, err := assemble()
	if err != nil {
		return nil, fmt.Errorf("assemble %s socket filter: %w", name, err)
	}
	if err := e.configure(filter, receiveBuffer); err != nil {
		return nil, fmt.Errorf("configure %s ICMP receiver: %w", name, err)
	}
	return e, nil
}

func openRaw(family, protocol int, name string) (*os.File, syscall.RawConn, error) {
	return openSocket(family, unix.SOCK_RAW, protocol, name)
}

func openSocket(family, kind, protocol int, name string) (*os.File, syscall.RawConn, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT):
		return nil, nil, fmt.Errorf("open raw %s socket: %w", name, errNoFamily)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return nil, nil, fmt.Errorf("open raw %s socket: %w: run as root or with the capability CAP_NET_RAW", name, err)
	case err != nil:
		return nil, nil, fmt.Errorf("open raw %s socket: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("raw %s socket: %w", name, err), f.Close())
	}
	return f, raw, nil
}

func (e *endpoint) configure(filter []bpf.RawInstruction, receiveBuffer int) error {
	program := make([]unix.SockFilter, len(filter))
	for i, ins := range filter {
		program[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	var err error
	controlErr := e.receiveRaw.Control(func(fd uintptr) {
		s := int(fd)
		err = unix.SetsockoptSockFprog(s, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)})
		if err != nil {
			return
		}
		if err = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil {
			return
		}
		if receiveBuffer > 0 && unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			// Without CAP_NET_ADMIN: as much as the host allows everybody.
			err = unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
	})
	return errors.Join(controlErr, err)
}

// send sends one whole IP packet. It never waits: a full queue is an error, and
// the resend is the remedy.
func (e *endpoint) send(b []byte, dst netip.Addr) error {
	var err error
	controlErr := e.senderRaw.Control(func(fd uintptr) {
		if e.v6 {
			to := unix.SockaddrInet6{Addr: dst.As16()}
			err = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, &to)
		} else {
			to := unix.SockaddrInet4{Addr: dst.As4()}
			err = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, &to)
		}
	})
	if controlErr != nil {
		return controlErr
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: a firewall on this host rejects the probe", err)
	}
	return err
}

// read waits for one ICMP message and gives it from the ICMP header on, with
// its sender. The bytes are in buf. It has one caller at a time. After close it returns an
// error at once.
func (e *endpoint) read(buf []byte) ([]byte, netip.Addr, error) {
	var (
		n, oobn int
		from    unix.Sockaddr
		err     error
	)
	waitErr := e.receiveRaw.Read(func(fd uintptr) bool {
		n, oobn, _, from, err = unix.Recvmsg(int(fd), buf, e.oob[:], 0)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if waitErr != nil {
		return nil, netip.Addr{}, waitErr
	}
	if err != nil {
		return nil, netip.Addr{}, err
	}
	e.noteDropped(e.oob[:oobn])
	b := buf[:n]
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		// raw(7): IPv4 comes with its header, IPv6 without.
		if len(b) > 0 {
			b = b[min(int(b[0]&0xf)*4, len(b)):]
		}
		return b, netip.AddrFrom4(a.Addr), nil
	case *unix.SockaddrInet6:
		return b, netip.AddrFrom16(a.Addr), nil
	}
	return nil, netip.Addr{}, fmt.Errorf("message from an address of type %T", from)
}

// noteDropped keeps the kernel's count of messages this socket had no room for
// (SO_RXQ_OVFL, socket(7): 32 bits, cumulative, with each message after the
// first drop).
func (e *endpoint) noteDropped(oob []byte) {
	for len(oob) >= unix.CmsgLen(4) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(oob)))
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL {
			e.dropped.Store(uint64(binary.NativeEndian.Uint32(oob[unix.CmsgLen(0):])))
			return
		}
		size := unix.CmsgSpace(max(int(h.Len)-unix.CmsgLen(0), 0))
		if size > len(oob) {
			return
		}
		oob = oob[size:]
	}
}

// lost is how many messages the receiver had no room for.
func (e *endpoint) lost() uint64 { return e.dropped.Load() }

// close closes both sockets; a read under way returns an error.
func (e *endpoint) close() error {
	var err error
	for _, f := range []*os.File{e.sender, e.receiver} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}
