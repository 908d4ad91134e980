package hostagent

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// detour makes the router hand what comes in from a for b to decide, which says
// how long each packet is held, in its order of arrival; negative loses it. So
// packets can be reordered without any loss.
func (l *lab) detour(t *testing.T, decide func(packet []byte) time.Duration) {
	t.Helper()
	var tun *os.File
	if err := l.r.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		var req [40]byte
		copy(req[:], "detour")
		binary.NativeEndian.PutUint16(req[16:], unix.IFF_TUN|unix.IFF_NO_PI)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
			unix.Close(fd)
			return fmt.Errorf("TUNSETIFF: %w", errno)
		}
		tun = os.NewFile(uintptr(fd), "detour")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(l.r.fd))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName("detour")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetTxQLen(link, 10000); err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	for family, to := range map[int]string{netlink.FAMILY_V4: "10.2.0.0/24", netlink.FAMILY_V6: "fd00:2::/64"} {
		_, b, err := net.ParseCIDR(to)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: b, Table: 100}); err != nil {
			t.Fatal(err)
		}
		rule := netlink.NewRule()
		rule.Family, rule.IifName, rule.Table = family, "eth1", 100
		if err := h.RuleAdd(rule); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, err := tun.Read(buf)
			if err != nil {
				return
			}
			switch d := decide(buf[:n]); {
			case d < 0:
			case d == 0:
				tun.Write(buf[:n])
			default:
				p := append([]byte(nil), buf[:n]...)
				time.AfterFunc(d, func() { tun.Write(p) })
			}
		}
	})
	t.Cleanup(func() {
		tun.Close()
		wg.Wait()
	})
}

// segment is where the data of a TCP packet over IPv4 or IPv6 (without extension
// headers) begins, and how many bytes it holds.
func segment(p []byte) (seq uint32, bytes int) {
	ip := 40
	switch {
	case len(p) >= 40 && p[0]>>4 == 4 && p[9] == unix.IPPROTO_TCP:
		ip = int(p[0]&0xf) * 4
	case len(p) >= 60 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_TCP:
	default:
		return 0, 0
	}
	return binary.BigEndian.Uint32(p[ip+4:]), len(p) - ip - int(p[ip+12]>>4)*4
}
