package scenario

import (
	"fmt"
	"slices"
	"strings"

	"decaf/topology"
	"decaf/topology/strictyaml"
)

// A component yet to be drawn is written
//
//	random link                      any link, host links too
//	random fabric link               between two switches
//	random host link                 between a host and its switch
//	random tor>t1 link               from one tier to another
//	random device, random host       any device, any host
//	random t2                        a device of that tier
//	random t2 or t1                  several are joined by or: the draw is even
//	random tor>t1 or t1>t2 link      over all components that fit

// IsRandom says whether a component is yet to be drawn.
func IsRandom(on string) bool {
	word, _, _ := strings.Cut(strings.TrimSpace(on), " ")
	return word == "random"
}

// candidates gives every component that a random one may become, as "link a>b",
// "device d" or "host h", in the topology's order.
func candidates(t *topology.Topology, on string) ([]string, error) {
	words := strings.Fields(on)
	if len(words) == 0 || words[0] != "random" {
		return nil, fmt.Errorf("%q is not random", on)
	}
	words = words[1:]
	if len(words) == 0 {
		return nil, fmt.Errorf("random what? write random link, random fabric link, random device, random t2, …")
	}
	links := words[len(words)-1] == "link"
	if links {
		words = words[:len(words)-1]
	}
	selectors, err := splitOr(words)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", on, err)
	}
	var all []string
	if links {
		all, err = linkCandidates(t, selectors)
	} else {
		all, err = nodeCandidates(t, selectors)
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w", on, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%q: the fabric has none", on)
	}
	return all, nil
}

// splitOr takes "a or b or c" apart.
func splitOr(words []string) ([]string, error) {
	var out []string
	for i, w := range words {
		if or := w == "or"; or != (i%2 == 1) || or && i == len(words)-1 {
			return nil, fmt.Errorf("join alternatives by or, as in random t2 or t1")
		}
		if i%2 == 0 {
			out = append(out, w)
		}
	}
	return out, nil
}

func tierNames(t *topology.Topology) []string {
	var names []string
	for _, d := range t.Devices {
		if d.Tier != "" && !slices.Contains(names, d.Tier) {
			names = append(names, d.Tier)
		}
	}
	return names
}

func unknownWord(word string, known []string) error {
	if near := strictyaml.Nearest(word, known); near != "" {
		return fmt.Errorf("%q is not known here; did you mean %q?", word, near)
	}
	return fmt.Errorf("%q is not known here; known: %s", word, strings.Join(known, ", "))
}

func linkCandidates(t *topology.Topology, selectors []string) ([]string, error) {
	tiers := append(tierNames(t), "host")
	tierOf := func(node string) string {
		if d, ok := t.Device(node); ok {
			return d.Tier
		}
		return "host"
	}
	var fits []func(*topology.Link) bool
	if len(selectors) == 0 {
		fits = append(fits, func(*topology.Link) bool { return true })
	}
	for _, s := range selectors {
		from, to, pair := strings.Cut(s, ">")
		switch {
		case s == "fabric" || s == "host":
			fits = append(fits, func(l *topology.Link) bool {
				_, ends := t.HostLink(l)
				return ends == (s == "host")
			})
		case pair:
			for _, tier := range []string{from, to} {
				if !slices.Contains(tiers, tier) {
					return nil, unknownWord(tier, tiers)
				}
			}
			fits = append(fits, func(l *topology.Link) bool {
				return tierOf(l.From.Node) == from && tierOf(l.To.Node) == to
			})
		default:
			return nil, unknownWord(s, []string{"fabric", "host", "tor>t1"})
		}
	}
	var all []string
	for _, l := range t.Links {
		if slices.ContainsFunc(fits, func(fit func(*topology.Link) bool) bool { return fit(l) }) {
			all = append(all, "link "+l.Name)
		}
	}
	return all, nil
}

func nodeCandidates(t *topology.Topology, selectors []string) ([]string, error) {
	tiers := tierNames(t)
	for _, s := range selectors {
		if s != "device" && s != "host" && !slices.Contains(tiers, s) {
			return nil, unknownWord(s, append(tiers, "device", "host", "link"))
		}
	}
	var all []string
	for _, d := range t.Devices {
		if slices.Contains(selectors, "device") || d.Tier != "" && slices.Contains(selectors, d.Tier) {
			all = append(all, "device "+d.Name)
		}
	}
	if slices.Contains(selectors, "host") {
		for _, h := range t.Hosts {
			all = append(all, "host "+h.Name)
		}
	}
	return all, nil
}
