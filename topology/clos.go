package topology

import (
	"fmt"
	"net/netip"
	"strconv"
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
	// IP is which addresses interfaces and hosts get.
	IP IP
}

// IP is which versions of the Internet Protocol a fabric speaks.
type IP uint8

const (
	IPv4   IP = iota // alone
	IPv6             // alone
	IPBoth           // both, on every interface
)

// ParseIP reads "4", "6" or "both".
func ParseIP(s string) (IP, error) {
	for _, ip := range []IP{IPv4, IPv6, IPBoth} {
		if s == ip.String() {
			return ip, nil
		}
	}
	return 0, fmt.Errorf("%q is no version of the Internet Protocol: write 4, 6 or both", s)
}

// String gives the version as ParseIP reads it.
func (ip IP) String() string { return [...]string{"4", "6", "both"}[ip] }

// closIPv6 is where a Clos has its IPv6 addresses: each is that prefix and the IPv4
// address that stands, or would stand, beside it.
var closIPv6 = netip.MustParsePrefix("fd0a::/96")

// ClosAddr6 gives the IPv6 address that goes with an IPv4 address of a Clos.
func ClosAddr6(a netip.Addr) netip.Addr {
	b, v4 := closIPv6.Addr().As16(), a.As4()
	copy(b[12:], v4[:])
	return netip.AddrFrom16(b)
}

// ClosAddr4 gives the IPv4 address that goes with an IPv6 address of a Clos; false
// for one that no Clos has.
func ClosAddr4(a netip.Addr) (netip.Addr, bool) {
	if !closIPv6.Contains(a) {
		return netip.Addr{}, false
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:])), true
}

// address gives an interface a link's address of a Clos.
func (ip IP) address(i *Interface, a netip.Addr) {
	if ip != IPv6 {
		i.Addr = netip.PrefixFrom(a, 31)
	}
	switch ip {
	case IPv6:
		i.Addr = netip.PrefixFrom(ClosAddr6(a), 127)
	case IPBoth:
		i.Addr6 = netip.PrefixFrom(ClosAddr6(a), 127)
	}
}

// host gives a host's addresses of a Clos.
func (ip IP) host(a netip.Addr) []netip.Addr {
	switch ip {
	case IPv6:
		return []netip.Addr{ClosAddr6(a)}
	case IPBoth:
		return []netip.Addr{a, ClosAddr6(a)}
	}
	return []netip.Addr{a}
}

// Limits of the Clos address plan: host links are /31s inside
// 10.<pod>.<tor>.0/24, fabric links /31s in 10.128.0.0/9.
const (
	maxPods        = 128
	maxToRs        = 256
	maxHostsPerToR = 128
)

// MaxClosLinks is how many directed links a Clos has at most. It bounds memory,
// not addresses: the /9 has 1<<22 /31s, for two directed links each.
const MaxClosLinks = 1 << 20

// Clos builds a Clos fabric. Devices are named p0-tor0, p0-t1-0 and t2-0, hosts
// p0-tor0-h0. A switch's uplinks come first (eth1…), then its downlinks; a host
// has eth0. On a link the lower tier's end has the even fabric address; on host
// links the ToR has it. IPv6 addresses are fd0a:: and the IPv4 one.
func Clos(s ClosSpec) (*Topology, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("clos: %w", err)
	}
	if s.Site == "" {
		s.Site = "sim"
	}
	fabric, perToR := s.Pods*s.T1s*(s.ToRs+s.T2s), s.Pods*s.ToRs
	devices := make([]*Device, 0, s.Pods*(s.ToRs+s.T1s)+s.T2s)
	hosts := make([]*Host, 0, perToR*s.Hosts)
	cables := make([]Cable, 0, fabric+perToR*s.Hosts)

	// Each name is made once and shared by all that bear it.
	ports := make([]string, 2+max(s.T1s+s.Hosts, s.T2s+s.ToRs, s.Pods*s.T1s))
	for i := range ports {
		ports[i] = "eth" + strconv.Itoa(i)
	}
	numbered := func(prefix string, n int) []string {
		names := make([]string, n)
		for i := range names {
			names[i] = prefix + strconv.Itoa(i)
		}
		return names
	}
	tors, t1s, t2s := make([][]string, s.Pods), make([][]string, s.Pods), numbered("t2-", s.T2s)
	for p := range s.Pods {
		pod := fmt.Sprintf("p%d", p)
		tors[p], t1s[p] = numbered(pod+"-tor", s.ToRs), numbered(pod+"-t1-", s.T1s)
		for _, name := range tors[p] {
			devices = append(devices, &Device{Name: name, Tier: "tor", Pod: pod})
		}
		for _, name := range t1s[p] {
			devices = append(devices, &Device{Name: name, Tier: "t1", Pod: pod})
		}
	}
	for _, name := range t2s {
		devices = append(devices, &Device{Name: name, Tier: "t2"})
	}

	next := netip.AddrFrom4([4]byte{10, 128, 0, 0})
	// join lays the next fabric link: lower tier's end first.
	join := func(low string, lowPort int, high string, highPort int) {
		even := next
		odd := even.Next()
		next = odd.Next()
		c := Cable{A: Interface{Node: low, Name: ports[lowPort]}, B: Interface{Node: high, Name: ports[highPort]}}
		s.IP.address(&c.A, even)
		s.IP.address(&c.B, odd)
		cables = append(cables, c)
	}
	for p := range s.Pods {
		for i, tor := range tors[p] {
			for j, t1 := range t1s[p] {
				join(tor, 1+j, t1, 1+s.T2s+i)
			}
		}
		for j, t1 := range t1s[p] {
			for k, t2 := range t2s {
				join(t1, 1+k, t2, 1+p*s.T1s+j)
			}
		}
	}
	for p := range s.Pods {
		for i, tor := range tors[p] {
			for h, name := range numbered(tor+"-h", s.Hosts) {
				even := netip.AddrFrom4([4]byte{10, byte(p), byte(i), byte(2 * h)})
				odd := even.Next()
				hosts = append(hosts, &Host{Name: name, Addresses: s.IP.host(odd)})
				c := Cable{A: Interface{Node: tor, Name: ports[1+s.T1s+h]}, B: Interface{Node: name, Name: "eth0"}}
				s.IP.address(&c.A, even)
				s.IP.address(&c.B, odd)
				cables = append(cables, c)
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
	case s.IP > IPBoth:
		return fmt.Errorf("ip is %d: give IPv4, IPv6 or IPBoth", s.IP)
	case s.Pods < 1 || s.Pods > maxPods:
		return fmt.Errorf("pods is %d: give 1 to %d", s.Pods, maxPods)
	case s.ToRs < 1 || s.ToRs > maxToRs:
		return fmt.Errorf("tors (per pod) is %d: give 1 to %d", s.ToRs, maxToRs)
	case s.Hosts < 0 || s.Hosts > maxHostsPerToR:
		return fmt.Errorf("hosts (per tor) is %d: give 0 to %d", s.Hosts, maxHostsPerToR)
	case s.T1s < 0 || s.T1s > MaxClosLinks:
		return fmt.Errorf("t1 (per pod) is %d: give 0 to %d", s.T1s, MaxClosLinks)
	case s.T2s < 0 || s.T2s > MaxClosLinks:
		return fmt.Errorf("t2 is %d: give 0 to %d", s.T2s, MaxClosLinks)
	case s.T1s == 0 && s.ToRs > 1:
		return fmt.Errorf("%d tors in a pod but no t1 to join them: give t1 at least 1", s.ToRs)
	case s.T2s == 0 && s.Pods > 1:
		return fmt.Errorf("%d pods but no t2 to join them: give t2 at least 1", s.Pods)
	case s.T1s == 0 && s.T2s > 0:
		return fmt.Errorf("%d t2 but no t1 to join them to: give t1 at least 1", s.T2s)
	}
	// In 64 bits, where no product of these bounded factors overflows.
	pods, tors, t1s, t2s := int64(s.Pods), int64(s.ToRs), int64(s.T1s), int64(s.T2s)
	fabric, host := 2*pods*t1s*(tors+t2s), 2*pods*tors*int64(s.Hosts)
	if fabric+host > MaxClosLinks {
		return fmt.Errorf("%d directed links, %d between switches (2 · %d pods · %d t1 · (%d tors + %d t2)) and %d to or from hosts (2 · %d pods · %d tors · %d hosts): at most %d are built, so give fewer",
			fabric+host, fabric, pods, t1s, tors, t2s, host, pods, tors, s.Hosts, MaxClosLinks)
	}
	return nil
}
