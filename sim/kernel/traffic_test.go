package kernel

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"decaf/sim/scenario"
	"decaf/topology"
)

func TestTargets(t *testing.T) {
	top, err := topology.Clos(topology.ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2})
	if err != nil {
		t.Fatal(err)
	}
	weights := func(p scenario.Pattern, host string) map[string]float64 {
		t.Helper()
		list, err := Targets(top, p, host, 7)
		if err != nil {
			t.Fatal(err)
		}
		w := make(map[string]float64)
		var sum float64
		for _, g := range list {
			h, ok := top.HostAt(g.Addr.Addr())
			if !ok || h.Name == host || g.Addr.Port() != TrafficPort {
				t.Errorf("%s talks to %v", host, g.Addr)
				continue
			}
			w[h.Name] = g.Weight
			sum += g.Weight
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Errorf("%v: weights add up to %v", p, sum)
		}
		return w
	}
	for host, w := range weights(scenario.Pattern{Kind: "uniform"}, "p0-tor0-h0") {
		if math.Abs(w-1.0/7) > 1e-9 {
			t.Errorf("uniform: %s gets %v", host, w)
		}
	}
	hot := scenario.Pattern{Kind: "hot", ToR: "p0-tor0", Share: 0.5}
	if w := weights(hot, "p0-tor0-h0"); math.Abs(w["p0-tor0-h1"]-0.5) > 1e-9 || math.Abs(w["p1-tor0-h0"]-0.5/6) > 1e-9 {
		t.Errorf("hot from inside: %v", w)
	}
	if w := weights(hot, "p1-tor1-h0"); math.Abs(w["p0-tor0-h1"]-0.25) > 1e-9 || math.Abs(w["p1-tor0-h0"]-0.1) > 1e-9 {
		t.Errorf("hot from outside: %v", w)
	}
	// One ToR of four is chosen, the same for all hosts.
	skew := scenario.Pattern{Kind: "skew", Share: 0.8, ToRs: 0.25}
	a, b := weights(skew, "p0-tor0-h0"), weights(skew, "p1-tor1-h1")
	chosen := func(w map[string]float64) (tors map[string]bool) {
		tors = make(map[string]bool)
		for host, x := range w {
			if x > 0.3 {
				tors[host[:7]] = true
			}
		}
		return tors
	}
	for tor := range chosen(a) {
		if others := chosen(b); len(others) > 0 && !others[tor] {
			t.Errorf("skew: %v and %v", a, b)
		}
	}
	if len(chosen(a))+len(chosen(b)) == 0 {
		t.Errorf("skew: no ToR stands out: %v, %v", a, b)
	}

	for _, p := range []scenario.Pattern{{Kind: "hot", ToR: "t2-0", Share: 0.5}, {Kind: "star"}} {
		if _, err := Targets(top, p, "p0-tor0-h0", 1); err == nil {
			t.Errorf("pattern %v is taken", p)
		}
	}
	if _, err := Targets(top, scenario.Pattern{}, "nobody", 1); err == nil {
		t.Error("an unknown host is taken")
	}
}

func TestArrivalsArePoissonAndRepeatable(t *testing.T) {
	targets := []Target{{Weight: 3}, {Weight: 1}}
	targets[1].Addr, _ = parseAddr("10.0.0.1:1")
	const n, rate = 20000, 10.0
	a, b := newArrivals(5, rate, 1, 100, targets), newArrivals(5, rate, 1, 100, targets)
	var sum, squares float64
	var packets, second int
	low, high := 100, 1
	for range n {
		c := a.next()
		if c != b.next() {
			t.Fatal("the same seed draws another connection")
		}
		x := c.after.Seconds()
		sum, squares = sum+x, squares+x*x
		packets += c.packets
		low, high = min(low, c.packets), max(high, c.packets)
		if c.to == targets[1].Addr {
			second++
		}
	}
	mean := sum / n
	deviation := math.Sqrt(squares/n - mean*mean)
	if math.Abs(mean-1/rate) > 0.005 || math.Abs(deviation-1/rate) > 0.01 {
		t.Errorf("gaps of mean %v and deviation %v, want both %v", mean, deviation, 1/rate)
	}
	if low != 1 || high != 100 || math.Abs(float64(packets)/n-50.5) > 1.5 {
		t.Errorf("packets %d..%d, mean %v", low, high, float64(packets)/n)
	}
	if math.Abs(float64(second)/n-0.25) > 0.02 {
		t.Errorf("%d of %d to a target of weight a quarter", second, n)
	}
	if other := newArrivals(6, rate, 1, 100, targets).next(); other == newArrivals(5, rate, 1, 100, targets).next() {
		t.Error("another seed draws the same connection")
	}
}

func TestGeneratorConfigIsChecked(t *testing.T) {
	f := func(want string, change func(*GeneratorConfig)) {
		t.Helper()
		c := DefaultGeneratorConfig()
		at, _ := parseAddr("127.0.0.1:0")
		c.Listen = []netip.AddrPort{at}
		c.Rate, c.Targets = 1, []Target{{Addr: at, Weight: 1}}
		change(&c)
		_, err := NewGenerator(c, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	f("", func(*GeneratorConfig) {})
	f("listen", func(c *GeneratorConfig) { *c = DefaultGeneratorConfig() })
	f("rate", func(c *GeneratorConfig) { c.Rate = -1 })
	f("rate", func(c *GeneratorConfig) { c.Rate = math.Inf(1) })
	f("packets", func(c *GeneratorConfig) { c.PacketsMin = 0 })
	f("packets", func(c *GeneratorConfig) { c.PacketsMax = 0 })
	f("target", func(c *GeneratorConfig) { c.Targets = nil })
	f("weight", func(c *GeneratorConfig) { c.Targets[0].Weight = math.NaN() })
	f("max-open", func(c *GeneratorConfig) { c.MaxOpen = 0 })
}

func TestGeneratorSendsWholeSegments(t *testing.T) {
	serverConfig, clientConfig := DefaultGeneratorConfig(), DefaultGeneratorConfig()
	serveAt, _ := parseAddr("127.0.0.1:" + freePort(t))
	callFrom, _ := parseAddr("127.0.0.1:" + freePort(t))
	serverConfig.Listen, clientConfig.Listen = []netip.AddrPort{serveAt}, []netip.AddrPort{callFrom}
	clientConfig.Rate, clientConfig.PacketsMin, clientConfig.PacketsMax = 500, 2, 3
	clientConfig.Targets = []Target{{Addr: serveAt, Weight: 1}}
	server, err := NewGenerator(serverConfig, nil)
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewGenerator(clientConfig, nil)
	if err != nil {
		t.Fatal(err)
	}
	stopServer, stopClient := run(t, server), run(t, client)
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for client.Stats().Completed < 20 {
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s: %+v", client.Stats())
		}
		<-tick.C
	}
	stopClient()
	stopServer()
	c, s := client.Stats(), server.Stats()
	if c.Failed != 0 || c.Completed != c.Started || c.Connected != c.Started {
		t.Errorf("client %+v", c)
	}
	if s.ReceivedBytes != c.SentBytes || c.SentBytes%c.SentPackets != 0 {
		t.Errorf("sent %d bytes in %d packets, received %d", c.SentBytes, c.SentPackets, s.ReceivedBytes)
	}
	if mean := float64(c.SentPackets) / float64(c.Completed); mean < 2 || mean > 3 {
		t.Errorf("%v packets a connection, want 2..3", mean)
	}
}

// Where hosts have addresses of both versions, each is a server and as many connections
// go to one as to the other.
func TestTrafficOfBothVersions(t *testing.T) {
	spec := topology.ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2, IP: topology.IPBoth}
	top, err := topology.Clos(spec)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Targets(top, scenario.Pattern{Kind: "hot", ToR: "p1-tor0", Share: 0.8}, "p0-tor0-h0", 1)
	if err != nil {
		t.Fatal(err)
	}
	share := make(map[version]float64)
	hot := 0.0
	for _, g := range all {
		share[versionOf(g.Addr.Addr())] += g.Weight
		if h, ok := top.HostAt(g.Addr.Addr()); ok && strings.HasPrefix(h.Name, "p1-tor0") {
			hot += g.Weight
		}
	}
	if len(all) != 14 || math.Abs(share[ipv4]-0.5) > 1e-9 || math.Abs(share[ipv6]-0.5) > 1e-9 || math.Abs(hot-0.8) > 1e-9 {
		t.Errorf("%d targets, shares %v, %v to the hot ToR", len(all), share, hot)
	}
	args, err := TrafficArgs(top, scenario.Traffic{ConnectionsPerHost: 1, PacketsMin: 1, PacketsMax: 1}, "p0-tor0-h0", 1)
	if text := strings.Join(args, " "); err != nil || !strings.Contains(text, "--listen 10.0.0.1:5201") || !strings.Contains(text, "--listen [fd0a::a00:1]:5201") {
		t.Errorf("%s, %v", text, err)
	}
}
