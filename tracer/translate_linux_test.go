package tracer

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"decaf/api/packet"
)

// natChain begins a table for NAT in h1's namespace; the caller adds a rule to its
// one chain and flushes.
func (f *fan) natChain(v6 bool, chain nftables.Chain) (c *nftables.Conn, at *nftables.Chain, proto uint32) {
	f.t.Helper()
	family, proto := nftables.TableFamilyIPv4, uint32(unix.NFPROTO_IPV4)
	if v6 {
		family, proto = nftables.TableFamilyIPv6, unix.NFPROTO_IPV6
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(f.nodes["h1"])))
	if err != nil {
		f.t.Fatal(err)
	}
	chain.Table, chain.Type = c.AddTable(&nftables.Table{Family: family, Name: chain.Name}), nftables.ChainTypeNAT
	return c, c.AddChain(&chain), proto
}

// portBytes is a port as it is in packets.
func portBytes(p uint16) []byte { return []byte{byte(p >> 8), byte(p)} }

// translatePorts gives flows that leave h1 other source ports, as NAT does.
func (f *fan) translatePorts(v6 bool, first, last uint16) {
	f.t.Helper()
	c, chain, proto := f.natChain(v6, nftables.Chain{Name: "nat", Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: append(protocol(packet.TCP),
		&expr.Immediate{Register: 1, Data: portBytes(first)},
		&expr.Immediate{Register: 2, Data: portBytes(last)},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: proto, RegProtoMin: 1, RegProtoMax: 2, Specified: true},
	)})
	if err := c.Flush(); err != nil {
		f.t.Fatal(err)
	}
}

// A flow that this host translates is traced by what is on the wire: the spine
// is the one that its packets go over, and the path says the five-tuple.
func TestTranslatedFlows(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		f.serve(v6)
		f.translatePorts(v6, 50000, 60000)
		tr := f.tracerAt("h1", testConfig(), 3)
		if len(tr.translate) == 0 {
			t.Fatal("connection tracking is not asked")
		}
		moved := 0
		for i := range 8 {
			flow := flowOf(v6, uint16(40000+i))
			c := f.dial(flow)
			spine := f.spineOf(t, c)
			p := tr.Trace(t.Context(), flow, 1)
			want(t, p, "complete", "")
			a := addr4
			if v6 {
				a = addr6
			}
			if len(p.GetHops()) == 3 && hopAddr(p.GetHops()[1]) != a(2, spine, 1) {
				t.Errorf("%s: %s, and its packets go over spine %d", flow, hops(p), spine)
			}
			wire, err := packet.FlowFromPB(p.GetProbed())
			if err != nil || wire.Src.Port() < 50000 || wire.Dst != flow.Dst {
				t.Errorf("probed %s, %v", wire, err)
			}
			if wire.Src.Port() != flow.Src.Port() {
				moved++
			}
			c.Close()
		}
		if moved == 0 {
			t.Error("no flow was translated")
		}
		if n := f.snmp("h1", "Tcp", "RetransSegs"); n != 0 {
			t.Logf("%d retransmits", n)
		}
	})
}

// translateDestination sends what h1 opens to an address that nobody has on to h2's,
// as NAT for a service does (kube-proxy and Docker at a host's own output).
func (f *fan) translateDestination(v6 bool, service, to netip.AddrPort) {
	f.t.Helper()
	c, chain, proto := f.natChain(v6, nftables.Chain{Name: "service", Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: append(protocol(packet.TCP),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: portBytes(service.Port())},
		&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: portBytes(to.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: proto, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	)})
	if err := c.Flush(); err != nil {
		f.t.Fatal(err)
	}
}

// A connection to a service's address, which this host turns into a server's, is
// traced to the server, over the spine that its packets take.
func TestFlowsToATranslatedDestination(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		f.serve(v6)
		a := addr4
		if v6 {
			a = addr6
		}
		server := flowOf(v6, 0).Dst
		service := netip.AddrPortFrom(a(9, 9, 9), 80)
		f.translateDestination(v6, service, server)
		tr := f.tracerAt("h1", testConfig(), 3)
		for i := range 4 {
			flow := flowOf(v6, uint16(41000+i))
			flow.Dst = service
			c := f.dial(flow)
			spine := f.spineOf(t, c)
			p := tr.Trace(t.Context(), flow, 1)
			want(t, p, "complete", "")
			if wire, err := packet.FlowFromPB(p.GetProbed()); err != nil || wire.Dst != server || wire.Src != flow.Src {
				t.Errorf("probed %s, %v, want the server %s", wire, err, server)
			}
			if len(p.GetHops()) == 3 && hopAddr(p.GetHops()[1]) != a(2, spine, 1) {
				t.Errorf("%s: %s, and its packets go over spine %d", flow, hops(p), spine)
			}
			c.Close()
		}
	})
}

// What a flow is on the wire is not known: it is not traced, and counted.
func TestUnresolvedFlowsAreNotTraced(t *testing.T) {
	f := newFan(t)
	cfg := testConfig()
	cfg.Translate = Translation{Others: []Translator{rewriter(func(f packet.Flow) (packet.Flow, error) {
		return f, &Unresolved{Reason: ReasonUnknown, Err: errors.New("the balancer does not know the connection")}
	})}}
	tr := f.tracerAt("h1", cfg, 3)
	p := tr.Trace(t.Context(), flowOf(false, 40000), 1)
	want(t, p, "skipped", "the balancer does not know the connection")
	s := tr.Stats()
	if s.Unresolved[slices.Index(Reasons, ReasonUnknown)] != 1 || s.Probes != 0 || s.Counters()["traces_unresolved_unknown"] != 1 {
		t.Errorf("%+v", s)
	}
	if _, _, err := tr.Enumerate(t.Context(), EnumerateRequest{Request: Request{Flow: flowOf(false, 40000)}}); err == nil {
		t.Error("enumerated")
	}
}
