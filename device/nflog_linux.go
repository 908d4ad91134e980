package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
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
	broken complaint

	groups map[uint16]*sequence // of observe; bounded by the configuration

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
	n := &nflog{cfg: cfg, log: log, ifname: ifname, groups: map[uint16]*sequence{}}
	for _, group := range cfg.Groups {
		if err := bindGroup(fd, group); err != nil {
			return nil, fmt.Errorf("nflog: group %d: %w", group, explainNFLOG(err, mayAdminister()))
		}
		n.groups[group] = &sequence{}
	}
	n.file = os.NewFile(uintptr(fd), "nflog")
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
		if err := messages(buf[:n], func(kind uint16, body []byte) {
			if kind == unix.NLMSG_ERROR && len(body) >= 4 {
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

// messages walks the netlink messages in what was received.
func messages(b []byte, each func(kind uint16, body []byte)) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return fmt.Errorf("nflog: netlink message is %w", errNFLOGShort)
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return fmt.Errorf("nflog: netlink message is %w", errNFLOGShort)
		}
		each(binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// observe is [observer]'s.
func (n *nflog) observe(ctx context.Context, handle func(observed)) error {
	defer context.AfterFunc(ctx, func() { n.file.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, maxNetlinkMessage)
	for {
		size, err := n.file.Read(buf)
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOBUFS):
			n.overflows.Add(1) // how many packets, the next number tells
			continue
		case ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		default:
			return fmt.Errorf("nflog: read: %w", err)
		}
		now := time.Now()
		bad := messages(buf[:size], func(kind uint16, body []byte) {
			if kind == nflogMsgPacket {
				n.packet(body, now, handle)
			}
		})
		if bad != nil {
			n.complain(bad, now)
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

// close unbinds the groups with the socket.
func (n *nflog) close() { n.file.Close() }
