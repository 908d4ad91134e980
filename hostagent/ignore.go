package hostagent

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
)

// ignored keeps the networks whose flows are no evidence: those configured and
// those of the interfaces named, whose addresses may change.
type ignored struct {
	interfaces []string
	networks   []netip.Prefix
	log        *slog.Logger
	silent     map[string]bool // interfaces already said to be missing
}

func newIgnored(interfaces []string, networks []netip.Prefix, log *slog.Logger) *ignored {
	return &ignored{interfaces: interfaces, networks: networks, log: log, silent: map[string]bool{}}
}

// refresh returns the networks in force now.
func (g *ignored) refresh() *[]netip.Prefix {
	out := slices.Clone(g.networks)
	for _, name := range g.interfaces {
		prefixes, err := networksOf(name)
		if err != nil {
			if !g.silent[name] {
				g.log.Warn("cannot ignore the flows of an interface until it is there", "interface", name, "err", err)
			}
			g.silent[name] = true
			continue
		}
		g.silent[name] = false
		out = append(out, prefixes...)
	}
	return &out
}

// networksOf returns the networks an interface has addresses in.
func networksOf(name string) ([]netip.Prefix, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	addrs, err := i.Addrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out, nil
}
