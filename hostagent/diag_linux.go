package hostagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"decaf/api/packet"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// sock_diag, the kernel's way of listing sockets (include/uapi/linux/
// inet_diag.h, sock_diag.h), as far as the lesser sources need it. It is of one
// network namespace, and needs no privilege.

const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	diagInfo         = 2  // INET_DIAG_INFO

	// SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY.
	groupDestroy4 = 1
	groupDestroy6 = 3

	// Bytes of struct inet_diag_req_v2 and struct inet_diag_msg.
	diagRequestBytes = 56
	diagMessageBytes = 72
)

// diagSocket is what sock_diag says of a TCP socket.
type diagSocket struct {
	cookie   uint64
	src, dst netip.AddrPort // from this host's point of view; IPv4-mapped addresses unmapped
	state    uint8
	repeats  uint8 // of SYN or SYN-ACK, while the handshake goes on
	caState  uint8
	// Counts since the connection began.
	totalRetrans, dsackDups, timeouts uint32
	waiting                           uint32 // segments sent again and not acknowledged
	full                              bool   // the counts are known
}

// decodeDiag reads a message of sock_diag.
func decodeDiag(b []byte) (diagSocket, error) {
	if len(b) < diagMessageBytes {
		return diagSocket{}, fmt.Errorf("sock_diag message of %d bytes, want %d", len(b), diagMessageBytes)
	}
	ne := binary.NativeEndian
	s := diagSocket{
		state: b[1], repeats: b[3],
		cookie: uint64(ne.Uint32(b[44:])) | uint64(ne.Uint32(b[48:]))<<32,
	}
	var from, to netip.Addr
	switch b[0] {
	case unix.AF_INET:
		from, to = netip.AddrFrom4([4]byte(b[8:])), netip.AddrFrom4([4]byte(b[24:]))
	case unix.AF_INET6:
		from, to = netip.AddrFrom16([16]byte(b[8:])).Unmap(), netip.AddrFrom16([16]byte(b[24:])).Unmap()
	default:
		return diagSocket{}, fmt.Errorf("sock_diag message of unknown address family %d", b[0])
	}
	s.src = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b[4:]))
	s.dst = netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[6:]))

	// Attributes; of struct tcp_info the kernel sends as much as it has.
	for rest := b[diagMessageBytes:]; len(rest) >= 4; {
		n, kind := int(ne.Uint16(rest)), ne.Uint16(rest[2:])
		if n < 4 || n > len(rest) {
			return diagSocket{}, fmt.Errorf("sock_diag message with an attribute of %d bytes, %d are left", n, len(rest))
		}
		if kind == diagInfo {
			s.info(rest[4:n])
		}
		rest = rest[min((n+3)&^3, len(rest)):]
	}
	return s, nil
}

// info reads struct tcp_info, which is shorter in older kernels.
func (s *diagSocket) info(b []byte) {
	if len(b) < 104 {
		return
	}
	ne := binary.NativeEndian
	s.full = true
	s.caState = b[1]
	s.timeouts = uint32(b[2]) // in a row, where there is no count of all
	s.waiting = ne.Uint32(b[36:])
	s.totalRetrans = ne.Uint32(b[100:])
	if len(b) >= 220 {
		s.dsackDups = ne.Uint32(b[216:])
	}
	if len(b) >= 242 {
		s.timeouts = uint32(ne.Uint16(b[240:]))
	}
}

// flow is the five-tuple of what this host sends.
func (s *diagSocket) flow() packet.Flow {
	return packet.Flow{Src: s.src, Dst: s.dst, Proto: packet.TCP}
}

// diagConn asks and listens in one network namespace, which it keeps alive.
type diagConn struct {
	c    *netlink.Conn
	over atomic.Bool // closed
}

// dialDiag opens one in a namespace, nil: the calling thread's; joined to multicast
// groups.
func dialDiag(ns *os.File, groups ...uint32) (*diagConn, error) {
	var config netlink.Config
	if ns != nil {
		config.NetNS = int(ns.Fd())
	}
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &config)
	if err != nil {
		return nil, needsPrivilege("open sock_diag", err)
	}
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			c.Close()
			return nil, needsPrivilege("listen for sockets that are closed", err)
		}
	}
	if len(groups) > 0 {
		// Best effort: many sockets may be closed at once.
		c.SetReadBuffer(8 << 20)
	}
	return &diagConn{c: c}, nil
}

func (d *diagConn) Close() error {
	d.over.Store(true)
	return d.c.Close()
}

// diagStates are those of connections: all but LISTEN, CLOSE and TIME_WAIT.
const diagStates = 0xfff &^ (1<<10 | 1<<7 | 1<<6)

func diagRequest(family uint8, states uint32) []byte {
	b := make([]byte, diagRequestBytes)
	b[0], b[1], b[2] = family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	binary.NativeEndian.PutUint32(b[4:], states)
	return b
}

// dump hands over the message of every socket in one of some states.
func (d *diagConn) dump(states uint32, each func([]byte)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		_, err := d.c.Send(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   diagRequest(family, states),
		})
		if err != nil {
			return fmt.Errorf("list the sockets: %w", err)
		}
		msgs, err := d.c.Receive()
		if err != nil {
			return fmt.Errorf("list the sockets: %w", err)
		}
		for _, m := range msgs {
			each(m.Data)
		}
	}
	return nil
}

// get asks for one connection; nil when there is none.
func (d *diagConn) get(f packet.Flow) (*diagSocket, error) {
	family := uint8(unix.AF_INET) // finds dual-stack sockets as well
	src, dst := f.Src.Addr(), f.Dst.Addr()
	if src.Is6() {
		family = unix.AF_INET6
	}
	b := diagRequest(family, diagStates)
	binary.BigEndian.PutUint16(b[8:], f.Src.Port())
	binary.BigEndian.PutUint16(b[10:], f.Dst.Port())
	if family == unix.AF_INET {
		copy(b[12:], src.AsSlice())
		copy(b[28:], dst.AsSlice())
	} else {
		from, to := src.As16(), dst.As16()
		copy(b[12:], from[:])
		copy(b[28:], to[:])
	}
	for i := 48; i < 56; i++ {
		b[i] = 0xff // any cookie
	}
	msgs, err := d.c.Execute(netlink.Message{Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request}, Data: b})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask for a socket: %w", err)
	}
	for _, m := range msgs {
		s, err := decodeDiag(m.Data)
		return &s, err
	}
	return nil, nil
}

// closed hands over the messages of sockets as they are closed, until the connection
// is: then it returns nil. lost is told that the kernel had more to tell than there
// was room for, it does not count how many, and flushed that all there was until
// flush was read.
func (d *diagConn) closed(each func([]byte), lost, flushed func()) error {
	for {
		msgs, err := d.c.Receive()
		switch {
		case err != nil && d.over.Load():
			return nil
		case errors.Is(err, unix.ENOBUFS):
			lost()
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			err := d.waiting(each, lost)
			if err == nil {
				err = d.c.SetReadDeadline(time.Time{})
			}
			if err != nil && !d.over.Load() {
				return fmt.Errorf("listen for sockets that are closed: %w", err)
			}
			flushed()
			continue
		case err != nil:
			return fmt.Errorf("listen for sockets that are closed: %w", err)
		}
		for _, m := range msgs {
			each(m.Data)
		}
	}
}

// waiting reads what is there: past its deadline a connection reads nothing any more.
func (d *diagConn) waiting(each func([]byte), lost func()) error {
	raw, err := d.c.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	var read error
	err = raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.ENOBUFS):
				lost()
				continue
			case err != nil:
				read = err
				return
			}
			msgs, err := syscall.ParseNetlinkMessage(buf[:n])
			if err != nil {
				read = err
				return
			}
			for _, m := range msgs {
				each(m.Data)
			}
		}
	})
	return errors.Join(err, read)
}

// flushFor is how long flush waits for sockets closed just now: the kernel tells of
// them from a queue of its work.
const flushFor = 50 * time.Millisecond

// flush has closed tell when it has read what comes in flushFor.
func (d *diagConn) flush() error { return d.c.SetReadDeadline(time.Now().Add(flushFor)) }
