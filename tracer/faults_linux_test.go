package tracer

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"decaf/api/packet"
)

// Faults of the fan, as rules of nftables in one node's namespace.

// rule adds one rule at a hook of a node.
func (f *fan) rule(node string, hook *nftables.ChainHook, exprs ...expr.Any) {
	f.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(f.nodes[node])))
	if err != nil {
		f.t.Fatalf("%s: nftables: %v", node, err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "fault"})
	chain := c.AddChain(&nftables.Chain{Name: node, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	if err := c.Flush(); err != nil {
		f.t.Fatalf("%s: nftables: %v", node, err)
	}
}

// repair takes all rules of a node away.
func (f *fan) repair(node string) {
	f.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(f.nodes[node])))
	if err != nil {
		f.t.Fatalf("%s: nftables: %v", node, err)
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "fault"})
	if err := c.Flush(); err != nil {
		f.t.Fatalf("%s: nftables: %v", node, err)
	}
}

func drop() expr.Any { return &expr.Verdict{Kind: expr.VerdictDrop} }

// protocol matches packets of a transport, of both IP versions.
func protocol(p uint8) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}},
	}
}

// everySecond drops every second TCP packet that a node forwards.
func (f *fan) everySecond(node string) {
	f.t.Helper()
	f.rule(node, nftables.ChainHookForward, append(protocol(packet.TCP),
		&expr.Numgen{Register: 1, Modulus: 2, Type: unix.NFT_NG_INCREMENTAL},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 0, 0, 0}},
		drop())...)
}

// blackhole drops all TCP packets that a node forwards.
func (f *fan) blackhole(node string) {
	f.t.Helper()
	f.rule(node, nftables.ChainHookForward, append(protocol(packet.TCP), drop())...)
}

// answersAtMost lets a node send as many ICMP packets as burst says, and then one an
// hour.
func (f *fan) answersAtMost(node string, icmp uint8, burst uint32) {
	f.t.Helper()
	f.rule(node, nftables.ChainHookOutput, append(protocol(icmp),
		&expr.Limit{Type: expr.LimitTypePkts, Rate: 1, Unit: expr.LimitTimeHour, Burst: burst, Over: true},
		drop())...)
}
