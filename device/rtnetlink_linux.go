package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rtnetlinkReceiveBuffer holds some 8,000 changes that come at once.
const rtnetlinkReceiveBuffer = 4 << 20

// errMissed says that the kernel had no room for changes: what there is is to be
// listed again.
var errMissed = errors.New("changes were missed")

// rtnetlink is a socket that hears of changes in one network namespace.
type rtnetlink struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
}

// openRtnetlink joins groups (RTNLGRP_…) in the network namespace of the calling
// thread. It needs no privileges.
func openRtnetlink(groups ...int) (_ *rtnetlink, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("bind rtnetlink socket: %w", err)
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return nil, fmt.Errorf("join rtnetlink group %d: %w", g, err)
		}
	}
	r := &rtnetlink{file: os.NewFile(uintptr(fd), "rtnetlink"), buf: make([]byte, maxNetlinkMessage)}
	if r.raw, err = r.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	return r, r.control(func(fd int) error {
		// Forced takes privilege over the system's limit; without it the limit holds.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rtnetlinkReceiveBuffer) == nil {
			return nil
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rtnetlinkReceiveBuffer)
	})
}

// receive hands on what one datagram holds, waiting for it until the deadline:
// os.ErrDeadlineExceeded then, errMissed when the kernel had no room for some. What is handed on is valid during the call.
func (r *rtnetlink) receive(deadline time.Time, each func(h nlHeader, body []byte)) error {
	if err := r.file.SetReadDeadline(deadline); err != nil {
		return err
	}
	var (
		n    int
		from unix.Sockaddr
		err  error
	)
	wait := r.raw.Read(func(fd uintptr) bool {
		for {
			n, from, err = unix.Recvfrom(int(fd), r.buf, 0)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	switch sender, _ := from.(*unix.SockaddrNetlink); {
	case wait != nil:
		return wait
	case errors.Is(err, unix.ENOBUFS):
		// Until the socket is empty the kernel drops changes without saying so
		// again (netlink_overrun in net/netlink/af_netlink.c).
		return errors.Join(errMissed, r.control(func(fd int) error {
			discard(fd)
			return nil
		}))
	case err != nil:
		return fmt.Errorf("read rtnetlink: %w", err)
	case sender == nil || sender.Pid != 0:
		return nil // not the kernel
	}
	return eachMessage(r.buf[:n], each)
}

// control does something with the descriptor.
func (r *rtnetlink) control(do func(fd int) error) (err error) {
	if raw := r.raw.Control(func(fd uintptr) { err = do(int(fd)) }); raw != nil {
		return raw
	}
	return err
}

// wake ends the receiving that waits.
func (r *rtnetlink) wake() { _ = r.file.SetReadDeadline(time.Unix(1, 0)) }

func (r *rtnetlink) close() { r.file.Close() }

// netlinkPatience is how long the kernel may take to answer.
const netlinkPatience = 5 * time.Second

// lister lists what there is in one network namespace. It is not safe for
// concurrent use.
type lister struct {
	fd  int
	seq uint32
	buf []byte
}

// openLister opens its socket in the network namespace of the calling thread, of a
// netlink protocol (NETLINK_ROUTE, NETLINK_NETFILTER).
func openLister(protocol int) (*lister, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	tv := unix.NsecToTimeval(int64(netlinkPatience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return &lister{fd: fd, buf: make([]byte, maxNetlinkMessage)}, nil
}

// list asks for all of a kind (RTM_GET…, NFT_MSG_GET…); request is what stands behind the
// netlink header. whole is false when something changed meanwhile, so that some
// may be missing or come twice.
func (l *lister) list(kind uint16, request []byte, each func(h nlHeader, body []byte)) (whole bool, err error) {
	l.seq++
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(request)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	m = binary.NativeEndian.AppendUint32(m, l.seq)
	m = append(binary.NativeEndian.AppendUint32(m, 0), request...)
	if err := unix.Sendto(l.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("ask netlink for messages of kind %d: %w", kind, err)
	}
	whole = true
	for done := false; !done; {
		n, _, err := unix.Recvfrom(l.fd, l.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read netlink's messages of kind %d: %w", kind, err)
		}
		var answer error
		err = eachMessage(l.buf[:n], func(h nlHeader, body []byte) {
			if h.seq != l.seq || done { // of a list that was given up
				return
			}
			if h.flags&unix.NLM_F_DUMP_INTR != 0 {
				whole = false
			}
			switch h.kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done = true
				if len(body) >= 4 {
					if number := int32(binary.NativeEndian.Uint32(body)); number != 0 {
						answer = unix.Errno(-number)
					}
				}
			default:
				each(h, body)
			}
		})
		if err = errors.Join(err, answer); err != nil {
			return false, fmt.Errorf("list netlink's messages of kind %d: %w", kind, err)
		}
	}
	return whole, nil
}

func (l *lister) close() { unix.Close(l.fd) }

// nlHeader is what is used of a netlink header.
type nlHeader struct {
	kind, flags uint16
	seq         uint32
}

// eachMessage walks the netlink messages in what was received.
func eachMessage(b []byte, each func(h nlHeader, body []byte)) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return errNetlinkShort
		}
		ne := binary.NativeEndian
		n := int(ne.Uint32(b))
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return errNetlinkShort
		}
		each(nlHeader{kind: ne.Uint16(b[4:]), flags: ne.Uint16(b[6:]), seq: ne.Uint32(b[8:])}, b[unix.SizeofNlMsghdr:n:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}
