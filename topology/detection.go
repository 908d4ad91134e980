package topology

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Detection is what 007's votes can tell apart on a Clos: Theorem 2 and the
// trace budget of Arzani et al., "007: Democratically Finding the Cause of Packet
// Drops", NSDI 2018 (arXiv:1802.07222). It speaks of the links between switches;
// in the paper's letters ToRs is n0, T1s n1, T2s n2, Pods npod and Hosts H.
//
// Theorem 2: with connections of cl to cu packets, each packet lost on a bad link
// with probability p_b and on a good one with p_g, the k bad links get more votes
// than any good link, with an error that falls exponentially in the number of
// connections, if
//
//	p_g ≤ [1 − (1 − p_b)^cl] / (α·cu)
//	α   = n0·(4n0 − k)·(npod − 1) / (n2·(n0·npod − 1) − n0·(npod − 1)·k)
//	k   < n2·(n0·npod − 1) / (n0·(npod − 1))
//
// for npod ≥ 1 + max(n0/n1, n2·(n0 − 1)/(n0·(n0 − n2)), 1) and n0 ≥ n2, given
// even traffic and even ECMP. It is a bound: votes may do better, and inference
// that also knows the loss-free flows does.
type Detection struct {
	ClosSpec
	// PacketsMin and PacketsMax are cl and cu: packets of a connection.
	PacketsMin, PacketsMax int
}

// Check says what about the fabric or the packets leaves no figures at all.
func (d Detection) Check() error {
	switch {
	case d.PacketsMin < 1 || d.PacketsMax < d.PacketsMin:
		return fmt.Errorf("packets of a connection are %d..%d: give two whole numbers from 1 up, the smaller first", d.PacketsMin, d.PacketsMax)
	case d.Pods < 2:
		return errors.New("the theorem compares links within and between pods, and there is one pod")
	case d.T1s < 1 || d.T2s < 1:
		return errors.New("the theorem needs tors, t1 and t2")
	}
	return nil
}

// Outside lists the conditions of the proof that the fabric does not meet. The
// figures then go beyond what was proved.
func (d Detection) Outside() []string {
	var out []string
	n0, n1, n2 := float64(d.ToRs), float64(d.T1s), float64(d.T2s)
	if d.ToRs < d.T2s {
		out = append(out, fmt.Sprintf("it has %d tors in a pod for %d t2 in all: at least as many tors are needed", d.ToRs, d.T2s))
		return out
	}
	pods := max(n0/n1, 1)
	if d.ToRs > 1 {
		pods = max(pods, n2*(n0-1)/(n0*(n0-n2))) // +Inf for as many tors as t2
	}
	switch {
	case math.IsInf(pods, 1):
		out = append(out, fmt.Sprintf("it has as many tors in a pod as t2 in all (%d): more tors are needed", d.ToRs))
	case float64(d.Pods) < 1+pods:
		out = append(out, fmt.Sprintf("it has %d pods: at least %.0f are needed for %d tors and %d t1 in a pod and %d t2", d.Pods, math.Ceil(1+pods), d.ToRs, d.T1s, d.T2s))
	}
	return out
}

// MaxBad is the largest k that the theorem holds for: how many links between
// switches may be bad at once. 0 when Check fails.
func (d Detection) MaxBad() int {
	if d.Check() != nil {
		return 0
	}
	above := d.T2s * (d.ToRs*d.Pods - 1)
	below := d.ToRs * (d.Pods - 1)
	// Strictly less than the quotient; beyond 4·n0 α would not be positive.
	return min((above-1)/below, 4*d.ToRs-1)
}

// Alpha is α for k bad links, 1 ≤ k ≤ MaxBad.
func (d Detection) Alpha(k int) float64 {
	n0, n2, pods := float64(d.ToRs), float64(d.T2s), float64(d.Pods)
	return n0 * (4*n0 - float64(k)) * (pods - 1) / (n2*(n0*pods-1) - n0*(pods-1)*float64(k))
}

// GoodMax is the loss rate of good links up to which k bad links of loss rate
// bad, in (0, 1], rank above them all; 1 ≤ k ≤ MaxBad. At most 1.
func (d Detection) GoodMax(bad float64, k int) float64 {
	// 1 − (1 − p)^cl, without losing small p to rounding.
	seen := -math.Expm1(float64(d.PacketsMin) * math.Log1p(-bad))
	return min(1, seen/(d.Alpha(k)*float64(d.PacketsMax)))
}

// TraceBudget is Ct, how many traces each host may send per second so that no
// switch answers more than icmp times per second:
//
//	Ct ≤ icmp/(n0·H) · min(n1, n2·(n0·npod − 1)/(n0·(npod − 1)))
//
// With one pod only the T1s limit it. 0 when there is no switch above the ToRs.
func (d Detection) TraceBudget(icmp float64) float64 {
	if d.T1s < 1 || d.ToRs < 1 || d.Hosts < 1 {
		return 0
	}
	share := float64(d.T1s)
	if d.Pods > 1 {
		share = min(share, float64(d.T2s)*float64(d.ToRs*d.Pods-1)/float64(d.ToRs*(d.Pods-1)))
	}
	return icmp / float64(d.ToRs*d.Hosts) * share
}

// TraceBudget is how many traces per second each host may send on this network so
// that no switch answers more than icmp times per second (007's Ct; see
// [Detection.TraceBudget]). Errors: the network is no regular Clos, or has no
// switch above the ToRs, and then the bound says nothing.
func (t *Topology) TraceBudget(icmp float64) (perHost float64, err error) {
	spec, err := t.ClosShape()
	if err != nil {
		return 0, fmt.Errorf("trace budget: not a regular Clos: %w", err)
	}
	ct := Detection{ClosSpec: spec}.TraceBudget(icmp)
	if ct <= 0 {
		return 0, errors.New("trace budget: no switch above the ToRs")
	}
	return ct, nil
}

// BadCounts gives up to n numbers of bad links from 1 to MaxBad, spread over
// orders of magnitude, for a table.
func (d Detection) BadCounts(n int) []int {
	most := d.MaxBad()
	var out []int
	for i := range n {
		out = append(out, int(math.Round(math.Pow(float64(most), float64(i)/float64(max(1, n-1))))))
	}
	return slices.Compact(out)
}
