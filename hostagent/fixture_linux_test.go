package hostagent

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/topology"

	"github.com/cilium/ebpf/btf"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestMain has more tests wait at a time than there are processors. Those that run
// in parallel wait for TCP's timers, each in network namespaces of its own, and hold
// what an agent says of these against what their kernel counts: events of other
// namespaces cost them some time and change nothing. What fills buffers, looks at
// all of the machine or measures time runs alone.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// needKernel skips where the kernel cannot be watched.
func needKernel(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs and makes network namespaces")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skip("needs a kernel with BTF: " + err.Error())
	}
}

// space is a network namespace without a name: it goes when its last user goes.
type space struct {
	fd   int
	inum uint32
}

// file is the namespace's, for as long as the test holds it.
func (s *space) file() string { return "/proc/self/fd/" + strconv.Itoa(s.fd) }

func newSpace(t testing.TB) *space {
	t.Helper()
	var s space
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		s.fd = fd
		ns, inum, err := openNetNS("")
		if err != nil {
			return err
		}
		s.inum = inum
		return ns.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return &s
}

// onOwnThread runs fn on a thread that is thrown away afterwards.
func onOwnThread(fn func() error) error {
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		errs <- fn()
	}()
	return <-errs
}

// do runs fn in the namespace. Sockets opened there stay there.
func (s *space) do(fn func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		return fn()
	})
}

// sysctl sets kernel parameters of the namespace, by their files in /proc/sys.
func (s *space) sysctl(parameters map[string]string) error {
	return s.do(func() error {
		for file, value := range parameters {
			if err := os.WriteFile("/proc/sys/"+file, []byte(value), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// lab is a - r - b: two hosts and a router between them, with IPv4 and IPv6.
type lab struct {
	t       testing.TB
	a, r, b *space
	topo    *topology.Topology
}

const (
	addrA, addrB   = "10.1.0.1", "10.2.0.1"
	addrA6, addrB6 = "fd00:1::1", "fd00:2::1"
	strangerB      = "10.2.0.77" // an address of b that the topology does not know
)

func newLab(t testing.TB) *lab {
	t.Helper()
	needKernel(t)
	topo, err := topology.Parse("lab.yaml", []byte(labTopologyText))
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, a: newSpace(t), r: newSpace(t), b: newSpace(t), topo: topo}
	if err := l.wire(); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) wire() error {
	for _, s := range []*space{l.a, l.r, l.b} {
		if err := s.sysctl(map[string]string{
			"net/ipv4/tcp_no_metrics_save":     "1",
			"net/ipv4/ip_forward":              "1",
			"net/ipv6/conf/all/forwarding":     "1",
			"net/ipv6/conf/all/accept_dad":     "0",
			"net/ipv6/conf/default/accept_ra":  "0",
			"net/ipv6/conf/default/accept_dad": "0",
			"net/ipv4/conf/all/rp_filter":      "0",
			"net/ipv4/icmp_ratelimit":          "0",
		}); err != nil {
			return err
		}
	}
	for _, end := range []struct {
		host     *space
		port     string
		host4    []string
		host6    string
		gw4, gw6 string
	}{
		{l.a, "eth1", []string{addrA + "/24"}, addrA6 + "/64", "10.1.0.254", "fd00:1::fe"},
		{l.b, "eth2", []string{addrB + "/24", strangerB + "/24"}, addrB6 + "/64", "10.2.0.254", "fd00:2::fe"},
	} {
		if err := l.cable(end.host, end.port, append(end.host4, end.host6), []string{end.gw4 + "/24", end.gw6 + "/64"}); err != nil {
			return err
		}
		h, err := netlink.NewHandleAt(netns.NsHandle(end.host.fd))
		if err != nil {
			return err
		}
		defer h.Close()
		for _, gw := range []string{end.gw4, end.gw6} {
			if err := h.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}); err != nil {
				return fmt.Errorf("default route by %s: %w", gw, err)
			}
		}
	}
	return nil
}

// cable joins eth0 of a host and a port of the router.
func (l *lab) cable(host *space, port string, hostAddrs, portAddrs []string) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(host.fd))
	if err != nil {
		return err
	}
	defer h.Close()
	r, err := netlink.NewHandleAt(netns.NsHandle(l.r.fd))
	if err != nil {
		return err
	}
	defer r.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: port, PeerNamespace: netlink.NsFd(l.r.fd)}); err != nil {
		return fmt.Errorf("veth %s: %w", port, err)
	}
	up := func(h *netlink.Handle, name string, addrs []string) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := h.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("%s on %s: %w", a, name, err)
			}
		}
		return h.LinkSetUp(link)
	}
	if err := up(r, port, portAddrs); err != nil {
		return err
	}
	if err := up(h, "eth0", hostAddrs); err != nil {
		return err
	}
	return up(h, "lo", nil)
}

// filter is a set of nftables rules on what the router receives on a port.
type filter struct {
	c     *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
	t     testing.TB
}

// drop makes the router drop what comes in by a port and matches.
func (l *lab) drop(port string, match ...expr.Any) *filter {
	l.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(l.r.fd))
	if err != nil {
		l.t.Fatal(err)
	}
	f := &filter{c: c, t: l.t}
	f.table = c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "drop_" + port})
	f.chain = c.AddChain(&nftables.Chain{
		Name: "in", Table: f.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(port), make([]byte, 16-len(port))...)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
	}
	exprs = append(exprs, match...)
	exprs = append(exprs, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
	c.AddRule(&nftables.Rule{Table: f.table, Chain: f.chain, Exprs: exprs})
	if err := c.Flush(); err != nil {
		l.t.Fatalf("nftables: %v", err)
	}
	return f
}

// dropped is how many packets the filter dropped.
func (f *filter) dropped() uint64 {
	f.t.Helper()
	rules, err := f.c.GetRules(f.table, f.chain)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if c, ok := e.(*expr.Counter); ok {
				return c.Packets
			}
		}
	}
	f.t.Fatal("no counter in the rule")
	return 0
}

func (f *filter) remove() {
	f.t.Helper()
	f.c.DelTable(f.table)
	if err := f.c.Flush(); err != nil {
		f.t.Fatalf("nftables: %v", err)
	}
}

// longerThan matches IP packets with more than n bytes.
func longerThan(n uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyLEN, Register: 1},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, n)},
	}
}

// nth matches the nth of each thousand packets, counted from 0.
func nth(n uint32) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: 1000, Type: unix.NFT_NG_INCREMENTAL},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, n)},
	}
}

// permille matches n of a thousand packets, at random.
func permille(n uint32) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: 1000, Type: unix.NFT_NG_RANDOM},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, n)},
	}
}

// listen listens in b, on any of its addresses.
func (l *lab) listen() *net.TCPListener {
	l.t.Helper()
	var ln net.Listener
	if err := l.b.do(func() (err error) {
		ln, err = net.Listen("tcp", ":0")
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// dial connects from a. A dual-stack socket speaks IPv4 with mapped addresses.
func (l *lab) dial(to string, port int, dual bool, timeout time.Duration) (*net.TCPConn, error) {
	l.t.Helper()
	var c net.Conn
	err := l.a.do(func() (err error) {
		if dual {
			c, err = dialDual(to, port)
			return err
		}
		c, err = net.DialTimeout("tcp", net.JoinHostPort(to, strconv.Itoa(port)), timeout)
		return err
	})
	if err != nil {
		return nil, err
	}
	l.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn), nil
}

// dialDual connects an IPv6 socket to ::ffff:to.
func dialDual(to string, port int) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
		return nil, err
	}
	mapped := netip.AddrFrom16(netip.MustParseAddr(to).As16())
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: port, Addr: mapped.As16()}); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	f := os.NewFile(uintptr(fd), "dual")
	defer f.Close()
	return net.FileConn(f)
}

// pair is an established connection from a to b.
type pair struct{ client, server *net.TCPConn }

func (l *lab) connect(to string, dual bool) pair {
	l.t.Helper()
	ln := l.listen()
	type accepted struct {
		c   *net.TCPConn
		err error
	}
	got := make(chan accepted, 1)
	go func() {
		c, err := ln.AcceptTCP()
		got <- accepted{c, err}
	}()
	client, err := l.dial(to, ln.Addr().(*net.TCPAddr).Port, dual, 5*time.Second)
	if err != nil {
		l.t.Fatal(err)
	}
	s := <-got
	if s.err != nil {
		l.t.Fatal(s.err)
	}
	l.t.Cleanup(func() { s.c.Close() })
	return pair{client, s.c}
}

// flow is the five-tuple of what the client sends.
func (p pair) flow() packet.Flow {
	unmap := func(a net.Addr) netip.AddrPort {
		ap := a.(*net.TCPAddr).AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return packet.Flow{Src: unmap(p.client.LocalAddr()), Dst: unmap(p.client.RemoteAddr()), Proto: packet.TCP}
}

// cookie is the kernel's name of the client's socket.
func (p pair) cookie(t *testing.T) uint64 {
	t.Helper()
	raw, err := p.client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var cookie uint64
	if cerr := raw.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	}); cerr != nil {
		t.Fatal(cerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

// dropTCP makes the namespace's own packet filter drop all TCP at a hook, until
// what it returns is called.
func (s *space) dropTCP(t *testing.T, hook *nftables.ChainHook) (remove func()) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(s.fd))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "own"})
	chain := c.AddChain(&nftables.Chain{
		Name: "own", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: hook, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

// retransSegs is TcpRetransSegs of a namespace, the kernel's own count.
func (s *space) retransSegs(t testing.TB) uint64 {
	t.Helper()
	var n uint64
	err := s.do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(b)) {
			fields := strings.Fields(line)
			if len(fields) == 0 || fields[0] != "Tcp:" {
				continue
			}
			if names == nil {
				names = fields
				continue
			}
			for i, name := range names {
				if name == "RetransSegs" {
					n, err = strconv.ParseUint(fields[i], 10, 64)
					return err
				}
			}
		}
		return errors.New("no RetransSegs in /proc/net/snmp")
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// watch runs an agent on a namespace until the test ends.
func (l *lab) watch(s *space, t PathTracer) (*recorder, *Agent) {
	l.t.Helper()
	rec, a, stop := l.watchWith(s, t, func(*Config) {})
	l.t.Cleanup(stop)
	return rec, a
}

// watchWith runs an agent with a configuration of its own until stop, which is
// called once.
func (l *lab) watchWith(s *space, t PathTracer, change func(*Config)) (_ *recorder, _ *Agent, stop func()) {
	l.t.Helper()
	rec := newRecorder()
	cfg := DefaultConfig()
	cfg.Name, cfg.Site, cfg.Source = "a", "lab", sourceBTF
	change(&cfg)
	a := New(cfg, Deps{Publisher: rec, Tracer: t, Topology: l.topo, NetNS: s.file(), Version: "test"})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	select {
	case <-a.Attached():
	case err := <-done:
		cancel()
		l.t.Fatal(err)
	}
	return rec, a, func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	}
}

// read reads exactly n bytes.
func read(c *net.TCPConn, n int) error {
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := io.CopyN(io.Discard, c, int64(n))
	return err
}

// until polls a condition that nothing announces.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("timeout: %s", what)
		}
		<-tick.C
	}
}

// watchAll runs an agent on all network namespaces of the machine.
func (l *lab) watchAll(t *testing.T) *recorder {
	t.Helper()
	rec, _, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) { c.Namespaces = []string{allNamespaces} })
	t.Cleanup(stop)
	return rec
}

func kernelTypes(t *testing.T) *btf.Spec {
	t.Helper()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// fsPermission is how the kernel refuses.
var fsPermission error = unix.EPERM

// linkTo makes a name for the file of a namespace.
func linkTo(t *testing.T, file, name string) {
	t.Helper()
	if err := os.Symlink(file, name); err != nil {
		t.Fatal(err)
	}
}

// comm is the name of this process.
func comm(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
