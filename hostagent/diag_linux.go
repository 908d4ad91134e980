package hostagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
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

// diagConn asks and listens in one network namespace.
type diagConn struct{ c *netlink.Conn }

// dialDiag opens one, joined to multicast groups.
func dialDiag(ns *os.File, groups ...uint32) (*diagConn, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: int(ns.Fd())})
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

func (d *diagConn) Close() error { return d.c.Close() }

// diagStates are those of connections: all but LISTEN, CLOSE and TIME_WAIT.
const diagStates = 0xfff &^ (1<<10 | 1<<7 | 1<<6)

func diagRequest(family uint8) []byte {
	b := make([]byte, diagRequestBytes)
	b[0], b[1], b[2] = family, unix.IPPROTO_TCP, 1<<(diagInfo-1)
	binary.NativeEndian.PutUint32(b[4:], diagStates)
	return b
}

// dump hands over every connection.
func (d *diagConn) dump(each func(*diagSocket), broken func(error)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		_, err := d.c.Send(netlink.Message{
			Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
			Data:   diagRequest(family),
		})
		if err != nil {
			return fmt.Errorf("list the sockets: %w", err)
		}
		msgs, err := d.c.Receive()
		if err != nil {
			return fmt.Errorf("list the sockets: %w", err)
		}
		for _, m := range msgs {
			s, err := decodeDiag(m.Data)
			if err != nil {
				broken(err)
				continue
			}
			each(&s)
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
	b := diagRequest(family)
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

// closed hands over sockets as they are closed, until the connection is.
func (d *diagConn) closed(each func(diagSocket), broken func(error)) error {
	for {
		msgs, err := d.c.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			broken(errors.New("sockets were closed faster than the agent could read"))
			continue
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("listen for sockets that are closed: %w", err)
		}
		for _, m := range msgs {
			s, err := decodeDiag(m.Data)
			if err != nil {
				broken(err)
				continue
			}
			each(s)
		}
	}
}

// wakeClosed ends a waiting closed.
func (d *diagConn) wakeClosed() { d.c.SetReadDeadline(time.Unix(1, 0)) }
