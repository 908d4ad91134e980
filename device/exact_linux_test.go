package device

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api/yang"

	"github.com/google/nftables"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// frames makes Ethernet frames that a router is to drop.
type frames struct{ from, to net.HardwareAddr }

// udp4 makes a frame with an IPv4 packet of size bytes; change breaks it before
// its header is summed up, and spoil after.
func (f frames) udp4(src, dst string, ttl byte, size int, id uint16, change, spoil func(ip []byte)) []byte {
	b := make([]byte, 14+size)
	copy(b, f.to)
	copy(b[6:], f.from)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, ttl, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(size))
	binary.BigEndian.PutUint16(ip[4:], id)
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	binary.BigEndian.PutUint16(ip[20:], 1024+id%32768)
	binary.BigEndian.PutUint16(ip[22:], 9)
	binary.BigEndian.PutUint16(ip[24:], uint16(size-20))
	if change != nil {
		change(ip)
	}
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	if spoil != nil {
		spoil(ip)
	}
	return b
}

// udp6 makes a frame with an IPv6 packet of size bytes.
func (f frames) udp6(src, dst string, hops byte, size int, id uint16) []byte {
	b := make([]byte, 14+size)
	copy(b, f.to)
	copy(b[6:], f.from)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IPV6)
	ip := b[14:]
	ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_UDP, hops
	binary.BigEndian.PutUint16(ip[4:], uint16(size-40))
	s, d := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
	copy(ip[8:], s[:])
	copy(ip[24:], d[:])
	binary.BigEndian.PutUint16(ip[40:], 1024+id%32768)
	binary.BigEndian.PutUint16(ip[42:], 9)
	binary.BigEndian.PutUint16(ip[44:], uint16(size-40))
	return b
}

// sendFrames sends as many frames as make gives, by an interface.
func (n *node) sendFrames(ifname string, count int, make func(i int) []byte) {
	n.t.Helper()
	index := n.link(ifname).Attrs().Index
	n.must("send frames", n.do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Ifindex: index}
		for i := range count {
			for {
				err := unix.Sendto(fd, make(i), 0, to)
				if err == unix.ENOBUFS || err == unix.EAGAIN {
					continue
				}
				if err != nil {
					return err
				}
				break
			}
		}
		return nil
	}))
}

// mib reads the kernel's own counters of the namespace: /proc/net/snmp, netstat
// and snmp6, as "IpExtInNoRoutes", as nstat names them.
func (n *node) mib() map[string]uint64 {
	n.t.Helper()
	out := map[string]uint64{}
	n.must("mib", n.do(func() error {
		for _, file := range []string{"snmp", "netstat"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			for i := 0; i+1 < len(lines); i += 2 {
				names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
				for k := 1; k < len(names); k++ {
					v, _ := strconv.ParseUint(values[k], 10, 64) // "-1" is a limit, no counter
					out[strings.TrimSuffix(names[0], ":")+names[k]] = v
				}
			}
		}
		b, err := os.ReadFile("/proc/thread-self/net/snmp6")
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 2 {
				out[f[0]], _ = strconv.ParseUint(f[1], 10, 64)
			}
		}
		return err
	}))
	return out
}

// sums adds up the aggregates that a gNMI client is told of, by class.
type sums struct {
	mu      sync.Mutex
	packets map[string]uint64
}

func (s *sums) of(class string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.packets[class]
}

func sumAggregates(t *testing.T, c gnmipb.GNMIClient) *sums {
	t.Helper()
	s := &sums{packets: map[string]uint64{}}
	receive(t, c, func(n *gnmipb.Notification) {
		if a, is, err := yang.DecodeAggregate(n); err != nil {
			t.Errorf("aggregate: %v", err)
		} else if is {
			s.mu.Lock()
			s.packets[a.Class] += a.Packets
			s.mu.Unlock()
		}
	}, func() {}, "loss", "aggregates")
	return s
}

// TestCountsAreExact drops more than 100,000 packets in nine ways and holds the
// agent's counters and its aggregates, class by class, against counters that are
// not its own: those of nftables, of the kernel's IP layer, and of the queue.
func TestCountsAreExact(t *testing.T) {
	l := newLab(t)
	const each = 13_000
	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	const here, there = "10.0.1.2", "10.0.2.2"

	l.r.sysctl("net/ipv4/conf/eth1/rp_filter", "1")
	l.r.route("10.20.0.0/16", "", unix.RTN_BLACKHOLE)
	_, narrow, _ := net.ParseCIDR("10.30.0.0/16")
	l.r.must("narrow route", l.r.nl.RouteAdd(&netlink.Route{Dst: narrow, Gw: net.ParseIP(there), MTU: 600, MTULock: true}))
	denied := l.r.nftCount(nftables.ChainHookForward, "10.0.2.99", true)
	swallowed := l.r.nftCount(nftables.ChainHookPrerouting, "10.20.0.1", false)
	const rate = 10_000 // bytes a second
	l.r.must("queue", l.r.nl.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.r.link("eth2").Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Limit: 10_000, Buffer: netlink.Xmittime(rate, 2000),
	}))
	queued := func() uint64 {
		list, err := l.r.nl.QdiscList(l.r.link("eth2"))
		l.r.must("queue", err)
		return uint64(list[0].Attrs().Statistics.Queue.Drops)
	}
	// What the machine had no room for on the way in: none, most times.
	crowded := func() (n uint64) {
		for _, name := range []string{"eth1", "eth2"} {
			n += l.r.link(name).Attrs().Statistics.RxDropped
		}
		return n
	}

	cfg := testConfig()
	cfg.Counters.Interval = minInterval
	cfg.Fuse.Events, cfg.Fuse.Queue = 1e9, 1
	a := startAgent(t, l.r, cfg)
	told := sumAggregates(t, dial(t, l.r, a, nil))
	mib, room := l.r.mib(), crowded()

	begin := time.Now()
	send := func(make func(i int) []byte) { l.h1.sendFrames("eth0", each, make) }
	send(func(i int) []byte { return f.udp4(here, "10.0.2.99", 9, 60, uint16(i), nil, nil) })
	send(func(i int) []byte { return f.udp4(here, "192.0.2.1", 9, 60, uint16(i), nil, nil) })
	send(func(i int) []byte { return f.udp6("fd00:1::2", "fdff::1", 9, 60, uint16(i)) })
	send(func(i int) []byte { return f.udp4(here, there, 1, 60, uint16(i), nil, nil) })
	send(func(i int) []byte { return f.udp6("fd00:1::2", "fd00:2::2", 1, 60, uint16(i)) })
	send(func(i int) []byte { return f.udp4(here, "10.20.0.1", 9, 60, uint16(i), nil, nil) })
	send(func(i int) []byte {
		return f.udp4(here, "10.30.0.1", 9, 900, uint16(i), func(ip []byte) { ip[6] |= 0x40 }, nil) // do not fragment
	})
	send(func(i int) []byte { return f.udp4("10.0.2.77", there, 9, 60, uint16(i), nil, nil) }) // not from there
	send(func(i int) []byte {
		return f.udp4(here, there, 9, 60, uint16(i), nil, func(ip []byte) { ip[10] ^= 0x55 })
	})
	send(func(i int) []byte { // says that it is longer
		return f.udp4(here, there, 9, 60, uint16(i), func(ip []byte) { binary.BigEndian.PutUint16(ip[2:], 1000) }, nil)
	})
	send(func(i int) []byte { return f.udp4(here, there, 9, 300, uint16(i), nil, nil) }) // more than the queue lets out
	took := time.Since(begin)

	truth := func() map[string]uint64 {
		now := l.r.mib()
		up := func(name string) uint64 {
			if _, ok := now[name]; !ok {
				t.Fatalf("the kernel has no counter %s", name)
			}
			return now[name] - mib[name]
		}
		return map[string]uint64{
			PolicyL3ACL:        denied(),
			PolicyL3NullRoute:  swallowed(),
			PolicyL3RPF:        up("TcpExtIPReversePathFilter"),
			ErrorsL3RxNoRoute:  up("IpExtInNoRoutes") + up("Ip6InNoRoutes"),
			ErrorsL3RxTTL:      up("IpInHdrErrors") - up("IpExtInCsumErrors") + up("Ip6InHdrErrors"),
			ErrorsL3RxMTU:      up("IpFragFails"),
			ErrorsL3RxChecksum: up("IpExtInCsumErrors"),
			ErrorsL3RxInvalid:  up("IpExtInTruncatedPkts"),
			NoBuffer:           queued() + crowded() - room,
		}
	}
	counted := func() map[string]uint64 {
		out := map[string]uint64{}
		for _, c := range a.ledger.totals().classes {
			if c.Packets > 0 {
				out[c.Name] = c.Packets
			}
		}
		return out
	}
	await := func(done func() bool) { within(5*time.Second, done) } // what is wrong then, the comparison says
	await(func() bool { return maps.Equal(truth(), counted()) })
	// What the counters source would count twice it has by now.
	before := a.sources.counters.left().readings
	await(func() bool { return a.sources.counters.left().readings >= before+5 })
	var total uint64
	want, got := truth(), counted()
	for _, class := range slices.Sorted(maps.Keys(want)) {
		total += want[class]
		if got[class] != want[class] {
			t.Errorf("%s: counted %d, want %d", class, got[class], want[class])
		}
		await(func() bool { return told.of(class) >= want[class] })
		if n := told.of(class); n != want[class] {
			t.Errorf("%s: aggregates tell of %d, want %d", class, n, want[class])
		}
		delete(got, class)
	}
	if len(got) > 0 {
		t.Errorf("counted besides: %v", got)
	}
	if total < 100_000 {
		t.Errorf("%d packets were dropped, want 100,000 at least", total)
	}
	s, c := a.State(), a.sources.counters.left()
	if s.DropsUnclassified != 0 || s.DropsUncounted != 0 || c.told != 0 || c.failed != 0 {
		t.Errorf("%d unclassified, %d uncounted, counters %+v", s.DropsUnclassified, s.DropsUncounted, c)
	}
	t.Logf("%d drops of %d classes, sent in %s: %s", total, len(want), took.Round(time.Millisecond), fmt.Sprint(want))
}
