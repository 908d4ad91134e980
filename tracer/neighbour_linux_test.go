package tracer

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A kernel that cannot be asked for one neighbour lists them, and is not asked again;
// other errors are told.
func TestNeighboursOfOldKernels(t *testing.T) {
	asked, family := 0, 0
	hardware := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	n := &neighbours{
		one: func(int, netip.Addr) (*netlink.Neigh, error) { asked++; return nil, unix.EOPNOTSUPP },
		list: func(_, of int) ([]netlink.Neigh, error) {
			family = of
			return []netlink.Neigh{
				{IP: net.ParseIP("10.0.0.9"), State: unix.NUD_REACHABLE, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}},
				{IP: net.ParseIP("10.0.0.1"), State: unix.NUD_STALE, HardwareAddr: hardware},
				{IP: net.ParseIP("fd00::1"), State: unix.NUD_STALE, HardwareAddr: hardware},
				{IP: net.ParseIP("10.0.0.2"), State: unix.NUD_FAILED, HardwareAddr: hardware},
			}, nil
		},
	}
	for _, c := range []struct {
		addr   string
		family int
		want   net.HardwareAddr
	}{
		{"10.0.0.1", unix.AF_INET, hardware},
		{"fd00::1", unix.AF_INET6, hardware},
		{"10.0.0.2", unix.AF_INET, nil}, // failed
		{"10.0.0.3", unix.AF_INET, nil}, // not there
	} {
		if got, err := n.at(1, netip.MustParseAddr(c.addr)); err != nil || got.String() != c.want.String() || family != c.family {
			t.Errorf("%s: %v, %v, family %d; want %v, %d", c.addr, got, err, family, c.want, c.family)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times, want once", asked)
	}
	n.list = func(int, int) ([]netlink.Neigh, error) { return nil, unix.ENOBUFS }
	if _, err := n.at(1, netip.MustParseAddr("10.0.0.1")); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("no list: %v", err)
	}
	n = &neighbours{one: func(int, netip.Addr) (*netlink.Neigh, error) { return nil, unix.EPERM }}
	if _, err := n.at(1, netip.MustParseAddr("10.0.0.1")); !errors.Is(err, unix.EPERM) {
		t.Errorf("refused: %v", err)
	}
}
