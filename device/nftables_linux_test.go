package device

import (
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// nftRule adds a rule to a chain of its own in a node's packet filter. It returns what
// reads how many packets it counted, for one that counts.
func (n *node) nftRule(family nftables.TableFamily, chain nftables.Chain, exprs ...expr.Any) func() uint64 {
	n.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(n.ns)))
	n.must("nftables", err)
	chain.Table = c.AddTable(&nftables.Table{Family: family, Name: "test"})
	chain.Type, chain.Priority = nftables.ChainTypeFilter, nftables.ChainPriorityFilter
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: c.AddChain(&chain), Exprs: exprs})
	n.must("nftables rule", c.Flush())
	return func() uint64 {
		n.t.Helper()
		rules, err := c.GetRules(chain.Table, &chain)
		n.must("read nftables", err)
		return ruleCount(n.t, rules[0]).Packets
	}
}

// ruleCount is what a rule that counts has counted.
func ruleCount(t testing.TB, rule *nftables.Rule) *expr.Counter {
	t.Helper()
	for _, e := range rule.Exprs {
		if e, ok := e.(*expr.Counter); ok {
			return e
		}
	}
	t.Fatal("no counter in the rule")
	return nil
}

// portRule says what becomes of packets to a port at a hook, of both families.
func (n *node) portRule(hook *nftables.ChainHook, port uint16, then ...expr.Any) func() uint64 {
	n.t.Helper()
	return n.nftRule(nftables.TableFamilyINet, nftables.Chain{Name: "port" + decimal(uint64(port)), Hooknum: hook}, append(toPort(port), then...)...)
}

// nftCount makes the node count packets to a destination at a hook, and drop them if
// told to.
func (n *node) nftCount(hook *nftables.ChainHook, dst string, drop bool) func() uint64 {
	n.t.Helper()
	addr := netip.MustParseAddr(dst).As4()
	exprs := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr[:]},
		&expr.Counter{},
	}
	if drop {
		exprs = append(exprs, dropped)
	}
	return n.nftRule(nftables.TableFamilyIPv4, nftables.Chain{Name: "to " + dst, Hooknum: hook}, exprs...)
}

// dropped is what a rule does to packets.
var dropped = &expr.Verdict{Kind: expr.VerdictDrop}

// toPort matches a destination port.
func toPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(port >> 8), byte(port)}},
	}
}

// logged has packets logged to a group.
func logged(group uint16, prefix string) *expr.Log {
	return &expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX, Group: group, Data: []byte(prefix)}
}
