package tracer

import (
	"encoding/binary"
	"errors"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"decaf/api/packet"
)

// connected says whether this host has a TCP connection of that five-tuple. It
// says so, too, where the kernel cannot be asked: then nothing is harmed.
func connected(f packet.Flow) bool {
	// struct inet_diag_req_v2 of linux/inet_diag.h
	b := make([]byte, 56)
	b[0], b[1] = unix.AF_INET, packet.TCP
	if f.Is6() {
		b[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(b[4:], 1<<32-1) // any state
	binary.BigEndian.PutUint16(b[8:], f.Src.Port())
	binary.BigEndian.PutUint16(b[10:], f.Dst.Port())
	copy(b[12:], f.Src.Addr().AsSlice())
	copy(b[28:], f.Dst.Addr().AsSlice())
	for i := 48; i < 56; i++ {
		b[i] = 0xff // any cookie
	}
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	request.AddRawData(b)
	answers, err := request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return !errors.Is(err, syscall.ENOENT)
	}
	const listen = 10 // TCP_LISTEN: what the kernel finds where there is nothing better
	return len(answers) > 0 && len(answers[0]) > 1 && answers[0][1] != listen
}
