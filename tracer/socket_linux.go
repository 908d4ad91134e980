package tracer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
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
	dropped    atomic.Uint64 // by the receiver's full buffer

	in       message    // of the one reader
	glancing sync.Mutex // of who uses the next
	seen     message
	seenBuf  [2048]byte
}

// message is what the kernel gives with one.
type message struct {
	head unix.Msghdr
	part unix.Iovec
	from unix.RawSockaddrInet6 // or of the other families: it is the longest
	oob  [64]byte
	said []byte
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
	return openSocket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK, protocol, name)
}

// openSocket opens one. Without SOCK_NONBLOCK Go's runtime does not watch it: no
// packet that it receives wakes this process.
func openSocket(family, kind, protocol int, name string) (*os.File, syscall.RawConn, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
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

// attach has the receiver take what passes a filter, in place of another if it has
// one.
func (e *endpoint) attach(filter []bpf.RawInstruction) error {
	program := make([]unix.SockFilter, len(filter))
	for i, ins := range filter {
		program[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	var err error
	controlErr := e.receiveRaw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)})
	})
	return errors.Join(controlErr, err)
}

func (e *endpoint) configure(filter []bpf.RawInstruction, receiveBuffer int) error {
	if err := e.attach(filter); err != nil {
		return err
	}
	var err error
	controlErr := e.receiveRaw.Control(func(fd uintptr) {
		s := int(fd)
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
	var errno syscall.Errno
	controlErr := e.senderRaw.Control(func(fd uintptr) {
		if e.v6 {
			to := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: dst.As16()}
			_, errno = briefly(unix.SYS_SENDTO, fd, b, unix.MSG_DONTWAIT, unsafe.Pointer(&to), unix.SizeofSockaddrInet6)
		} else {
			to := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: dst.As4()}
			_, errno = briefly(unix.SYS_SENDTO, fd, b, unix.MSG_DONTWAIT, unsafe.Pointer(&to), unix.SizeofSockaddrInet4)
		}
	})
	switch {
	case controlErr != nil:
		return controlErr
	case errno == unix.EPERM:
		return fmt.Errorf("%w: a firewall on this host rejects the probe", errno)
	case errno != 0:
		return errno
	}
	return nil
}

// briefly makes a system call like sendto, recvfrom and pread64, which must not
// block, without a word to Go's scheduler. That would wake the runtime's monitor
// thread, to take the processor away should the call last; and it would stay
// awake as long as there is anything to do, so that the wake-ups of a thread with
// nothing to do cost more than a trace.
func briefly(call, fd uintptr, b []byte, flags int, addr unsafe.Pointer, size uintptr) (n int, errno syscall.Errno) {
	for {
		r, _, errno := unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(flags), uintptr(addr), size)
		if errno == unix.EINTR {
			continue
		}
		return int(r), errno
	}
}

// read waits for one ICMP message and gives it from the ICMP header on, with
// its sender. The bytes are in buf. It has one caller at a time. After close it returns an
// error at once.
func (e *endpoint) read(buf []byte) ([]byte, netip.Addr, error) {
	b, err := e.receive(buf)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	b, from := e.in.icmp(b, e.v6)
	return b, from, nil
}

// receive waits for one message, and leaves in e.in what comes with it.
func (e *endpoint) receive(buf []byte) ([]byte, error) {
	var n int
	var errno syscall.Errno
	waitErr := e.receiveRaw.Read(func(fd uintptr) bool {
		n, errno = e.in.take(fd, buf)
		return errno != unix.EAGAIN && errno != unix.EINTR
	})
	if waitErr != nil {
		return nil, waitErr
	}
	if errno != 0 {
		return nil, errno
	}
	e.noteDropped(e.in.said)
	return buf[:n], nil
}

// glance hands over the ICMP messages that are there and come within a while, as
// read gives them, until enough is true. It does not sleep: to be woken up takes
// this process longer than most answers. Nothing is done where somebody else does
// it just now.
func (e *endpoint) glance(while time.Duration, enough func() bool, take func(b []byte, from netip.Addr)) {
	if !e.glancing.TryLock() {
		return
	}
	defer e.glancing.Unlock()
	for end := time.Now().Add(while); !enough() && time.Now().Before(end); {
		var n int
		errno := unix.EAGAIN
		if e.receiveRaw.Control(func(fd uintptr) { n, errno = e.seen.take(fd, e.seenBuf[:]) }) != nil {
			return // closed
		}
		switch errno {
		case 0:
			e.noteDropped(e.seen.said)
			take(e.seen.icmp(e.seenBuf[:n], e.v6))
		case unix.EAGAIN, unix.EINTR:
		default:
			return // read will meet it too
		}
	}
}

// take reads one message, if there is one.
func (m *message) take(fd uintptr, buf []byte) (n int, errno syscall.Errno) {
	m.part = unix.Iovec{Base: unsafe.SliceData(buf)}
	m.part.SetLen(len(buf))
	m.head = unix.Msghdr{
		Name: (*byte)(unsafe.Pointer(&m.from)), Namelen: unix.SizeofSockaddrInet6,
		Iov: &m.part, Control: unsafe.SliceData(m.oob[:]),
	}
	m.head.SetIovlen(1)
	m.head.SetControllen(len(m.oob))
	// As in briefly.
	r, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&m.head)), unix.MSG_DONTWAIT)
	if errno != 0 {
		return 0, errno
	}
	m.said = m.oob[:m.head.Controllen]
	return int(r), 0
}

// icmp gives a message of an ICMP socket from the ICMP header on, and its sender.
func (m *message) icmp(b []byte, v6 bool) ([]byte, netip.Addr) {
	if v6 {
		return b, netip.AddrFrom16(m.from.Addr)
	}
	// raw(7): IPv4 comes with its header, IPv6 without.
	if len(b) > 0 {
		b = b[min(int(b[0]&0xf)*4, len(b)):]
	}
	return b, netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&m.from)).Addr)
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
