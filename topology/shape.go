package topology

import (
	"errors"
	"fmt"
)

// ClosShape recognises a three-tier Clos by its links, whatever its devices are
// called: ToRs are what hosts are linked to, T1s what ToRs are linked to, T2s what
// T1s are linked to besides; pods are what remains joined without the T2s. Every
// pod must have as many of each, every ToR every T1 of its pod, every T1 every T2,
// by one link each, and every ToR as many hosts. With one pod there may be no
// T2s. The error says where the network differs.
func (t *Topology) ClosShape() (ClosSpec, error) {
	g := t.graph()
	const host, tor, t1, t2 = 1, 2, 3, 4
	tier := make([]int8, len(g.names))
	var tors, t1s, t2s []int
	for n, isHost := range g.host {
		if !isHost {
			continue
		}
		tier[n] = host
		if len(g.to[n]) != 1 {
			return ClosSpec{}, fmt.Errorf("host %s has %d links: each host of such a fabric has one", g.names[n], len(g.to[n]))
		}
	}
	above := func(from []int, as int8) (up []int) {
		for _, n := range from {
			for _, m := range g.to[n] {
				if tier[m] == 0 {
					tier[m] = as
					up = append(up, int(m))
				}
			}
		}
		return up
	}
	var hosts []int
	for n := range tier {
		if tier[n] == host {
			hosts = append(hosts, n)
		}
	}
	tors = above(hosts, tor)
	t1s = above(tors, t1)
	t2s = above(t1s, t2)
	if len(tors) == 0 {
		return ClosSpec{}, errors.New("no switch has hosts, so which are tors cannot be told")
	}
	for n := range tier {
		if tier[n] == 0 && len(g.to[n]) > 0 {
			return ClosSpec{}, fmt.Errorf("device %s is further from the hosts than a t2: the fabric has more than three tiers", g.names[n])
		}
	}
	s := ClosSpec{Site: t.Site, T2s: len(t2s)}

	// Pods: ToRs and T1s that reach each other without T2s or hosts.
	pod := make([]int, len(g.names)) // from 1
	podToRs, podT1s := []int{0}, []int{0}
	for _, first := range tors {
		if pod[first] != 0 {
			continue
		}
		s.Pods++
		podToRs, podT1s = append(podToRs, 0), append(podT1s, 0)
		pod[first] = s.Pods
		for queue := []int{first}; len(queue) > 0; queue = queue[1:] {
			n := queue[0]
			if tier[n] == tor {
				podToRs[s.Pods]++
			} else {
				podT1s[s.Pods]++
			}
			for _, m := range g.to[n] {
				if (tier[m] == tor || tier[m] == t1) && pod[m] == 0 {
					pod[m] = s.Pods
					queue = append(queue, int(m))
				}
			}
		}
	}
	s.ToRs, s.T1s = podToRs[1], podT1s[1]
	for p := 2; p <= s.Pods; p++ {
		if podToRs[p] != s.ToRs || podT1s[p] != s.T1s {
			return ClosSpec{}, fmt.Errorf("pods differ: that of %s has %d tors and %d t1, that of %s has %d and %d",
				g.names[tors[0]], s.ToRs, s.T1s, g.names[firstOf(tors, pod, p)], podToRs[p], podT1s[p])
		}
	}

	// Links: as many as there should be of each kind, and none of another.
	links := func(n int) (of [5]int) {
		for _, m := range g.to[n] {
			of[tier[m]]++
		}
		return of
	}
	distinct := func(n int) bool {
		seen := make(map[int32]bool, len(g.to[n]))
		for _, m := range g.to[n] {
			seen[m] = true
		}
		return len(seen) == len(g.to[n])
	}
	s.Hosts = links(tors[0])[host]
	for _, class := range []struct {
		nodes []int
		name  string
		want  [5]int
	}{
		{tors, "tor", [5]int{host: s.Hosts, t1: s.T1s}},
		{t1s, "t1", [5]int{tor: s.ToRs, t2: s.T2s}},
		{t2s, "t2", [5]int{t1: s.Pods * s.T1s}},
	} {
		for _, n := range class.nodes {
			if got := links(n); got != class.want {
				return ClosSpec{}, fmt.Errorf("%s %s has links to %d hosts, %d tors, %d t1 and %d t2: %d, %d, %d and %d would be regular",
					class.name, g.names[n], got[host], got[tor], got[t1], got[t2], class.want[host], class.want[tor], class.want[t1], class.want[t2])
			}
			if !distinct(n) {
				return ClosSpec{}, fmt.Errorf("%s %s has several links to the same switch", class.name, g.names[n])
			}
		}
	}
	return s, nil
}

func firstOf(nodes, pod []int, p int) int {
	for _, n := range nodes {
		if pod[n] == p {
			return n
		}
	}
	return nodes[0]
}
