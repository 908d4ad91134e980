package device

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"golang.org/x/sys/unix"
)

// flooded is a router that drops what is for port 9, by the firewall, and an agent on
// it.
type flooded struct {
	*lab
	frames
	a       *Agent
	client  gnmipb.GNMIClient
	dropped func() uint64 // as the rule counts
}

func newFlooded(t *testing.T, cfg Config) *flooded {
	l := newLab(t)
	x := &flooded{lab: l, frames: frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}}
	x.dropped = l.r.portRule(nftables.ChainHookForward, 9, &expr.Counter{}, dropped)
	x.a = startAgent(t, l.r, cfg)
	x.client = dial(t, l.r, x.a, nil)
	return x
}

// settled waits until all is dropped and counted, and returns how many the rule
// dropped. The others met a full backlog before, which is a drop too.
func (x *flooded) settled(t *testing.T, sent uint64) (dropped uint64) {
	t.Helper()
	until(t, "all is dropped and counted", func() bool {
		dropped = x.dropped()
		full := x.r.link("eth1").Attrs().Statistics.RxDropped
		return dropped+full >= sent && classPackets(x.a, PolicyL3ACL) == dropped && classPackets(x.a, NoBuffer) >= full
	})
	return dropped
}

// toldOf subscribes to events, and counts them by filter.
func (x *flooded) toldOf(t *testing.T) func(filter string) uint64 {
	t.Helper()
	counts := map[string]*atomic.Uint64{}
	for _, name := range []string{"", "four", "six", "dscp", "over"} {
		counts[name] = new(atomic.Uint64)
	}
	receive(t, x.client, func(n *gnmipb.Notification) {
		if _, is, err := yang.DecodeEvent(n); err != nil || !is {
			return
		}
		filter := ""
		for _, u := range n.GetUpdate() {
			if e := u.GetPath().GetElem(); e[len(e)-1].GetName() == "filter" {
				filter = u.GetVal().GetStringVal()
			}
		}
		if c := counts[filter]; c != nil {
			c.Add(1)
		}
	}, func() {}, "loss")
	return func(filter string) uint64 { return counts[filter].Load() }
}

// matched is how many packets matched a filter, by the agent.
func (x *flooded) matched(name string) (n uint64) {
	x.a.reporting.Lock()
	defer x.a.reporting.Unlock()
	for _, f := range x.a.inForce.filters.list {
		if f.Name == name {
			n = f.Matched
		}
	}
	return n
}

// Of a flood of 100,000 drops of one cause every drop has an event that matches a
// filter for a path test, with the settings that are there by default; what does not
// match has none.
func TestFilterInAFlood(t *testing.T) {
	x := newFlooded(t, testConfig())
	told := x.toldOf(t)
	end := time.Now().Add(time.Hour)
	for _, f := range []string{
		filterJSON("four", end, `,"source-prefix":"10.0.1.64/26","destination-prefix":"10.0.2.0/24","destination-port":9,"protocol":17`),
		filterJSON("six", end, `,"destination-prefix":"fd00:2::/64","source-prefix":"fd00:1::40/122"`),
		filterJSON("dscp", end, `,"dscp":46,"protocol":17`),
	} {
		if _, err := x.client.Set(t.Context(), change(f)); err != nil {
			t.Fatal(err)
		}
	}
	const flood, each = 100_000, 500 // 200 of each kind
	four := x.udp4("10.0.1.65", "10.0.2.99", 9, 60, 1, nil, nil)
	six := x.udp6("fd00:1::41", "fd00:2::99", 9, 60, 1)
	marked := x.udp4("10.0.1.2", "10.0.2.99", 9, 60, 2, func(ip []byte) { ip[1] = 46<<2 | 1 }, nil)
	others := [][]byte{
		x.udp4("10.0.1.2", "10.0.2.99", 9, 60, 3, nil, nil), x.udp6("fd00:1::2", "fd00:2::99", 9, 60, 3),
		x.udp4("10.0.1.129", "10.0.2.99", 9, 60, 3, func(ip []byte) { ip[1] = 45 << 2 }, nil), x.udp6("fd00:1::81", "fd00:2::99", 9, 60, 3),
	}
	arrived := map[string]uint64{}
	x.h1.sendFrames("eth0", flood, func(i int) []byte {
		switch i % each {
		case 0:
			arrived["four"]++
			return four
		case 1:
			arrived["six"]++
			return six
		case 2:
			arrived["dscp"]++
			return marked
		}
		return others[i%len(others)]
	})
	x.settled(t, flood)
	for name, want := range arrived {
		until(t, "an event of each drop that matches "+name, func() bool { return told(name) >= want })
		if n, m := told(name), x.matched(name); n != want || m != want {
			t.Errorf("%s: %d events and %d matched of %d", name, n, m, want)
		}
	}
	if n := told(""); n != 0 {
		t.Errorf("%d events of drops that match no filter", n)
	}

	// Once its time is over a filter is gone.
	if _, err := x.client.Set(t.Context(), forget("filters")); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(300 * time.Millisecond)
	if _, err := x.client.Set(t.Context(), change(filterJSON("over", soon, `,"source-prefix":"10.0.1.65/32"`))); err != nil {
		t.Fatal(err)
	}
	until(t, "the filter has removed itself", func() bool { return len(x.a.setNow().filters.list) == 0 })
	x.h1.sendFrames("eth0", 100, func(int) []byte { return four })
	x.settled(t, flood+100)
	if n := told("over"); n != 0 {
		t.Errorf("%d events of a filter that is over", n)
	}
	k := x.a.sources.kernel.(*kernel)
	if n := k.tenant.shared.word(int(k.tenant.slot), agentFilters).Load(); n != 0 {
		t.Errorf("the program has %d filters still", n)
	}
}

// What matches a filter has an event as long as the fuse's budget lasts; beyond that
// it is counted as matched all the same.
func TestFilterOverBudget(t *testing.T) {
	cfg := testConfig()
	cfg.Fuse.Events, cfg.Report.Threshold = 50, 50
	x := newFlooded(t, cfg)
	if _, err := x.client.Set(t.Context(), change(filterJSON("four", time.Now().Add(time.Hour), `,"source-prefix":"10.0.1.65/32"`))); err != nil {
		t.Fatal(err)
	}
	const flood = 20_000
	four := x.udp4("10.0.1.65", "10.0.2.99", 9, 60, 1, nil, nil)
	x.h1.sendFrames("eth0", flood, func(int) []byte { return four })
	x.settled(t, flood)
	until(t, "all has matched", func() bool { return x.matched("four") == flood })
	if n := x.a.State().Events; n < 50 || n > flood/4 {
		t.Errorf("%d events of %d drops at a budget of 50", n, flood)
	}
}

// More filters than the program takes work too, as far as a flood lets them.
func TestMoreFiltersThanTheProgramTakes(t *testing.T) {
	x := newFlooded(t, testConfig())
	told := x.toldOf(t)
	for i := range kernelFilters {
		if _, err := x.client.Set(t.Context(), change(filterJSON(fmt.Sprint("a", i), time.Now().Add(time.Hour), fmt.Sprintf(`,"source-port":%d`, 9000+i)))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.client.Set(t.Context(), change(filterJSON("four", time.Now().Add(time.Hour), `,"source-prefix":"10.0.1.65/32"`))); err != nil {
		t.Fatal(err)
	}
	four := x.udp4("10.0.1.65", "10.0.2.99", 9, 60, 1, nil, nil)
	x.h1.sendFrames("eth0", 200, func(int) []byte { return four })
	x.settled(t, 200)
	until(t, "an event of each", func() bool { return told("four") == 200 && x.matched("four") == 200 })
}

// toldFlow is what was told of one flow.
type toldFlow struct{ events, repeats, stopped, left uint64 }

// packets is how many of its packets that is.
func (f toldFlow) packets() uint64 { return f.events + f.repeats + f.left }

// flowsOf subscribes to what is told of flows; what it returns gives, by source port,
// what came until then.
func (x *flooded) flowsOf(t *testing.T) func() map[uint16]toldFlow {
	t.Helper()
	flows := map[uint16]toldFlow{}
	updates := make(chan *gnmipb.Notification, 1<<14)
	receive(t, x.client, func(n *gnmipb.Notification) { updates <- n }, func() {}, "loss")
	return func() map[uint16]toldFlow {
		for len(updates) > 0 {
			n := <-updates
			ev, is, err := yang.DecodeEvent(n)
			x.r.must("event", err)
			if is && ev.Class == PolicyL3ACL {
				port := eventFlow(ev).Src.Port()
				f := flows[port]
				f.events++
				for _, u := range n.GetUpdate() {
					if e := u.GetPath().GetElem(); e[len(e)-1].GetName() == "repeats" {
						f.repeats += u.GetVal().GetUintVal()
					}
				}
				flows[port] = f
			}
			tr, is, err := yang.DecodeTransition(n)
			x.r.must("transition", err)
			if is && tr.Kind == "flow" {
				flow, err := packet.FlowFromPB(tr.Flow)
				x.r.must("flow", err)
				f := flows[flow.Src.Port()]
				f.stopped++
				f.left += tr.Measured
				flows[flow.Src.Port()] = f
			}
		}
		return flows
	}
}

// In a class that is de-duplicated flows that flood hide no other one: each has an
// event of its first drop, and all other drops count as duplicates.
func TestDeduplicatedFlood(t *testing.T) {
	cfg := testConfig()
	every := time.Minute
	cfg.Classes = map[string]ClassConfig{PolicyL3ACL: {Deduplicate: &every}}
	x := newFlooded(t, cfg)
	told := x.flowsOf(t)
	x.h1.sendFrames("eth0", 1, func(int) []byte { return x.udp4("10.0.1.2", "10.0.2.99", 9, 60, 0, nil, nil) })
	x.settled(t, 1) // its class is known
	// One flow of each family of some 50,000, and 50 of 2 drops beside them.
	const flood, others = 100_000, 50
	x.h1.sendFrames("eth0", flood, func(i int) []byte {
		id := uint16(i % 2)
		if i%1000 == 999 {
			id = uint16(10 + i/1000%others)
		}
		if id%2 == 0 {
			return x.udp4("10.0.1.2", "10.0.2.99", 9, 60, id, nil, nil)
		}
		return x.udp6("fd00:1::2", "fd00:2::99", 9, 60, id)
	})
	dropped := x.settled(t, flood+1)
	until(t, "each flow has an event", func() bool { return len(told()) >= others+2 })
	for port, f := range told() {
		if f != (toldFlow{events: 1}) {
			t.Errorf("port %d: %+v, want one event", port, f)
		}
	}
	x.a.reporting.Lock()
	defer x.a.reporting.Unlock()
	list := x.a.reporter.reporting()
	c := list[slices.IndexFunc(list, func(c yang.ClassReporting) bool { return c.Name == PolicyL3ACL })]
	if got := (yang.Suppressed{Duplicate: dropped - others - 2}); c.Suppressed != got {
		t.Errorf("suppressed %+v, want %+v", c.Suppressed, got)
	}
}

// A flow that goes on has more events, each with how many drops there were between,
// and at last it stopped: each drop is in one of them.
func TestDeduplicatedFlowGoesOn(t *testing.T) {
	cfg := testConfig()
	every := 200 * time.Millisecond
	cfg.Classes = map[string]ClassConfig{PolicyL3ACL: {Deduplicate: &every}}
	x := newFlooded(t, cfg)
	told := x.flowsOf(t)
	sent := uint64(0)
	until(t, "more events of the flow", func() bool {
		x.h1.sendFrames("eth0", 100, func(int) []byte { return x.udp4("10.0.1.2", "10.0.2.99", 9, 60, 0, nil, nil) })
		sent += 100
		f := told()[1024]
		return f.events >= 3 && f.repeats > 0
	})
	dropped := x.settled(t, sent)
	until(t, "the flow has stopped, with each of its drops", func() bool {
		f := told()[1024]
		return f.stopped > 0 && f.packets() >= dropped
	})
	f := told()[1024]
	if f.packets() != dropped || f.events > dropped/20 {
		t.Errorf("%+v of %d drops", f, dropped)
	}
	t.Logf("%+v of %d drops", f, dropped)
}

// A class sends up what its threshold needs, and not as much for each of its causes
// on each processor.
func TestPaceOfAClass(t *testing.T) {
	cfg := testConfig()
	cfg.Report.Threshold = 200
	x := newFlooded(t, cfg)
	frames := [][]byte{x.udp4("10.0.1.2", "10.0.2.99", 9, 60, 1, nil, nil), x.udp6("fd00:1::2", "fd00:2::99", 9, 60, 1)}
	x.h1.sendFrames("eth0", 2, func(i int) []byte { return frames[i] })
	x.settled(t, 2)
	k := x.a.sources.kernel.(*kernel)
	begin := time.Now()
	const flood = 40_000
	var all sync.WaitGroup
	for i := range frames {
		all.Go(func() { x.h1.sendFrames("eth0", flood/2, func(int) []byte { return frames[i] }) })
	}
	all.Wait()
	dropped := x.settled(t, flood+2)
	p := cfg.pace(PolicyL3ACL)
	most := p.burst + p.rate*time.Since(begin).Seconds() + 2
	causes, sent := 0, dropped
	var key [causeSize]byte
	var values [][tallySize]byte
	for entries := k.tenant.causes.Iterate(); entries.Next(&key, &values); {
		if r := parseCause(key[:]); k.reason(r.reason) != netfilterDrop {
			continue
		}
		causes++
		for _, v := range values {
			for bank := range 2 {
				sent -= binary.NativeEndian.Uint64(v[tallyHeld+bank*tallyBank:]) + binary.NativeEndian.Uint64(v[tallyLost+bank*tallyBank:])
			}
		}
	}
	t.Logf("%d of %d drops of %d causes came up, at most %.0f", sent, dropped, causes, most)
	if causes < 2 || float64(sent) > most {
		t.Errorf("%d of %d drops of %d causes came up, want %.0f at most", sent, dropped, causes, most)
	}
}

// BenchmarkWatchedDrops is BenchmarkDropProgram where the program looks at flows before
// the bucket: for as many filters as it takes, none of which match, and for a class that
// is de-duplicated.
func BenchmarkWatchedDrops(b *testing.B) {
	off, _ := ownProgram(b)
	reasons := benchReasons(b)
	for _, watch := range []string{"nothing", "filters", "flows"} {
		for _, flows := range []int{1, 16_000} {
			b.Run(fmt.Sprintf("watch=%s/flows=%d", watch, flows), func(b *testing.B) {
				l := newLab(b)
				l.r.route("10.20.0.0/16", "", unix.RTN_BLACKHOLE)
				k := l.r.openVariant(off, reasons, leastPace.bucket())
				f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
				list := make([][]byte, flows)
				for i := range list {
					list[i] = f.udp4("10.0.1.2", "10.20.0.1", 9, 60, uint16(i), nil, nil)
				}
				send := func(n int) { l.h1.sendFrames("eth0", n, func(i int) []byte { return list[i%len(list)] }) }
				send(1) // its cause is known then
				switch watch {
				case "filters":
					rows := make([][filterSize]byte, kernelFilters)
					for i := range rows {
						port := uint16(i + 1)
						rows[i] = filterRow(&yang.Filter{Source: netip.MustParsePrefix("10.0.1.0/24"), Destination: netip.MustParsePrefix("10.20.0.0/24"), SourcePort: &port})
					}
					_, err := k.tenant.setFilters(rows, pace{rate: 10_000, burst: 10_000}.bucket())
					l.r.must("filters", err)
				case "flows":
					l.r.must("flows", k.tenant.rememberFlows(true))
					k.tenant.setBucket(1, pace{rate: 10_000, burst: 10_000}.bucket(), 1<<20)
					var key [causeSize]byte
					var values [][tallySize]byte
					for entries := k.tenant.causes.Iterate(); entries.Next(&key, &values); {
						l.r.must("class", k.tenant.setClass(key, 1))
					}
					k.tenant.changed()
					send(2 * flows)
				}
				l.perDrop(b, k.shared.program, list)
			})
		}
	}
}
