package device

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"decaf/api/packet"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/vishvananda/netlink"
)

// What the rules of the firewall and a queue count is at the paths of OpenConfig, as
// they count it: packets and octets.
func TestStandardCountersOverGNMI(t *testing.T) {
	l := newLab(t)
	l.withoutIPv6()
	c, err := nftables.New(nftables.WithNetNSFd(int(l.r.ns)))
	l.r.must("nftables", err)
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "filter"})
	chain := c.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(toPort(23), &expr.Verdict{Kind: expr.VerdictContinue})}) // counts nothing
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(toPort(23), &expr.Counter{}, logged(12, "no-telnet"), dropped)})
	l.r.must("nftables rules", c.Flush())
	const rate = 8000 // bytes a second
	l.r.must("queue", l.r.nl.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.r.link("eth2").Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Limit: 3000, Buffer: netlink.Xmittime(rate, 1600),
	}))
	cfg := testConfig()
	cfg.Counters.Interval = minInterval
	a := startAgent(t, l.r, cfg)
	client := dial(t, l.r, a, nil)

	const telnets, size = 6, 300
	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	for i := range uint16(telnets) {
		p := packet.Probe{Flow: packet.Flow{Src: addrPort("10.0.1.2:40000"), Dst: addrPort("10.0.2.2:23"), Proto: packet.TCP}, TTL: 9, ID: i + 1}
		b, err := p.Marshal(nil)
		l.h1.must("probe", err)
		l.h1.sendRaw(b)
	}
	l.h1.sendFrames("eth0", 3000, func(i int) []byte { return f.udp4("10.0.1.2", "10.0.2.2", 9, size, uint16(i), nil, nil) })

	get := func(elems ...*gnmipb.PathElem) map[string]string {
		t.Helper()
		r, err := client.Get(t.Context(), &gnmipb.GetRequest{Encoding: gnmipb.Encoding_JSON_IETF, Path: []*gnmipb.Path{{Elem: elems}}})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(r.GetNotification()[0].GetUpdate()[0].GetVal().GetJsonIetfVal(), &got); err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for k, v := range got {
			if s, ok := v.(string); ok {
				out[k] = s
			}
		}
		return out
	}
	elem := func(name string, keys ...string) *gnmipb.PathElem {
		e := &gnmipb.PathElem{Name: name}
		for i := 0; i < len(keys); i += 2 {
			if e.Key == nil {
				e.Key = map[string]string{}
			}
			e.Key[keys[i]] = keys[i+1]
		}
		return e
	}
	value := func(m map[string]string, module, leaf string) string {
		if v, ok := m[module+":"+leaf]; ok {
			return v
		}
		return m[leaf]
	}
	queueDrops := func() uint64 {
		list, err := l.r.nl.QdiscList(l.r.link("eth2"))
		l.r.must("queue", err)
		return uint64(list[0].Attrs().Statistics.Queue.Drops)
	}
	queue := func() (pkts, octets string) {
		m := get(elem("qos"), elem("interfaces"), elem("interface", "interface-id", "eth2"), elem("output"), elem("queues"), elem("queue", "name", "tbf-1:"), elem("state"))
		return value(m, "openconfig-qos", "dropped-pkts"), value(m, "openconfig-qos", "dropped-octets")
	}
	within(10*time.Second, func() bool {
		n := queueDrops()
		pkts, octets := queue()
		return n > 1000 && pkts == decimal(n) && octets == decimal(n*size)
	})
	n := queueDrops()
	if pkts, octets := queue(); n < 1000 || pkts != decimal(n) || octets != decimal(n*size) {
		t.Errorf("the queue dropped %d packets of %d bytes; told of %s, and of %s octets", n, size, pkts, octets)
	}

	rules, err := c.GetRules(table, chain)
	l.r.must("read nftables", err)
	truth := ruleCount(t, rules[1])
	set := []*gnmipb.PathElem{elem("acl"), elem("acl-sets"), elem("acl-set", "name", "inet filter forward", "type", "ACL_MIXED")}
	entry := func() map[string]string {
		return get(append(set[:3:3], elem("acl-entries"), elem("acl-entry", "sequence-id", "2"), elem("state"))...)
	}
	if truth.Packets != telnets {
		t.Fatalf("nftables counts %+v", truth)
	}
	within(10*time.Second, func() bool { return value(entry(), "openconfig-acl", "matched-packets") == decimal(truth.Packets) })
	e := entry()
	if p, o := value(e, "openconfig-acl", "matched-packets"), value(e, "openconfig-acl", "matched-octets"); p != decimal(truth.Packets) || o != decimal(truth.Bytes) {
		t.Errorf("the rule matched %d packets, %d bytes; told of %s and %s: %v", truth.Packets, truth.Bytes, p, o, e)
	}
	if d := value(e, "openconfig-acl", "description"); d == "" || d[len(d)-len("no-telnet"):] != "no-telnet" {
		t.Errorf("description %q", d)
	}
	if s := get(append(set[:3:3], elem("state"))...); value(s, "openconfig-acl", "type") != "openconfig-acl:ACL_MIXED" {
		t.Errorf("state %v", s)
	}
	// A rule without a counter has none to tell of.
	if _, err := client.Get(t.Context(), &gnmipb.GetRequest{Encoding: gnmipb.Encoding_JSON_IETF, Path: []*gnmipb.Path{{
		Elem: append(set[:3:3], elem("acl-entries"), elem("acl-entry", "sequence-id", "1"), elem("state"), elem("matched-packets"))}}}); err == nil {
		t.Error("the rule without a counter counts")
	}
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
