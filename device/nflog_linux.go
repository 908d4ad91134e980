package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nfnetlink_log.h.
const (
	nflogMsgPacket = unix.NFNL_SUBSYS_ULOG << 8
	nflogMsgConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1

	nflogCfgCmd        = 1 // u8
	nflogCfgMode       = 2 // be32 bytes of a packet, u8 mode, u8 padding
	nflogCfgThreshold  = 5 // be32 packets that the kernel collects before it sends
	nflogCfgFlags      = 6 // be16
	nflogCmdBind       = 1
	nflogCopyPacket    = 2
	nflogFlagSeq       = 1
	nflogReceiveBuffer = 4 << 20
	maxNetlinkMessage  = 1 << 16
)

// nflog is the source of drops that firewall rules log, in one network
// namespace.
type nflog struct {
	cfg    NFLOGConfig
	log    *slog.Logger
	ifname func(uint32) string
	file   *os.File // the netlink socket
	raw    syscall.RawConn

	mu     sync.Mutex // held from taking a message to handing it on
	buf    []byte
	pace   nflogPace
	broken complaint
	hole   bool                 // logs were lost, and no number told yet how many
	holeAt time.Time            // when logs were last found lost
	groups map[uint16]*sequence // bounded by the configuration

	lost      atomic.Uint64 // holes in the groups' numbers
	overflows atomic.Uint64 // times that the kernel had no room
	malformed atomic.Uint64
}

// openNFLOG binds the log groups in the network namespace of the calling
// thread. ifname names that namespace's interfaces, "" for index 0.
func openNFLOG(cfg NFLOGConfig, ifname func(uint32) string, log *slog.Logger) (_ *nflog, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("nflog: open netfilter socket: %w: this needs a kernel with CONFIG_NETFILTER_NETLINK", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("nflog: bind netfilter socket: %w", err)
	}
	// Forced takes privilege over the system's limit; without it the limit holds.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, nflogReceiveBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, nflogReceiveBuffer); err != nil {
			log.Warn("NFLOG has a small receive buffer and may lose bursts", "error", err)
		}
	}
	n := &nflog{cfg: cfg, log: log, ifname: ifname, groups: map[uint16]*sequence{}, buf: make([]byte, maxNetlinkMessage), pace: nflogPace{most: nflogMost}}
	for _, group := range cfg.Groups {
		if err := bindGroup(fd, group); err != nil {
			return nil, fmt.Errorf("nflog: group %d: %w", group, explainNFLOG(err, mayAdminister()))
		}
		n.groups[group] = &sequence{}
	}
	n.file = os.NewFile(uintptr(fd), "nflog")
	if n.raw, err = n.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("nflog: %w", err)
	}
	return n, nil
}

// mayAdminister reports whether the calling thread has CAP_NET_ADMIN.
func mayAdminister() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// explainNFLOG says what to do about an error of the kernel. The one that it
// has for a group that another process reads is the same as for a lack of
// privileges (nfulnl_recv_config in net/netfilter/nfnetlink_log.c).
func explainNFLOG(err error, privileged bool) error {
	switch {
	case errors.Is(err, unix.EPERM) && !privileged:
		return fmt.Errorf("%w: run as root, or give the binary cap_net_admin", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: another program reads this group (ulogd, perhaps): let the rules log to a group of their own", err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: the kernel has no NFLOG: load the module nfnetlink_log (CONFIG_NETFILTER_NETLINK_LOG), or take the group out of nflog.groups", err)
	}
	return err
}

// bindGroup asks for a group's packets: the first bytes of each, sent at once,
// numbered.
func bindGroup(fd int, group uint16) error {
	attribute := func(b []byte, kind uint16, v ...byte) []byte {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), v...)
		return append(b, make([]byte, -len(v)&3)...)
	}
	for _, body := range [][]byte{
		attribute(nil, nflogCfgCmd, nflogCmdBind),
		attribute(attribute(attribute(nil,
			nflogCfgMode, 0, 0, 0, maxHeader, nflogCopyPacket, 0),
			nflogCfgThreshold, 0, 0, 0, 1),
			nflogCfgFlags, 0, nflogFlagSeq),
	} {
		m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+4+len(body)))
		m = binary.NativeEndian.AppendUint16(m, nflogMsgConfig)
		m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		m = append(m, make([]byte, 8)...) // sequence and port
		m = append(m, unix.AF_UNSPEC, unix.NFNETLINK_V0, byte(group>>8), byte(group))
		if err := unix.Sendto(fd, append(m, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		if err := acknowledged(fd); err != nil {
			return err
		}
	}
	return nil
}

// acknowledged reads the kernel's answer to a request, which is there when the
// request was sent. Packets of a group bound before may stand in front of it:
// they are passed over, the agent has not begun.
func acknowledged(fd int) error {
	buf := make([]byte, maxNetlinkMessage)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return fmt.Errorf("no answer from the kernel: %w", err)
		}
		var answer error
		found := false
		if err := eachMessage(buf[:n], func(h nlHeader, body []byte) {
			if h.kind == unix.NLMSG_ERROR && len(body) >= 4 {
				found = true
				if number := int32(binary.NativeEndian.Uint32(body)); number != 0 {
					answer = unix.Errno(-number)
				}
			}
		}); err != nil {
			return err
		}
		if found {
			return answer
		}
	}
}

// Messages that are taken in at a time: by observe, which others wait for, and
// by catchUp: as many as the receive buffer has room for.
const (
	fewMessages = 64
	allMessages = 2 * nflogReceiveBuffer / 512
)

// nflogMost is how many messages are read in a second: as many as the kernel
// source has events for, and no more than some hundredths of a core's work. A flood
// that is logged without a limit overflows the socket, which costs nobody much.
const nflogMost = 10_000

// nflogPace bounds the messages of each second.
type nflogPace struct {
	most, taken int
	until       time.Time // end of the second
}

// take reports whether one more may be read, and whether it is the first after
// some were not.
func (p *nflogPace) take(now time.Time) (may, again bool) {
	if !now.Before(p.until) || p.until.Sub(now) > time.Second {
		again = p.taken > p.most
		p.taken, p.until = 0, now.Add(time.Second)
	}
	if p.taken >= p.most {
		p.taken = p.most + 1
		return false, false
	}
	p.taken++
	return true, again
}

// errPaced ends a reading for this second.
var errPaced = errors.New("enough for this second")

// observe is [observer]'s.
func (n *nflog) observe(ctx context.Context, handle func(observed)) error {
	defer context.AfterFunc(ctx, func() { n.file.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		var err error
		wait := n.raw.Read(func(fd uintptr) bool {
			err = n.receive(int(fd), fewMessages, handle)
			return !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case wait != nil && ctx.Err() != nil && errors.Is(wait, os.ErrDeadlineExceeded):
			return nil
		case wait != nil:
			return fmt.Errorf("nflog: wait: %w", wait)
		case errors.Is(err, errPaced):
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second / 20):
			}
		case err != nil:
			return fmt.Errorf("nflog: read: %w", err)
		}
	}
}

// catchUp hands on all that was logged until now. A rule logs a packet before it
// drops it, in the same breath: who has seen the drop finds its log here, if all is
// whole: nothing was left to be read, and nothing lost of late.
func (n *nflog) catchUp(handle func(observed)) (whole bool) {
	// What goes wrong here goes wrong for observe, too.
	_ = n.raw.Control(func(fd uintptr) {
		whole = errors.Is(n.receive(int(fd), allMessages, handle), unix.EAGAIN)
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	return whole && !n.hole && time.Since(n.holeAt) > ruleNameWindow
}

// receive takes in up to so many messages; EAGAIN says that there are no more.
func (n *nflog) receive(fd, most int, handle func(observed)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for range most {
		now := time.Now()
		may, again := n.pace.take(now)
		if !may {
			return errPaced
		}
		if again {
			discard(fd) // what was logged meanwhile: its drops have gone by
			n.hole = true
		}
		size, _, err := unix.Recvfrom(fd, n.buf, 0)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			n.overflows.Add(1) // how many packets, the next number tells
			n.hole = true
			continue
		default:
			n.pace.taken-- // nothing was read
			return err
		}
		bad := eachMessage(n.buf[:size], func(h nlHeader, body []byte) {
			if h.kind == nflogMsgPacket {
				n.packet(body, now, handle)
			}
		})
		if bad != nil {
			n.complain(bad, now)
		}
	}
	return nil
}

// discard empties the socket. The next number tells how many there were.
func discard(fd int) {
	var none [1]byte
	for range allMessages {
		_, _, err := unix.Recvfrom(fd, none[:], unix.MSG_TRUNC)
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

func (n *nflog) packet(body []byte, now time.Time, handle func(observed)) {
	r, err := parseNFLOG(body)
	if err != nil {
		n.complain(err, now)
		return
	}
	if s := n.groups[r.group]; s != nil && r.hasSeq {
		before := s.missing
		s.see(r.seq, false)
		n.lost.Add(s.missing - before)
		if n.hole || s.missing > before {
			n.hole, n.holeAt = false, now
		}
	}
	handle(r.event(&n.cfg, now, n.ifname))
}

func (n *nflog) complain(err error, now time.Time) {
	n.malformed.Add(1)
	if count, due := n.broken.make(now); due {
		n.log.Warn("NFLOG messages were left out", "count", count, "error", err)
	}
}

// counts: lost is what the kernel had no room for in the socket.
func (n *nflog) counts() (lost, passed uint64, err error) {
	return n.lost.Load() + n.malformed.Load(), 0, nil
}

// left counts what could not be used: names or, where the source is alone, drops
// that there was no room for; times that this was so; and messages that made no
// sense.
func (n *nflog) left() (lost, overflows, malformed uint64) {
	return n.lost.Load(), n.overflows.Load(), n.malformed.Load()
}

// close unbinds the groups with the socket.
func (n *nflog) close() { n.file.Close() }
