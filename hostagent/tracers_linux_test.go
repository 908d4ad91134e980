package hostagent

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/tracer"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// tracersFor are real tracers as an agent in a has them that watches other
// namespaces as well, with distances of the test's choice.
func (l *lab) tracersFor(t *testing.T, far tracer.Distance, names ...string) *tracers {
	t.Helper()
	cfg, err := DefaultConfig().Trace.tracer()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Rate, cfg.Burst = 1e6, 1e6
	var tr *tracers
	if err := l.a.do(func() (err error) {
		tr, err = newTracers(cfg, far, names, testLog(t))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- tr.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return tr
}

// A flow of another network namespace that is watched is traced from there, in
// IPv4 and IPv6, and the namespace is let go when nothing is traced any more.
func TestFlowsAreTracedFromTheirNamespace(t *testing.T) {
	l := newLab(t)
	names := []string{l.b.file()}
	tr := l.tracersFor(t, distances(l.topo), names...)
	rec, _, stop := l.watchWith(l.a, tr, func(c *Config) { c.Namespaces = names })
	defer stop()
	for _, c := range []struct{ to, hop string }{{addrB, "10.2.0.254"}, {addrB6, "fd00:2::fe"}} {
		p := l.connect(c.to, false)
		f := l.drop("eth2", longerThan(80)...) // the data, not the probes
		if _, err := p.server.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		r := rec.wait(t, "a retransmit of b", ofFlow(p.flow().Reverse(), kindTLP, kindRTO))
		f.remove()
		wantHop(t, r.GetPath(), c.hop) // the router as b sees it
	}
	if n := tr.Counters()[countSpaceTracers]; n != 1 {
		t.Errorf("%d other namespaces are traced from, want b", n)
	}
	traces := tr.Counters()["traces"]
	tr.sweep(time.Now().Add(tr.idle))
	if c := tr.Counters(); c[countSpaceTracers] != 0 || c["traces"] != traces || traces < 2 {
		t.Errorf("after a while without traces %v, want b let go and %d traces still counted", c, traces)
	}
	wantHop(t, tr.DoIn(t.Context(), l.b.inum, fromB), "10.2.0.254") // and taken up again
}

// fromB is a flow that b might send.
var fromB = tracer.Request{
	Flow:  packet.Flow{Src: netip.MustParseAddrPort(addrB + ":1"), Dst: netip.MustParseAddrPort(addrA + ":2"), Proto: packet.TCP},
	Epoch: 1,
}

// wantHop wants a complete path of one switch.
func wantHop(t *testing.T, p *decafpb.Path, hop string) {
	t.Helper()
	if p.GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE || len(p.GetHops()) != 1 {
		t.Errorf("path %v, want the answer of %s", p, hop)
		return
	}
	if got, _ := netip.AddrFromSlice(p.GetHops()[0].GetAddress()); got != netip.MustParseAddr(hop) {
		t.Errorf("hop %v, want %s", got, hop)
	}
}

// With all namespaces watched, one is found by its processes, also when it is
// newer than the last look at these.
func TestAllNamespacesAreTracedFrom(t *testing.T) {
	l := newLab(t)
	tr := l.tracersFor(t, distances(l.topo), allNamespaces)
	tr.spaces.files() // the look
	tr.spaces.at = tr.spaces.at.Add(-2 * time.Second)
	processIn(t, l.b)
	wantHop(t, tr.DoIn(t.Context(), l.b.inum, fromB), "10.2.0.254")
}

// A namespace that is gone, or not among those watched, is traced from by nobody,
// and that is said and counted.
func TestNamespaceThatIsGone(t *testing.T) {
	l := newLab(t)
	tr := l.tracersFor(t, distances(l.topo), "nowhere")
	p := tr.DoIn(t.Context(), l.b.inum, fromB)
	if p.GetStatus() != decafpb.PathStatus_PATH_STATUS_SKIPPED || !strings.Contains(p.GetWhy(), "not to be found") {
		t.Errorf("path %v, want none, and why", p)
	}
	if c := tr.Counters(); c[countSpaceMissed] != 1 || c[countSpaceTracers] != 0 {
		t.Errorf("counters %v", c)
	}
}

// What a container sends through this host's NAT is traced as what it becomes:
// from here its path begins at the first switch.
func TestContainersBehindNATAreTracedAsTranslated(t *testing.T) {
	l := newLab(t)
	c := l.container(t)
	tr := l.tracersFor(t, distances(l.topo), c.file())
	rec, _, stop := l.watchWith(l.a, tr, func(cfg *Config) { cfg.Namespaces = []string{c.file()} })
	defer stop()
	ln := l.listen()
	var conn net.Conn
	if err := c.do(func() (err error) {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(addrB, portOf(ln)), 5*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f := l.drop("eth1", longerThan(80)...)
	defer f.remove()
	if _, err := conn.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	flow := pair{client: conn.(*net.TCPConn)}.flow()
	path := rec.wait(t, "a retransmit of the container", ofFlow(flow, kindTLP, kindRTO)).GetPath()
	probed, err := packet.FlowFromPB(path.GetProbed())
	if err != nil || probed.Src.Addr() != netip.MustParseAddr(addrA) || probed.Dst != flow.Dst {
		t.Fatalf("path %v, want probes with this host's address", path)
	}
	wantHop(t, path, "10.1.0.254") // the container sees this host first
}

// container is a namespace behind a, which translates what comes from there.
func (l *lab) container(t *testing.T) *space {
	t.Helper()
	c := newSpace(t)
	h, err := netlink.NewHandleAt(netns.NsHandle(l.a.fd))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "veth0"
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(c.fd)}); err != nil {
		t.Fatal(err)
	}
	in, err := netlink.NewHandleAt(netns.NsHandle(c.fd))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, end := range []struct {
		h          *netlink.Handle
		name, addr string
	}{{h, "veth0", "172.17.0.1/24"}, {in, "eth0", "172.17.0.2/24"}} {
		link, err := end.h.LinkByName(end.name)
		if err != nil {
			t.Fatal(err)
		}
		addr, err := netlink.ParseAddr(end.addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := end.h.AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
		if err := end.h.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.RouteAdd(&netlink.Route{Gw: net.ParseIP("172.17.0.1")}); err != nil {
		t.Fatal(err)
	}
	nft, err := nftables.New(nftables.WithNetNSFd(l.a.fd))
	if err != nil {
		t.Fatal(err)
	}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"})
	chain := nft.AddChain(&nftables.Chain{
		Name: "out", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("eth0"), make([]byte, 12)...)},
		&expr.Masq{},
	}})
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	return c
}

// portOf is a listener's.
func portOf(ln net.Listener) string {
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// processIn starts a process in a namespace, which ends with the test.
func processIn(t *testing.T, s *space) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var p *os.Process
	if err := s.do(func() (err error) {
		p, err = os.StartProcess("/bin/cat", []string{"cat"}, &os.ProcAttr{Files: []*os.File{r, os.Stdout, os.Stderr}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close() // its end of file
		if _, err := p.Wait(); err != nil {
			t.Error(err)
		}
	})
}
