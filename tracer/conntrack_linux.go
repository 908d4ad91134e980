package tracer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"decaf/api/packet"
)

// conntrack asks the connection tracking of the namespace in which it was
// opened. One question at a time: an answer takes some microseconds.
type conntrack struct {
	mu  sync.Mutex
	f   *os.File
	raw syscall.RawConn
	seq uint32
	buf [4096]byte
}

// openConntrack gives an error that is errors.ErrUnsupported where the kernel
// has no connection tracking or does not let this process ask.
func openConntrack() (*conntrack, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter netlink socket: %w: %w", err, errors.ErrUnsupported)
	}
	f := os.NewFile(uintptr(fd), "ctnetlink")
	c := &conntrack{f: f}
	if c.raw, err = f.SyscallConn(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// A connection that cannot be: the answer says whether there is anybody to ask.
	nobody := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	probe := packet.Flow{Src: nobody, Dst: nobody, Proto: packet.TCP}
	if _, err := c.Translate(context.Background(), probe); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w (needs CAP_NET_ADMIN)", err, errors.ErrUnsupported), c.Close())
	}
	return c, nil
}

// Close closes the socket.
func (c *conntrack) Close() error { return c.f.Close() }

// conntrackPatience is for a kernel that is busy with its table.
const conntrackPatience = 100 * time.Millisecond

// Translate finds a flow's connection. One that is not tracked is not translated.
func (c *conntrack) Translate(_ context.Context, f packet.Flow) (packet.Flow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	question := conntrackQuestion(f, c.seq)
	var err error
	controlErr := c.raw.Control(func(fd uintptr) {
		err = unix.Sendto(int(fd), question, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if err = errors.Join(controlErr, err); err != nil {
		return f, fmt.Errorf("ask connection tracking: %w", err)
	}
	if err := c.f.SetReadDeadline(time.Now().Add(conntrackPatience)); err != nil {
		return f, fmt.Errorf("ask connection tracking: %w", err)
	}
	for {
		n, err := c.f.Read(c.buf[:])
		if err != nil {
			return f, fmt.Errorf("connection tracking does not answer: %w", err)
		}
		orig, reply, err := conntrackAnswer(c.buf[:n], c.seq)
		var number errConntrack
		switch {
		case errors.Is(err, errOther):
			continue // of a question given up earlier
		case errors.As(err, &number) && syscall.Errno(number) == unix.ENOENT:
			return f, nil
		case errors.As(err, &number):
			return f, fmt.Errorf("ask connection tracking: %w", syscall.Errno(number))
		case err != nil:
			return f, err
		}
		return onWire(f, orig, reply), nil
	}
}
