package topology

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// sizes of Clos fabrics that the tests walk: the small one of the scenarios,
// flat ones, lopsided ones.
var sizes = []ClosSpec{
	{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2},
	{Pods: 1, ToRs: 1, T1s: 0, T2s: 0, Hosts: 2},
	{Pods: 1, ToRs: 4, T1s: 3, T2s: 0, Hosts: 1},
	{Pods: 1, ToRs: 2, T1s: 2, T2s: 2, Hosts: 1},
	{Pods: 3, ToRs: 1, T1s: 2, T2s: 1, Hosts: 2},
	{Pods: 2, ToRs: 3, T1s: 1, T2s: 4, Hosts: 3},
	{Pods: 4, ToRs: 4, T1s: 4, T2s: 8, Hosts: 2},
}

func build(t testing.TB, s ClosSpec) *Topology {
	t.Helper()
	topo, err := Clos(s)
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

func TestClosHasTheRightParts(t *testing.T) {
	for _, s := range sizes {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			topo := build(t, s)
			if got, want := len(topo.Devices), s.Pods*(s.ToRs+s.T1s)+s.T2s; got != want {
				t.Errorf("%d devices, want %d", got, want)
			}
			if got, want := len(topo.Hosts), s.Pods*s.ToRs*s.Hosts; got != want {
				t.Errorf("%d hosts, want %d", got, want)
			}
			if got, want := len(topo.Links), 2*(s.Pods*s.T1s*(s.ToRs+s.T2s)+s.Pods*s.ToRs*s.Hosts); got != want {
				t.Errorf("%d directed links, want %d", got, want)
			}
			if w := topo.warnings(); len(w) > 0 {
				t.Errorf("warnings: %v", w)
			}
		})
	}
}

// The names and addresses that the rest of decaf, its documents and its users
// rely on.
func TestSmallClosByName(t *testing.T) {
	topo := build(t, ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	if topo.Site != "sim" || len(topo.Links) != 48 {
		t.Errorf("site %q, %d links", topo.Site, len(topo.Links))
	}
	for name, want := range map[string]string{
		"p0-tor0>p0-t1-0":       "p0-tor0:eth1 10.128.0.0/31 p0-t1-0:eth3 10.128.0.1/31",
		"p0-t1-0>t2-1":          "p0-t1-0:eth2 10.128.0.10/31 t2-1:eth1 10.128.0.11/31",
		"t2-1>p1-t1-1":          "t2-1:eth4 10.128.0.31/31 p1-t1-1:eth2 10.128.0.30/31",
		"p1-tor1>p1-tor1-h1":    "p1-tor1:eth4 10.1.1.2/31 p1-tor1-h1:eth0 10.1.1.3/31",
		"p0-tor1-h0>p0-tor1":    "p0-tor1-h0:eth0 10.0.1.1/31 p0-tor1:eth3 10.0.1.0/31",
		"p0-tor0-h0>p1-tor1-h1": "",
	} {
		got := ""
		if l, ok := topo.Link(name); ok {
			got = fmt.Sprintf("%s %s %s %s", l.From, l.From.Addr, l.To, l.To.Addr)
		}
		if got != want {
			t.Errorf("link %s is %q, want %q", name, got, want)
		}
	}
	tor, _ := topo.Device("p1-tor0")
	t2, _ := topo.Device("t2-0")
	if tor.Tier != "tor" || tor.Pod != "p1" || t2.Tier != "t2" || t2.Pod != "" {
		t.Errorf("tiers and pods: %+v %+v", tor, t2)
	}
	h, _ := topo.Host("p1-tor1-h1")
	if h.Addresses[0] != netip.MustParseAddr("10.1.1.3") {
		t.Errorf("address of the last host is %v", h.Addresses)
	}
}

// Each address of a Clos has its IPv6 twin, on links and hosts alike, by which
// interfaces and hosts are found as well; alone it stands where the IPv4 one stood.
func TestClosSpeaksIPv6(t *testing.T) {
	spec := ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2}
	four := build(t, spec)
	for _, ip := range []IP{IPv6, IPBoth} {
		spec.IP = ip
		topo := build(t, spec)
		roundTrip(t, topo)
		for i, l := range topo.Links {
			twin := ClosAddr6(four.Links[i].From.Addr.Addr())
			addr6 := l.From.Of(true)
			if addr6 != netip.PrefixFrom(twin, 127) || (l.From.Of(false) == four.Links[i].From.Addr) != (ip == IPBoth) {
				t.Fatalf("ip %s: %s has %s and %s", ip, l.From, l.From.Addr, l.From.Addr6)
			}
			if found, ok := topo.InterfaceAt(twin); !ok || found != l.From || !l.From.Owns(twin) {
				t.Fatalf("ip %s: %s is found at %s", ip, found, twin)
			}
			if back, ok := ClosAddr4(twin); !ok || back != four.Links[i].From.Addr.Addr() {
				t.Fatalf("%s stands beside %s", twin, back)
			}
		}
		for i, h := range topo.Hosts {
			twin := ClosAddr6(four.Hosts[i].Addresses[0])
			if found, ok := topo.HostAt(twin); !ok || found != h || h.Addresses[len(h.Addresses)-1] != twin || len(h.Addresses) != 1+int(ip)/2 {
				t.Fatalf("ip %s: host %s has %v", ip, h.Name, h.Addresses)
			}
		}
	}
	if _, ok := ClosAddr4(netip.MustParseAddr("fd0b::1")); ok {
		t.Error("an address of no Clos has an IPv4 twin")
	}
	for _, text := range []string{"4", "6", "both"} {
		if ip, err := ParseIP(text); err != nil || ip.String() != text {
			t.Errorf("%q is read as %s, %v", text, ip, err)
		}
	}
	if _, err := ParseIP("5"); err == nil {
		t.Error("version 5 is taken")
	}
}

func TestClosRefusesWhatCannotBeBuilt(t *testing.T) {
	for want, s := range map[string]ClosSpec{
		"pods is 0: give 1 to 128":                 {ToRs: 1},
		"pods is 129":                              {Pods: 129, ToRs: 1},
		"tors (per pod) is 257":                    {Pods: 1, ToRs: 257, T1s: 1},
		"hosts (per tor) is 129":                   {Pods: 1, ToRs: 1, Hosts: 129},
		"hosts (per tor) is -1":                    {Pods: 1, ToRs: 1, Hosts: -1},
		"ip is 3":                                  {Pods: 1, ToRs: 1, IP: 3},
		"t1 (per pod) is -1":                       {Pods: 1, ToRs: 1, T1s: -1},
		"t2 is -3":                                 {Pods: 1, ToRs: 1, T1s: 1, T2s: -3},
		"2 tors in a pod but no t1":                {Pods: 1, ToRs: 2},
		"2 pods but no t2":                         {Pods: 2, ToRs: 1, T1s: 1},
		"1 t2 but no t1":                           {Pods: 1, ToRs: 1, T2s: 1},
		"t2 is 1048577: give 0 to 1048576":         {Pods: 1, ToRs: 1, T1s: 1, T2s: 1<<20 + 1},
		"at most 1048576 are built, so give fewer": {Pods: 128, ToRs: 1, T1s: 1 << 20, T2s: 1 << 20},
		"1097728 directed links, 32768 between switches (2 · 128 pods · 1 t1 · (64 tors + 64 t2)) and 1064960 to or from hosts (2 · 128 pods · 64 tors · 65 hosts)": {Pods: 128, ToRs: 64, T1s: 1, T2s: 64, Hosts: 65},
		`site "a b": use letters, digits, - and _ o`: {Site: "a b", Pods: 1, ToRs: 1},
	} {
		if _, err := Clos(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", s, err, want)
		}
	}
}

// The largest pods and ToRs the address plan allows still have addresses that
// do not overlap: Clos checks as files are checked.
func TestClosAtItsLimits(t *testing.T) {
	build(t, ClosSpec{Pods: 128, ToRs: 8, T1s: 2, T2s: 2, Hosts: 1})
	build(t, ClosSpec{Pods: 1, ToRs: 256, T1s: 1, Hosts: 128})
}

func BenchmarkClosOf40ToRsPerPod(b *testing.B) {
	for b.Loop() {
		build(b, ClosSpec{Pods: 4, ToRs: 40, T1s: 16, T2s: 32, Hosts: 10})
	}
}
