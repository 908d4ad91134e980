package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"

	"decaf/sim/scenario"
	"decaf/topology"
)

// TrafficPort is where the hosts' traffic servers listen.
const TrafficPort = 5201

// Target is a server that a host's connections may go to.
type Target struct {
	Addr   netip.AddrPort
	Weight float64 // its part of the connections, against the sum of all
}

// Targets gives the servers that a host's connections go to under a traffic
// pattern, with their shares; they sum up to 1. Each address of a host is a server,
// all as likely. The seed draws the ToRs of the pattern skew: all hosts of one run
// are given the same.
//
//   - uniform: any other host.
//   - skew(share, part): share of the connections go to the hosts of part of the
//     ToRs.
//   - hot(tor, share): share of the connections go to the hosts of one ToR.
//
// A share whose hosts are none but the sender goes to the others.
func Targets(t *topology.Topology, p scenario.Pattern, host string, seed uint64) ([]Target, error) {
	if _, ok := t.Host(host); !ok {
		return nil, fmt.Errorf("no host %q in the topology", host)
	}
	share := p.Share
	hot := make(map[string]bool) // ToRs
	switch p.Kind {
	case "uniform", "":
		share = 0
	case "skew":
		tors := torsOf(t)
		rng := rand.New(rand.NewPCG(seed, 0x5e3))
		rng.Shuffle(len(tors), func(i, j int) { tors[i], tors[j] = tors[j], tors[i] })
		n := int(math.Ceil(p.ToRs*float64(len(tors)) - 1e-9)) // 0.1 of 10 is 1
		for _, tor := range tors[:min(max(n, 0), len(tors))] {
			hot[tor] = true
		}
	case "hot":
		if !slices.Contains(torsOf(t), p.ToR) {
			return nil, fmt.Errorf("pattern %s: no host is attached to %q", p, p.ToR)
		}
		hot[p.ToR] = true
	default:
		return nil, fmt.Errorf("pattern %q is not known; use uniform, skew or hot", p.Kind)
	}
	var chosen, others []*topology.Host
	for _, h := range t.Hosts {
		if h.Name == host || len(h.Addresses) == 0 {
			continue
		}
		if slices.ContainsFunc(t.LinksFrom(h.Name), func(l *topology.Link) bool { return hot[l.To.Node] }) {
			chosen = append(chosen, h)
		} else {
			others = append(others, h)
		}
	}
	switch {
	case len(chosen)+len(others) == 0:
		return nil, fmt.Errorf("host %s has no other host to talk to", host)
	case len(hot) == 0 || len(chosen) == 0:
		share = 0
	case len(others) == 0:
		share = 1
	}
	var all []Target
	add := func(hosts []*topology.Host, share float64) {
		for _, h := range hosts {
			for _, a := range h.Addresses {
				weight := share / float64(len(hosts)) / float64(len(h.Addresses))
				all = append(all, Target{Addr: netip.AddrPortFrom(a, TrafficPort), Weight: weight})
			}
		}
	}
	add(chosen, share)
	add(others, 1-share)
	return all, nil
}

// torsOf gives the devices that hosts are attached to, in the order of the file.
func torsOf(t *topology.Topology) []string {
	var tors []string
	for _, h := range t.Hosts {
		for _, l := range t.LinksFrom(h.Name) {
			if !slices.Contains(tors, l.To.Node) {
				tors = append(tors, l.To.Node)
			}
		}
	}
	return tors
}

// TrafficArgs gives the arguments of "decaf sim traffic" for one host, to be run
// in its namespace. The same seed for all hosts of a run; each draws its own
// connections from it.
func TrafficArgs(t *topology.Topology, traffic scenario.Traffic, host string, seed uint64) ([]string, error) {
	targets, err := Targets(t, traffic.Pattern, host, seed)
	if err != nil {
		return nil, fmt.Errorf("traffic of %s: %w", host, err)
	}
	h, _ := t.Host(host)
	if len(h.Addresses) == 0 {
		return nil, fmt.Errorf("traffic of %s: the host has no address", host)
	}
	args := []string{
		"--rate", strconv.FormatFloat(traffic.ConnectionsPerHost, 'g', -1, 64),
		"--packets-min", strconv.Itoa(traffic.PacketsMin),
		"--packets-max", strconv.Itoa(traffic.PacketsMax),
		"--seed", strconv.FormatUint(seed^uint64(hashSeed(0, host)), 10),
	}
	for _, a := range h.Addresses {
		args = append(args, "--listen", netip.AddrPortFrom(a, TrafficPort).String())
	}
	for _, g := range targets {
		if g.Weight > 0 {
			args = append(args, "--target", g.Addr.String()+"="+strconv.FormatFloat(g.Weight, 'g', -1, 64))
		}
	}
	return args, nil
}
