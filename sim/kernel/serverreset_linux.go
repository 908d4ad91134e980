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
	var rules [][]expr.Any
	for _, v := range f.versions {
		src, some := v.only(g.src)
		to, any := v.only(own)
		if !some || !any {
			continue
		}
		for _, match := range matches(src, to, g.port) {
			rules = append(rules, slices.Concat(match, g.reset(v)))
		}
	}
	t, err := newFilter(n.space, nftables.ChainHookInput, nftables.ChainPriorityFilter, rules)
	if err != nil {
		return nil, err
	}
	return &filtered{t}, nil
}

// reset answers packets with data, or those of a share of connections.
func (g *target) reset(v version) []expr.Any {
	longest := byte(60) // a TCP header with all options
	if v == ipv4 {
		longest += 20 // the length is with the IP header
	}
	all := slices.Concat(ofProtocol(unix.IPPROTO_TCP), []expr.Any{
		lengthField.load(v, 1),
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: []byte{0, longest}},
	})
	if !g.all {
		// The address and both ports, one after the other in registers of 4 bytes.
		n := source[v].length
		all = append(all,
			source.load(v, unix.NFT_REG32_00),
			&expr.Payload{DestRegister: unix.NFT_REG32_00 + n/4, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 4},
			&expr.Hash{SourceRegister: unix.NFT_REG32_00, Length: n + 4, DestRegister: 1, Modulus: 1<<32 - 1, Seed: rand.Uint32(), Type: expr.HashTypeJenkins},
		)
		all = append(all, below(g.below)...)
	}
	return append(all, count, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
}
