package scenario

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"decaf/topology"
)

// Draw gives a copy in which every random component is drawn by the seed, and
// every mention of a fault is replaced: "fault 0" by the component to blame for
// fault 0, "through fault 0" by a host of a pair whose ECMP set holds that
// component, among the pairs with the largest share of flows through it. The
// same scenario, topology and seed give the same copy. No component is drawn for
// two faults while there is another.
func (s *Scenario) Draw(t *topology.Topology, seed uint64) (*Scenario, error) {
	c := s.clone()
	var taken []string
	for _, f := range c.Faults {
		if !IsRandom(f.On) {
			taken = append(taken, f.On)
		}
	}
	for i := range c.Faults {
		f := &c.Faults[i]
		if !IsRandom(f.On) {
			continue
		}
		all, err := candidates(t, f.On)
		if err != nil {
			return nil, fmt.Errorf("%s: fault %d: %w", s.Name, i, err)
		}
		free := slices.DeleteFunc(slices.Clone(all), func(on string) bool { return slices.Contains(taken, on) })
		if len(free) == 0 {
			free = all
		}
		// A stream of its own for each fault: adding one leaves the others as they were.
		f.On = free[s.stream(seed, "fault", i).IntN(len(free))]
		taken = append(taken, f.On)
	}
	for i := range c.Reports {
		rng := s.stream(seed, "report", i)
		if err := c.drawReport(t, &c.Reports[i], rng); err != nil {
			return nil, fmt.Errorf("%s: report %d: %w", s.Name, i, err)
		}
	}
	for i := range c.Expect.Findings {
		e := &c.Expect.Findings[i]
		var err error
		if e.Component, err = c.blamed(e.Component); err != nil {
			return nil, fmt.Errorf("%s: expected finding %d: %w", s.Name, i, err)
		}
	}
	for i := range c.Expect.Verdicts {
		e := &c.Expect.Verdicts[i]
		var err error
		if e.Component, err = c.blamed(e.Component); err != nil {
			return nil, fmt.Errorf("%s: expected verdict %d: %w", s.Name, i, err)
		}
	}
	return c, nil
}

// blamed replaces "fault N" by the component it stands for; others pass.
func (s *Scenario) blamed(component string) (string, error) {
	n, ok, err := s.faultNumber(component)
	if err != nil || !ok {
		return component, err
	}
	return s.Faults[n].Component(), nil
}

// faultNumber reads "fault N"; ok is false for anything else.
func (s *Scenario) faultNumber(text string) (n int, ok bool, err error) {
	words := strings.Fields(text)
	if len(words) == 0 || words[0] != "fault" {
		return 0, false, nil
	}
	if len(words) != 2 {
		return 0, false, fmt.Errorf("%q: write fault and its number, counted from 0", text)
	}
	n, err = strconv.Atoi(words[1])
	if err != nil || n < 0 {
		return 0, false, fmt.Errorf("%q: write fault and its number, counted from 0", text)
	}
	if n >= len(s.Faults) {
		return 0, false, fmt.Errorf("%q: there are %d faults, counted from 0", text, len(s.Faults))
	}
	return n, true, nil
}

// through reads "through fault N"; ok is false for anything else.
func (s *Scenario) through(end string) (n int, ok bool, err error) {
	words := strings.Fields(end)
	if len(words) == 0 || words[0] != "through" {
		return 0, false, nil
	}
	n, ok, err = s.faultNumber(strings.Join(words[1:], " "))
	if err == nil && !ok {
		err = fmt.Errorf("%q: write through fault and its number", end)
	}
	return n, ok, err
}

// drawReport replaces the ends that go through a fault.
func (s *Scenario) drawReport(t *topology.Topology, r *Report, rng *rand.Rand) error {
	srcFault, srcDrawn, err := s.through(r.Src)
	if err != nil {
		return fmt.Errorf("src: %w", err)
	}
	dstFault, dstDrawn, err := s.through(r.Dst)
	if err != nil {
		return fmt.Errorf("dst: %w", err)
	}
	switch {
	case !srcDrawn && !dstDrawn:
		return nil
	case srcDrawn && dstDrawn && srcFault != dstFault:
		return fmt.Errorf("src goes through fault %d and dst through fault %d: name the same one", srcFault, dstFault)
	}
	fault := srcFault
	if !srcDrawn {
		fault = dstFault
	}
	sources, destinations := hostNames(t), hostNames(t)
	if !srcDrawn {
		h, err := t.ResolveHost(r.Src)
		if err != nil {
			return fmt.Errorf("src: %w", err)
		}
		sources = []string{h.Name}
	}
	if !dstDrawn {
		h, err := t.ResolveHost(r.Dst)
		if err != nil {
			return fmt.Errorf("dst: %w", err)
		}
		destinations = []string{h.Name}
	}
	pairs := pairsThrough(t, s.Faults[fault], sources, destinations)
	if len(pairs) == 0 {
		return fmt.Errorf("no path between the hosts goes through %s", s.Faults[fault].Component())
	}
	pair := pairs[rng.IntN(len(pairs))]
	if srcDrawn {
		r.Src = pair[0]
	}
	if dstDrawn {
		r.Dst = pair[1]
	}
	return nil
}

func hostNames(t *topology.Topology) []string {
	names := make([]string, len(t.Hosts))
	for i, h := range t.Hosts {
		names[i] = h.Name
	}
	return names
}

// How many pairs of hosts are looked at: enough, once some are found, and at most.
const (
	enoughPairs = 1 << 15
	mostPairs   = 1 << 21
)

// pairsThrough gives the pairs with the largest share of flows through the
// fault's component. In a fabric of many hosts it looks at a spread of the pairs.
func pairsThrough(t *topology.Topology, f Fault, sources, destinations []string) (best [][2]string) {
	var share float64
	n := len(sources) * len(destinations)
	// A prime step, coprime to n, visits every pair once and in no order that
	// follows the fabric's.
	const step = 1_000_000_007
	for k, i := 0, 0; k < n && k < mostPairs; k, i = k+1, (i+step)%n {
		if k >= enoughPairs && len(best) > 0 {
			break
		}
		src, dst := sources[i/len(destinations)], destinations[i%len(destinations)]
		// Shares are sums of fractions: compare with room for their rounding.
		switch got := shareThrough(t, f, src, dst); {
		case got <= 0 || got < share-1e-9:
		case got > share+1e-9:
			best, share = append(best[:0], [2]string{src, dst}), got
		default:
			best = append(best, [2]string{src, dst})
		}
	}
	return best
}

// shareThrough is the share of a pair's flows that the component can hurt: for a
// link or device, those that cross it on the way from src to dst; for a host,
// all where it is the end that the fault kind blames.
func shareThrough(t *topology.Topology, f Fault, src, dst string) float64 {
	kind, name, ok := SplitComponent(f.Component())
	if !ok || src == dst {
		return 0
	}
	if kind == "host" {
		end := dst
		if f.Kind == "host-slow" {
			end = src
		}
		if end == name {
			return 1
		}
		return 0
	}
	var share float64
	for _, s := range t.Shares(src, dst) {
		if kind == "link" && s.Link.Name == name || kind == "device" && s.Link.To.Node == name {
			share += s.Share
		}
	}
	return share
}

// stream gives the random numbers of one thing to draw. All that names it goes
// through a hash: neighbouring seeds of a bare generator draw alike.
func (s *Scenario) stream(seed uint64, what string, n int) *rand.Rand {
	return rand.New(rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s\x00%d", s.Name, seed, what, n))))
}
