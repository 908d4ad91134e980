package tracer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// Every path that an enumeration names is the one that packets with its source
// ports take, as the spines count them, and there is no other.
func TestEnumerationFindsTheFan(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		tr := f.tracerAt("h1", testConfig(), 3)
		fan, path, err := tr.Enumerate(t.Context(), EnumerateRequest{Request: Request{Flow: flowOf(v6, 40000), Epoch: 1}, Confidence: 0.99})
		if err != nil {
			t.Fatal(err)
		}
		want(t, path, "complete", "")
		if !fan.Complete || len(fan.Paths) != spines || fan.Possible != spines || fan.Why != "" {
			t.Fatalf("%d paths of %d, complete %v, %q", len(fan.Paths), fan.Possible, fan.Complete, fan.Why)
		}
		if own := fan.texts(fan.Paths[fan.Own]); strings.Join(own, " ") != hops(path) {
			t.Errorf("the flow's own path is %v, and was %s", own, hops(path))
		}
		f.serve(v6)
		for _, p := range fan.Paths {
			at := fan.Hops[1][p.Nodes[1]].Address
			c := f.dial(flowOf(v6, fan.Ports[p.Flows[len(p.Flows)-1]]))
			before := f.received()
			for range 40 {
				if _, err := c.Write(make([]byte, 500)); err != nil {
					t.Fatal(err)
				}
			}
			c.Close()
			eventually(t, func() bool {
				after, most, spine := f.received(), uint64(0), 0
				for s := range after {
					if n := after[s] - before[s]; n > most {
						most, spine = n, s+1
					}
				}
				a := addr4
				if v6 {
					a = addr6
				}
				return most > 2 && at == a(2, spine, 1)
			})
		}
		t.Logf("%d flows, %d probes, %s", fan.Flows, fan.Probes, fan.Took)
	})
}

// Enumeration that spares the budget leaves traces their half of the burst.
func TestSurvey(t *testing.T) {
	f := newFan(t)
	cfg := testConfig()
	cfg.Rate, cfg.Burst = 500, 20
	tr := f.tracerAt("h1", cfg, 3)
	ctx, cancel := context.WithCancel(t.Context())
	var got []*Fan
	least := cfg.Burst // traces that might have begun at once
	look := func(Progress) { least = min(least, tr.budget.tokens()) }
	done := make(chan struct{})
	epoch := int64(0)
	go func() {
		defer close(done)
		tr.Survey(ctx, 20*time.Millisecond, func() []EnumerateRequest {
			epoch++
			return []EnumerateRequest{
				{Request: Request{Flow: flowOf(false, 40000), Epoch: epoch}, Progress: look},
				{Request: Request{Flow: flowOf(true, 40000), Epoch: epoch}, Progress: look},
			}
		}, func(_ EnumerateRequest, fan *Fan, _ *decafpb.Path, err error) {
			look(Progress{})
			if err == nil {
				got = append(got, fan)
			}
			if len(got) == 4 {
				cancel()
			}
		})
	}()
	<-done
	for _, fan := range got {
		if len(fan.Paths) == 0 || len(fan.Paths) > spines {
			t.Errorf("%d paths", len(fan.Paths))
		}
	}
	if s := tr.Stats(); s.Enumerations < 4 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	if half := cfg.Burst / 2; least < half || least > half+2 {
		t.Errorf("%d traces were left of a burst of %d at the least, want about half of them: not fewer, and the survey waiting for more", least, cfg.Burst)
	}
	if _, _, err := tr.Enumerate(ctx, EnumerateRequest{Request: Request{Flow: flowOf(false, 1)}}); err == nil {
		t.Error("enumerated after the end")
	}
	for _, bad := range []EnumerateRequest{{Confidence: 1}, {Confidence: 0.1}, {MaxFlows: -1}, {MaxFlows: 40000}} {
		if _, p, err := tr.Enumerate(t.Context(), bad); err == nil || p == nil {
			t.Errorf("%+v passes", bad)
		}
	}
}

// An enumeration that spares a budget which is spent waits for what comes back, and
// is not refused.
func TestEnumerationWaitsForTheBudget(t *testing.T) {
	f := newFan(t)
	cfg := testConfig()
	cfg.Rate, cfg.Burst = 1e-6, 2
	tr := f.tracerAt("h1", cfg, 3)
	for i := range cfg.Burst {
		want(t, tr.Trace(t.Context(), flowOf(false, uint16(41000+i)), 1), "complete", "")
	}
	spare := EnumerateRequest{Request: Request{Flow: flowOf(false, 40000), Epoch: 1}, Spare: true}
	over := make(chan error)
	go func() {
		fan, _, err := tr.Enumerate(t.Context(), spare)
		if err == nil && len(fan.Paths) != spines {
			err = fmt.Errorf("%d paths", len(fan.Paths))
		}
		over <- err
	}()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("shift is over"))
	if _, p, err := tr.Enumerate(ctx, spare); err == nil || status(p) != "failed" || !strings.Contains(p.GetWhy(), "shift is over") {
		t.Errorf("given up: %v, %v", p, err)
	}
	tr.SetRate(1e4)
	if err := <-over; err != nil {
		t.Error(err)
	}
	if s := tr.Stats(); s.Refused != 0 {
		t.Errorf("%+v", s)
	}
}

// Routers that balance by the IPv6 flow label alone are seen through, since flows
// have one each, as those of hosts do. What goes with a path's ports and labels goes
// that path. Flows that all have one label go one way.
func TestEnumerationVariesTheFlowLabel(t *testing.T) {
	f := newFan(t)
	f.do("r1", func() error { return sysctl("ipv6.fib_multipath_hash_fields", fmt.Sprint(0x08)) })
	tr := f.tracerAt("h1", testConfig(), 3)
	fan, path, err := tr.Enumerate(t.Context(), EnumerateRequest{Request: Request{Flow: flowOf(true, 40000), Epoch: 1}, Confidence: 0.99})
	if err != nil {
		t.Fatal(err)
	}
	if !fan.Complete || len(fan.Paths) != spines || len(fan.Labels) != fan.Flows || fan.Labels[0] != path.GetFlowLabel() {
		t.Fatalf("%d paths, complete %v, %q, labels %v of %d flows", len(fan.Paths), fan.Complete, fan.Why, fan.Labels, fan.Flows)
	}
	for _, way := range fan.Paths {
		for _, flow := range way.Flows {
			p := tr.Do(t.Context(), Request{Flow: flowOf(true, fan.Ports[flow]), FlowLabel: fan.Labels[flow], Epoch: 2})
			if got, want := hops(p), strings.Join(fan.texts(way), " "); got != want {
				t.Errorf("port %d and label %#x: by %s, want %s", fan.Ports[flow], fan.Labels[flow], got, want)
			}
		}
	}
	fan, _, err = tr.Enumerate(t.Context(), EnumerateRequest{Request: Request{Flow: flowOf(true, 40000), Epoch: 3, FlowLabel: 0x12345}, OneLabel: true})
	if err != nil || len(fan.Paths) != 1 || slices.ContainsFunc(fan.Labels, func(l uint32) bool { return l != 0x12345 }) {
		t.Errorf("%v: %d paths with labels %v, want one", err, len(fan.Paths), fan.Labels)
	}
}

// Traces and an enumeration at the same time do not mix up their answers.
func TestEnumerationBesideTraces(t *testing.T) {
	f := newFan(t)
	tr := f.tracerAt("h1", testConfig(), 3)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			p := tr.Trace(t.Context(), flowOf(false, uint16(40000+i)), 1)
			if status(p) != "complete" {
				t.Errorf("%s: %s", status(p), p.GetWhy())
			}
		})
	}
	fan, _, err := tr.Enumerate(t.Context(), EnumerateRequest{Request: Request{Flow: flowOf(false, 39990), Epoch: 1}})
	all.Wait()
	if err != nil || len(fan.Paths) != spines {
		t.Errorf("%v, %+v", err, fan)
	}
	if s := tr.Stats(); s.AnswersInvalid != 0 {
		t.Errorf("%+v", s)
	}
}

// A loop between r1 and the spines shows as one, and not as a path.
func TestRoutingLoop(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		f.loop(v6)
		tr := f.tracerAt("h1", testConfig(), 0)
		p := tr.Trace(t.Context(), flowOf(v6, 40000), 1)
		want(t, p, "partial", "a routing loop")
		if n := len(p.GetHops()); n < 4 {
			t.Errorf("%d hops: %s", n, hops(p))
		}
	})
}

// loop sends what the spines get for h2 back to r1.
func (f *fan) loop(v6 bool) {
	f.t.Helper()
	dst, a := netip.PrefixFrom(addr4(4, 0, 0), 31), addr4
	if v6 {
		dst, a = netip.PrefixFrom(addr6(4, 0, 0), 127), addr6
	}
	for i := 1; i <= spines; i++ {
		f.replace(fmt.Sprint("s", i), dst, map[string]netip.Addr{"r1": a(2, i, 0)})
	}
}

// balancePackets has r1 send every other TCP packet to the first spine, whatever
// its flow, and the others to the second.
func (f *fan) balancePackets() {
	f.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(f.nodes["r1"])))
	if err != nil {
		f.t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "mark"})
	chain := c.AddChain(&nftables.Chain{Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(protocol(packet.TCP),
		&expr.Numgen{Register: 1, Modulus: 2, Type: unix.NFT_NG_INCREMENTAL, Offset: 1},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	)})
	if err := c.Flush(); err != nil {
		f.t.Fatal(err)
	}
	f.handle("r1", func(h *netlink.Handle) error {
		for i := 1; i <= 2; i++ {
			l, err := h.LinkByName(fmt.Sprint("s", i))
			if err != nil {
				return err
			}
			dst := ipNet(netip.PrefixFrom(addr4(4, 0, 0), 31))
			route := &netlink.Route{Dst: dst, LinkIndex: l.Attrs().Index, Gw: addr4(2, i, 1).AsSlice(), Table: 100 + i}
			if err := h.RouteAdd(route); err != nil {
				return err
			}
			rule := netlink.NewRule()
			rule.Mark, rule.Table, rule.Priority = uint32(i), 100+i, 100+i
			if err := h.RuleAdd(rule); err != nil {
				return err
			}
		}
		return nil
	})
}

// A router that balances packet by packet is named; what lies behind it is not
// called a path of anybody's flow.
func TestPacketsBalancedOneByOne(t *testing.T) {
	f := newFan(t)
	f.balancePackets()
	tr := f.tracerAt("h1", testConfig(), 3)
	fan, _, err := tr.Enumerate(t.Context(), EnumerateRequest{Request: Request{Flow: flowOf(false, 40000), Epoch: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if fan.Complete || len(fan.Hops[1]) != 2 || !fan.Hops[0][0].PerPacket || !strings.Contains(fan.Why, "10.1.0.1 (TTL 1) balances packets of one flow one by one") {
		t.Errorf("complete %v, %d at TTL 2, %q", fan.Complete, len(fan.Hops[1]), fan.Why)
	}
	// A trace sees it once it has to ask twice.
	f.everySecond("s1")
	f.everySecond("s2")
	told := 0
	for i := range int64(30) {
		p := tr.Trace(t.Context(), flowOf(false, 40000), 10+i)
		if strings.Contains(p.GetWhy(), "balanced one by one") {
			told++
			if status(p) != "partial" {
				t.Errorf("%s: %s", status(p), p.GetWhy())
			}
		}
	}
	if told == 0 {
		t.Error("no trace told")
	}
}
