package topology

import (
	"fmt"
	"net/netip"
)

// ClosSpec is the size of a three-tier Clos fabric: in each pod every ToR is
// joined to every T1, and every T1 to every T2.
type ClosSpec struct {
	Site  string // "sim" when empty
	Pods  int
	ToRs  int // per pod
	T1s   int // per pod
	T2s   int // in all
	Hosts int // per ToR
}

// Limits of the Clos address plan: host links are /31s inside
// 10.<pod>.<tor>.0/24, fabric links /31s in 10.128.0.0/9.
const (
	maxPods        = 128
	maxToRs        = 256
	maxHostsPerToR = 128
	maxFabricLinks = 1 << 17 // far under the 1<<22 /31s of the /9; bounds memory
	maxHostLinks   = 1 << 17
)

// Clos builds a Clos fabric. Devices are named p0-tor0, p0-t1-0 and t2-0, hosts
// p0-tor0-h0. A switch's uplinks come first (eth1…), then its downlinks; a host
// has eth0. On a link the lower tier's end has the even fabric address; on host
// links the ToR has it.
func Clos(s ClosSpec) (*Topology, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("clos: %w", err)
	}
	if s.Site == "" {
		s.Site = "sim"
	}
	var devices []*Device
	var hosts []*Host
	var cables []Cable
	for p := range s.Pods {
		pod := fmt.Sprintf("p%d", p)
		for i := range s.ToRs {
			devices = append(devices, &Device{Name: fmt.Sprintf("%s-tor%d", pod, i), Tier: "tor", Pod: pod})
		}
		for i := range s.T1s {
			devices = append(devices, &Device{Name: fmt.Sprintf("%s-t1-%d", pod, i), Tier: "t1", Pod: pod})
		}
	}
	for i := range s.T2s {
		devices = append(devices, &Device{Name: fmt.Sprintf("t2-%d", i), Tier: "t2"})
	}

	fabric := netip.AddrFrom4([4]byte{10, 128, 0, 0})
	// join lays the next fabric link: lower tier's end first.
	join := func(low string, lowPort int, high string, highPort int) {
		even := fabric
		odd := even.Next()
		fabric = odd.Next()
		cables = append(cables, Cable{
			A: Interface{Node: low, Name: fmt.Sprintf("eth%d", lowPort), Addr: netip.PrefixFrom(even, 31)},
			B: Interface{Node: high, Name: fmt.Sprintf("eth%d", highPort), Addr: netip.PrefixFrom(odd, 31)},
		})
	}
	for p := range s.Pods {
		for tor := range s.ToRs {
			for t1 := range s.T1s {
				join(fmt.Sprintf("p%d-tor%d", p, tor), 1+t1, fmt.Sprintf("p%d-t1-%d", p, t1), 1+s.T2s+tor)
			}
		}
		for t1 := range s.T1s {
			for t2 := range s.T2s {
				join(fmt.Sprintf("p%d-t1-%d", p, t1), 1+t2, fmt.Sprintf("t2-%d", t2), 1+p*s.T1s+t1)
			}
		}
	}
	for p := range s.Pods {
		for tor := range s.ToRs {
			name := fmt.Sprintf("p%d-tor%d", p, tor)
			for h := range s.Hosts {
				host := fmt.Sprintf("%s-h%d", name, h)
				even := netip.AddrFrom4([4]byte{10, byte(p), byte(tor), byte(2 * h)})
				odd := even.Next()
				hosts = append(hosts, &Host{Name: host, Addresses: []netip.Addr{odd}})
				cables = append(cables, Cable{
					A: Interface{Node: name, Name: fmt.Sprintf("eth%d", 1+s.T1s+h), Addr: netip.PrefixFrom(even, 31)},
					B: Interface{Node: host, Name: "eth0", Addr: netip.PrefixFrom(odd, 31)},
				})
			}
		}
	}
	t, err := New(s.Site, devices, hosts, cables)
	if err != nil {
		return nil, fmt.Errorf("clos: %w", err)
	}
	return t, nil
}

func (s ClosSpec) check() error {
	switch {
	case s.Pods < 1 || s.Pods > maxPods:
		return fmt.Errorf("pods is %d: give 1 to %d", s.Pods, maxPods)
	case s.ToRs < 1 || s.ToRs > maxToRs:
		return fmt.Errorf("tors (per pod) is %d: give 1 to %d", s.ToRs, maxToRs)
	case s.Hosts < 0 || s.Hosts > maxHostsPerToR:
		return fmt.Errorf("hosts (per tor) is %d: give 0 to %d", s.Hosts, maxHostsPerToR)
	case s.T1s < 0 || s.T1s > maxFabricLinks:
		return fmt.Errorf("t1 (per pod) is %d: give 0 to %d", s.T1s, maxFabricLinks)
	case s.T2s < 0 || s.T2s > maxFabricLinks:
		return fmt.Errorf("t2 is %d: give 0 to %d", s.T2s, maxFabricLinks)
	case s.T1s == 0 && s.ToRs > 1:
		return fmt.Errorf("%d tors in a pod but no t1 to join them: give t1 at least 1", s.ToRs)
	case s.T2s == 0 && s.Pods > 1:
		return fmt.Errorf("%d pods but no t2 to join them: give t2 at least 1", s.Pods)
	case s.T1s == 0 && s.T2s > 0:
		return fmt.Errorf("%d t2 but no t1 to join them to: give t1 at least 1", s.T2s)
	}
	// In 64 bits: no factor exceeds 2^17.
	if n := int64(s.Pods) * int64(s.T1s) * (int64(s.ToRs) + int64(s.T2s)); n > maxFabricLinks {
		return fmt.Errorf("%d fabric links: at most %d are built", n, maxFabricLinks)
	}
	if n := s.Pods * s.ToRs * s.Hosts; n > maxHostLinks {
		return fmt.Errorf("%d hosts: at most %d are built", n, maxHostLinks)
	}
	return nil
}
