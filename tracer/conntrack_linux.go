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
	mu       sync.Mutex
	f        *os.File
	raw      syscall.RawConn
	seq      uint32
	question []byte
	buf      [4096]byte

	tracked *os.File // how many connections are, of this namespace; nil where nothing says so
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
	// Without it each flow is asked about.
	if tracked, err := os.Open("/proc/sys/net/netfilter/nf_conntrack_count"); err == nil {
		c.tracked = tracked
	}
	return c, nil
}

// Close closes the socket.
func (c *conntrack) Close() error {
	err := c.f.Close()
	if c.tracked != nil {
		err = errors.Join(err, c.tracked.Close())
	}
	return err
}

// conntrackPatience is for a kernel that is busy with its table.
const conntrackPatience = 100 * time.Millisecond

// Translate finds a flow's connection. One that is not tracked is not translated.
func (c *conntrack) Translate(_ context.Context, f packet.Flow) (packet.Flow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.none() {
		return f, nil
	}
	n, err := c.ask(f)
	if err != nil {
		return f, fmt.Errorf("ask connection tracking: %w", err)
	}
	for patient := false; ; n = 0 {
		if n == 0 {
			if !patient {
				patient = true
				if err := c.f.SetReadDeadline(time.Now().Add(conntrackPatience)); err != nil {
					return f, fmt.Errorf("ask connection tracking: %w", err)
				}
			}
			if n, err = c.f.Read(c.buf[:]); err != nil {
				return f, fmt.Errorf("connection tracking does not answer: %w", err)
			}
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

// none says that no connection at all is tracked, as where nothing filters or
// translates. To read that takes a third of the time of a question.
func (c *conntrack) none() bool {
	if c.tracked == nil {
		return false
	}
	n, errno := briefly(unix.SYS_PREAD64, c.tracked.Fd(), c.buf[:8], 0, nil, 0)
	return errno == 0 && n == 2 && c.buf[0] == '0'
}

// untranslated is that of prompt.
func (c *conntrack) untranslated(f packet.Flow) bool {
	wire, err := c.Translate(context.Background(), f)
	return err == nil && wire == f
}

// ask sends the question, and reads the answer where that is there already: the
// kernel gives it before the question's system call ends. 0: it is not.
func (c *conntrack) ask(f packet.Flow) (n int, err error) {
	c.seq++
	c.question = conntrackQuestion(c.question, f, c.seq)
	var errno syscall.Errno
	controlErr := c.raw.Control(func(fd uintptr) {
		// Without an address it goes to the kernel.
		if _, errno = briefly(unix.SYS_SENDTO, fd, c.question, unix.MSG_DONTWAIT, nil, 0); errno != 0 {
			return
		}
		if n, errno = briefly(unix.SYS_RECVFROM, fd, c.buf[:], unix.MSG_DONTWAIT, nil, 0); errno == unix.EAGAIN {
			n, errno = 0, 0
		}
	})
	if controlErr != nil {
		return 0, controlErr
	}
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}
