package kernel

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// serverReset answers data that comes to a host with a reset, as a server does whose
// process has died. With a rate it is that share of connections, each for good or not
// at all. Counted are the packets that were answered so; the first window of one
// connection may hold several.
//
// The server's own end of such a connection hears of nothing: it stays until its
// process gives it up.
func (f *Fabric) serverReset(g *target) (effect, error) {
	n, err := f.node(g.host)
	if err != nil {
		return nil, err
	}
	h, _ := f.topology.Host(g.host)
	var own []netip.Prefix // nothing of the management network
	for _, a := range h.Addresses {
		own = append(own, netip.PrefixFrom(a, a.BitLen()))
	}
	const longestHeaders = 20 + 60 // of IP without options and TCP with all
	reset := slices.Concat(ofProtocol(unix.IPPROTO_TCP), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: []byte{0, longestHeaders}},
	})
	if !g.all {
		reset = append(reset,
			&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Payload{DestRegister: unix.NFT_REG32_01, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 4},
			&expr.Hash{SourceRegister: unix.NFT_REG32_00, Length: 8, DestRegister: 1, Modulus: 1<<32 - 1, Seed: rand.Uint32(), Type: expr.HashTypeJenkins},
		)
		reset = append(reset, below(g.below)...)
	}
	reset = append(reset, count, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	var rules [][]expr.Any
	for _, match := range choices(g.src, own, g.port) {
		rules = append(rules, slices.Concat(match, reset))
	}
	t, err := newFilter(n.space, nftables.ChainHookInput, nftables.ChainPriorityFilter, rules)
	if err != nil {
		return nil, err
	}
	return &filtered{t}, nil
}
