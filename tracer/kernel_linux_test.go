package tracer

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
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
	"decaf/topology"
)

const port = 5201

// tracerAt starts a Tracer in a node of the fan and stops it with the test.
func (f *fan) tracerAt(node string, cfg Config, distance int) *Tracer {
	f.t.Helper()
	var tr *Tracer
	f.do(node, func() (err error) {
		tr, err = New(cfg, func(netip.Addr, netip.Addr) int { return distance }, slog.New(slog.DiscardHandler))
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- tr.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			f.t.Errorf("run: %v", err)
		}
	})
	return tr
}

// testConfig has no budget to speak of, and a timeout that a machine busy with
// other tests does not run into.
func testConfig() Config {
	cfg := DefaultConfig()
	cfg.Rate, cfg.Burst = 1e6, 1e6
	cfg.Timeout = 500 * time.Millisecond
	return cfg
}

func flowOf(v6 bool, srcPort uint16) packet.Flow {
	a := addr4
	if v6 {
		a = addr6
	}
	return packet.Flow{
		Src:   netip.AddrPortFrom(a(1, 0, 0), srcPort),
		Dst:   netip.AddrPortFrom(a(4, 0, 1), port),
		Proto: packet.TCP,
	}
}

// serve accepts connections at h2 and throws away what comes, until the test ends.
func (f *fan) serve(v6 bool) {
	f.t.Helper()
	var l net.Listener
	f.do("h2", func() (err error) {
		l, err = net.Listen("tcp", flowOf(v6, 0).Dst.String())
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	f.t.Cleanup(func() { l.Close(); <-done })
}

// dial opens a flow from h1.
func (f *fan) dial(flow packet.Flow) net.Conn {
	f.t.Helper()
	var c net.Conn
	f.do("h1", func() (err error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(flow.Src), Timeout: 5 * time.Second}
		c, err = d.Dial("tcp", flow.Dst.String())
		return err
	})
	return c
}

func status(p *decafpb.Path) string { return statusWord(p.GetStatus()) }

func hopAddr(h *decafpb.Hop) netip.Addr {
	a, _ := netip.AddrFromSlice(h.GetAddress())
	return a
}

// TestPathIsTheFlows: the spine that a trace names is the one that carried the
// flow's own packets, as its interface counted them.
func TestPathIsTheFlows(t *testing.T) {
	f := newFan(t)
	tr := f.tracerAt("h1", testConfig(), 3)
	for _, v6 := range []bool{false, true} {
		name, a := "ipv4", addr4
		if v6 {
			name, a = "ipv6", addr6
		}
		t.Run(name, func(t *testing.T) {
			f.serve(v6)
			used := map[int]int{}
			for i := range 40 {
				flow := flowOf(v6, uint16(40000+i))
				c := f.dial(flow)
				before := f.received()
				for range 40 {
					if _, err := c.Write(make([]byte, 500)); err != nil {
						t.Fatal(err)
					}
				}
				// Closed by both: all has arrived.
				c.(*net.TCPConn).CloseWrite()
				if _, err := io.Copy(io.Discard, c); err != nil {
					t.Fatal(err)
				}
				after := f.received()
				c.Close()
				spine, most := 0, uint64(0)
				for s := range before {
					if n := after[s] - before[s]; n > most {
						spine, most = s+1, n
					}
				}
				path := tr.Trace(t.Context(), flow, 1)
				if got := status(path); got != "complete" {
					t.Fatalf("%s: %s: %s", flow, got, path.GetWhy())
				}
				want := []netip.Addr{a(1, 0, 1), a(2, spine, 1), a(3, spine, 1)}
				for ttl, h := range path.GetHops() {
					if hopAddr(h) != want[ttl] {
						t.Errorf("%s: TTL %d: %s, the flow's packets came by %s", flow, ttl+1, hopAddr(h), want[ttl])
					}
				}
				if path.GetProbeSeq() == 0 || (path.GetProbeId() == 0) != v6 || path.GetDistance() != 3 {
					t.Errorf("%s: probe_seq %d probe_id %d distance %d", flow, path.GetProbeSeq(), path.GetProbeId(), path.GetDistance())
				}
				used[spine]++
			}
			if len(used) != spines {
				t.Errorf("flows per spine %v: want all %d used", used, spines)
			}
			t.Log("flows per spine:", used)
		})
	}
	t.Logf("%+v", tr.Stats())
}

// families runs a test for IPv4 and IPv6, each on a fan of its own.
func families(t *testing.T, test func(t *testing.T, f *fan, v6 bool)) {
	t.Helper()
	t.Run("ipv4", func(t *testing.T) { test(t, newFan(t), false) })
	t.Run("ipv6", func(t *testing.T) { test(t, newFan(t), true) })
}

// want checks a path's status and what its why must hold.
func want(t *testing.T, p *decafpb.Path, wantStatus, why string) {
	t.Helper()
	if status(p) != wantStatus || !strings.Contains(p.GetWhy(), why) {
		t.Errorf("%s, %q: want %s, %q", status(p), p.GetWhy(), wantStatus, why)
	}
}

// hops gives the path as text: one word per hop, "-" for a silent one.
func hops(p *decafpb.Path) string {
	var words []string
	for _, h := range p.GetHops() {
		switch h.GetStatus() {
		case decafpb.HopStatus_HOP_STATUS_SILENT:
			words = append(words, "-")
		case decafpb.HopStatus_HOP_STATUS_ANSWERED:
			words = append(words, hopAddr(h).String())
		default:
			words = append(words, hopStatusWord(h.GetStatus())+":"+hopAddr(h).String())
		}
	}
	return strings.Join(words, " ")
}

// Half of the probes die on the way: the resends find the path all the same,
// and the same path as without loss.
func TestLostProbesAreSentAgain(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		tr := f.tracerAt("h1", testConfig(), 3)
		for i := range 20 {
			flow := flowOf(v6, uint16(40000+i))
			healthy := tr.Trace(t.Context(), flow, 1)
			want(t, healthy, "complete", "")
			f.everySecond("r1")
			lossy := tr.Trace(t.Context(), flow, 2)
			f.repair("r1")
			want(t, lossy, "complete", "")
			if hops(lossy) != hops(healthy) {
				t.Errorf("%s: %s with loss, %s without", flow, hops(lossy), hops(healthy))
			}
		}
		s := tr.Stats()
		if s.Resent == 0 || s.Complete != 40 || s.Probes != 120+s.Resent {
			t.Errorf("%+v", s)
		}
	})
}

// Behind a black hole nothing answers; the switch that is one still does, since
// a TTL ends before a packet is forwarded.
func TestBlackholeShowsAsSilence(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		tr := f.tracerAt("h1", testConfig(), 3)
		for i := 1; i <= spines; i++ {
			f.blackhole(fmt.Sprint("s", i))
		}
		p := tr.Trace(t.Context(), flowOf(v6, 40000), 1)
		want(t, p, "partial", "1 of 3 hops silent, first TTL 3 after")
		if !strings.HasSuffix(hops(p), " -") || len(p.GetHops()) != 3 || p.GetHops()[2].GetProbes() < 5 {
			t.Error(hops(p))
		}
	})
}

// A switch that may not answer more is silent, and the rest of the path is
// there: a rate limit is not a loss, and no path is invented.
func TestRateLimitedSwitches(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		icmp := packet.ICMP
		if v6 {
			icmp = packet.ICMPv6
		}
		tr := f.tracerAt("h1", testConfig(), 3)
		const answers = 5
		f.answersAtMost("r2", icmp, answers)
		var paths [20]*decafpb.Path
		var all sync.WaitGroup
		for i := range paths {
			all.Go(func() { paths[i] = tr.Trace(t.Context(), flowOf(v6, uint16(40000+i)), 1) })
		}
		all.Wait()
		complete := 0
		for _, p := range paths {
			if status(p) == "complete" {
				complete++
				continue
			}
			want(t, p, "partial", "1 of 3 hops silent, first TTL 3 after")
			if !strings.HasSuffix(hops(p), " -") || strings.Count(hops(p), " ") != 2 {
				t.Error(hops(p))
			}
		}
		if complete == 0 || complete > answers+1 {
			t.Errorf("%d complete with %d answers allowed", complete, answers)
		}
		if s := tr.Stats(); s.Complete != uint64(complete) || s.Partial != uint64(len(paths)-complete) {
			t.Errorf("%+v", s)
		}
	})
}

// A switch without a route says so, once, at its place in the path.
func TestNoRouteOnTheWay(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		tr := f.tracerAt("h1", testConfig(), 3)
		for i := 1; i <= spines; i++ {
			f.handle(fmt.Sprint("s", i), func(h *netlink.Handle) error {
				dst := netip.PrefixFrom(addr4(4, 0, 0), 31)
				if v6 {
					dst = netip.PrefixFrom(addr6(4, 0, 0), 127)
				}
				return h.RouteDel(&netlink.Route{Dst: ipNet(dst)})
			})
		}
		p := tr.Trace(t.Context(), flowOf(v6, 40000), 1)
		says := "network unreachable"
		if v6 {
			says = "no route to destination"
		}
		want(t, p, "partial", "says at TTL 2: "+says)
		if len(p.GetHops()) != 2 || p.GetHops()[1].GetStatus() != decafpb.HopStatus_HOP_STATUS_UNREACHABLE {
			t.Error(hops(p))
		}
	})
}

// snmp reads a counter of /proc/net/snmp at a node.
func (f *fan) snmp(node, section, name string) (value uint64) {
	f.t.Helper()
	f.do(node, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(b)) {
			words := strings.Fields(line)
			if words[0] != section+":" {
				continue
			}
			if names == nil {
				names = words
				continue
			}
			value, err = strconv.ParseUint(words[slices.Index(names, name)], 10, 64)
			return err
		}
		return fmt.Errorf("no %s in /proc/net/snmp", section)
	})
	return value
}

// With the distance known no probe comes as far as the host. Without it some
// do: they are dropped for their checksum, unanswered, and the flow lives on.
func TestTheFlowIsNotDisturbed(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		f.serve(v6)
		flow := flowOf(v6, 40000)
		c := f.dial(flow)
		defer c.Close()
		known, unknown := f.tracerAt("h1", testConfig(), 3), f.tracerAt("h1", testConfig(), 0)
		retransmits := f.snmp("h1", "Tcp", "RetransSegs")
		exact := known.Trace(t.Context(), flow, 1)
		want(t, exact, "complete", "")
		if n := f.snmp("h2", "Tcp", "InErrs"); n != 0 {
			t.Errorf("%d probes reached the host with the distance known", n)
		}
		p := unknown.Trace(t.Context(), flow, 1)
		want(t, p, "partial", "distance unknown, nothing answered beyond TTL 3")
		if hops(p) != hops(exact) || p.GetDistance() != 0 {
			t.Errorf("%s, distance %d: want %s", hops(p), p.GetDistance(), hops(exact))
		}
		// TTL 4, and once more.
		beyond := unknown.Stats().Probes
		for _, h := range p.GetHops() {
			beyond -= uint64(h.GetProbes())
		}
		if n := f.snmp("h2", "Tcp", "InCsumErrors"); n != beyond || n < 1 || n > carefulProbes {
			t.Errorf("%d probes came to the host with a wrong checksum, want %d, and %d at most", n, beyond, carefulProbes)
		}
		if _, err := c.Write([]byte("still here")); err != nil {
			t.Error(err)
		}
		if n := f.snmp("h1", "Tcp", "RetransSegs"); n != retransmits {
			t.Errorf("%d retransmits", n-retransmits)
		}
		if n := f.snmp("h2", "Tcp", "OutRsts"); n != 0 {
			t.Errorf("%d resets", n)
		}
	})
}

// Many ask for one flow at a time: one trace is made and all get it.
func TestOneTracePerFlowAndEpoch(t *testing.T) {
	f := newFan(t)
	tr := f.tracerAt("h1", testConfig(), 3)
	flow := flowOf(false, 40000)
	var paths [50]*decafpb.Path
	var all sync.WaitGroup
	for i := range paths {
		all.Go(func() { paths[i] = tr.Trace(t.Context(), flow, 7) })
	}
	all.Wait()
	var first *decafpb.Path
	for _, p := range paths {
		if status(p) == "complete" {
			if first != nil {
				t.Error("traced twice")
			}
			first = p
		}
	}
	if first == nil {
		t.Fatal("not traced")
	}
	for _, p := range paths {
		if p == first {
			continue
		}
		want(t, p, "cached", "traced earlier in this epoch: complete")
		if hops(p) != hops(first) || p.GetProbeSeq() != first.GetProbeSeq() || p.GetProbeId() != first.GetProbeId() || p.GetStartNs() != first.GetStartNs() {
			t.Errorf("cached %v, first %v", p, first)
		}
		p.Hops[0].Address = nil // its own: nobody else sees this
	}
	if p := tr.Trace(t.Context(), flow, 7); hops(p) != hops(first) {
		t.Error("the cached path can be changed from outside")
	}
	want(t, tr.Trace(t.Context(), flow, 8), "complete", "")
	if s := tr.Stats(); s.Traces != 2 || s.Complete != 2 || s.Cached != 50 || s.Probes-s.Resent != 6 {
		t.Errorf("%+v", s)
	}
}

// A trace that is started has its probes on their way, unless to learn what the
// flow is on the wire may take a while; the path is there for who waits.
func TestStart(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		tr := f.tracerAt("h1", testConfig(), 3)
		flow := flowOf(v6, 40000)
		first := tr.Start(Request{Flow: flow, Epoch: 7})
		if s := tr.Stats(); s.Traces != 1 || s.Probes != 3 {
			t.Errorf("%+v, want one trace of three probes", s)
		}
		second := tr.Start(Request{Flow: flow, Epoch: 7})
		p := first(t.Context())
		want(t, p, "complete", "")
		again := second(t.Context())
		want(t, again, "cached", "traced earlier in this epoch: complete")
		if direct := tr.Trace(t.Context(), flow, 8); hops(p) != hops(direct) || hops(again) != hops(direct) {
			t.Errorf("%s, %s, and %s where nobody started it", hops(p), hops(again), hops(direct))
		}
		if s := tr.Stats(); s.Traces != 2 || s.Complete != 2 || s.Cached != 1 || s.Probes-s.Resent != 6 {
			t.Errorf("%+v", s)
		}

		cfg := testConfig()
		cfg.Translate.Others = []Translator{rewriter(func(f packet.Flow) (packet.Flow, error) { return f, nil })}
		slow := f.tracerAt("h1", cfg, 3)
		wait := slow.Start(Request{Flow: flow, Epoch: 7})
		if s := slow.Stats(); s.Probes != 0 {
			t.Errorf("%d probes before anybody said what the flow is on the wire", s.Probes)
		}
		want(t, wait(t.Context()), "complete", "")

		cfg.Rate, cfg.Burst = 1e-6, 1
		spent := f.tracerAt("h1", cfg, 3)
		spent.Start(Request{Flow: flow, Epoch: 1})(t.Context())
		want(t, spent.Start(Request{Flow: flowOf(v6, 40001), Epoch: 1})(t.Context()), "refused", "")
	})
}

// Traces at the same time do not mix up their answers.
func TestManyFlowsAtOnce(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		tr := f.tracerAt("h1", testConfig(), 3)
		var alone, together [150]*decafpb.Path
		for i := range alone {
			alone[i] = tr.Trace(t.Context(), flowOf(v6, uint16(40000+i)), 1)
		}
		var all sync.WaitGroup
		for i := range together {
			all.Go(func() { together[i] = tr.Trace(t.Context(), flowOf(v6, uint16(40000+i)), 2) })
		}
		all.Wait()
		seen := map[uint32]bool{}
		for i := range together {
			want(t, together[i], "complete", "")
			if hops(together[i]) != hops(alone[i]) {
				t.Errorf("flow %d: %s together, %s alone", i, hops(together[i]), hops(alone[i]))
			}
			seen[together[i].GetProbeSeq()] = true
		}
		if len(seen) != len(together) {
			t.Errorf("%d identities for %d traces", len(seen), len(together))
		}
		if s := tr.Stats(); s.AnswersInvalid != 0 || s.QueueLost != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Beyond its budget a host does not trace, and says so; the flow may be traced
// when there is budget again.
func TestBudget(t *testing.T) {
	f := newFan(t)
	cfg := testConfig()
	cfg.Rate, cfg.Burst = 1e-6, 2
	tr := f.tracerAt("h1", cfg, 3)
	for i, w := range []string{"complete", "complete", "refused", "refused"} {
		p := tr.Trace(t.Context(), flowOf(false, uint16(40000+i)), 1)
		want(t, p, w, "")
		if w == "refused" && (p.GetWhy() == "" || p.GetProbeSeq() != 0 || len(p.GetHops()) != 0) {
			t.Error(p)
		}
	}
	want(t, tr.Trace(t.Context(), flowOf(false, 40000), 1), "cached", "")
	want(t, tr.Trace(t.Context(), flowOf(false, 40002), 1), "refused", "traces per second")
	if s := tr.Stats(); s.Refused != 3 || s.Traces != 2 || s.Probes-s.Resent != 6 {
		t.Errorf("%+v", s)
	}
	if spent := tr.Spent(); spent <= 0 || spent > 1.5e6*time.Second {
		t.Errorf("budget spent for %v", spent)
	}
	want(t, tr.Refuse(), "refused", "traces per second")
	tr.SetRate(1e6)
	eventually(t, func() bool { return tr.Spent() == 0 })
	eventually(t, func() bool { return status(tr.Trace(t.Context(), flowOf(false, 40002), 1)) == "complete" })
	cfg = testConfig()
	cfg.MaxLive = 1
	cfg.Timeout = 10 * time.Second
	few := f.tracerAt("h1", cfg, 15) // waits for hops that are not there
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan *decafpb.Path)
	go func() { over <- few.Trace(ctx, flowOf(false, 40000), 1) }()
	eventually(t, func() bool { return few.Stats().Probes > 0 })
	want(t, few.Trace(t.Context(), flowOf(false, 40001), 1), "refused", "1 traces under way")
	cancel()
	<-over
}

// eventually polls until cond holds.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("still not so after 5 s")
		}
	}
}

// A caller that gives up ends the trace; who waits for the same one then makes
// its own.
func TestGivingUp(t *testing.T) {
	f := newFan(t)
	cfg := testConfig()
	cfg.Timeout = 10 * time.Second
	tr := f.tracerAt("h1", cfg, 3)
	for i := 1; i <= spines; i++ {
		f.blackhole(fmt.Sprint("s", i))
	}
	flow := flowOf(false, 40000)
	ctx, cancel := context.WithCancelCause(t.Context())
	leader, follower := make(chan *decafpb.Path), make(chan *decafpb.Path)
	go func() { leader <- tr.Trace(ctx, flow, 1) }()
	eventually(t, func() bool { return tr.Stats().Answers >= 2 })
	go func() { follower <- tr.Trace(t.Context(), flow, 1) }()
	cancel(errors.New("shift is over"))
	p := <-leader
	want(t, p, "partial", "given up: shift is over")
	if p.GetProbeSeq() == 0 || len(p.GetHops()) != 3 {
		t.Error(p)
	}
	eventually(t, func() bool { return tr.Stats().Traces == 2 })
	for i := 1; i <= spines; i++ {
		f.repair(fmt.Sprint("s", i))
	}
	want(t, <-follower, "complete", "")
	want(t, tr.Trace(ctx, flow, 1), "failed", "context canceled")
}

func TestClosing(t *testing.T) {
	f := newFan(t)
	cfg := testConfig()
	cfg.Timeout = 10 * time.Second
	tr := f.tracerAt("h1", cfg, 15)
	over := make(chan *decafpb.Path)
	go func() { over <- tr.Trace(t.Context(), flowOf(false, 40000), 1) }()
	eventually(t, func() bool { return tr.Stats().Answers >= 3 })
	if err := tr.Run(t.Context()); err == nil {
		t.Error("ran twice")
	}
	for range 2 {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
	want(t, <-over, "partial", "given up: the tracer was closed")
	want(t, tr.Trace(t.Context(), flowOf(false, 40001), 1), "failed", "closed")
}

// What cannot be sent says why, and costs no place in the cache.
func TestProbesThatCannotBeSent(t *testing.T) {
	f := newFan(t)
	tr := f.tracerAt("h1", testConfig(), 3)
	away := flowOf(false, 40000)
	away.Dst = netip.MustParseAddrPort("203.0.113.1:80")
	away6 := flowOf(true, 40000)
	away6.Dst = netip.MustParseAddrPort("[2001:db8::1]:80")
	for _, flow := range []packet.Flow{away, away6} {
		for range 2 {
			p := tr.Trace(t.Context(), flow, 1)
			want(t, p, "failed", "no probe could be sent: network is unreachable")
			if p.GetProbeSeq() != 0 {
				t.Error("an identity without a probe")
			}
		}
	}
	f.rule("h1", nftables.ChainHookOutput, append(protocol(packet.TCP), drop())...)
	want(t, tr.Trace(t.Context(), flowOf(false, 40000), 1), "failed", "a firewall on this host rejects the probe")
	f.repair("h1")
	want(t, tr.Trace(t.Context(), flowOf(false, 40000), 1), "complete", "")
	udp := flowOf(false, 40000)
	udp.Proto = packet.UDP
	mixed := flowOf(false, 40000)
	mixed.Dst = away6.Dst
	for _, flow := range []packet.Flow{udp, mixed, {}} {
		want(t, tr.Trace(t.Context(), flow, 1), "failed", "only TCP flows")
	}
}

// ICMP that answers none of our probes is counted and ignored; other ICMP does not even get
// out of the kernel.
func TestForeignAnswers(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		tr := f.tracerAt("h1", testConfig(), 3)
		flow := flowOf(v6, 40000)
		send := func(typ uint8, quote []byte) {
			f.do("r1", func() error {
				family, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
				var to unix.Sockaddr = &unix.SockaddrInet6{Addr: flow.Src.Addr().As16()}
				if !v6 {
					family, proto = unix.AF_INET, unix.IPPROTO_ICMP
					to = &unix.SockaddrInet4{Addr: flow.Src.Addr().As4()}
				}
				fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.Sendto(fd, append([]byte{typ, 0, 0, 0, 0, 0, 0, 0}, quote...), 0, to)
			})
		}
		exceeded, echo := uint8(11), uint8(8)
		if v6 {
			exceeded, echo = 3, 128
		}
		quote := marshal(t, packet.Probe{Flow: flow, TTL: 1, ID: 77, Seq: 1})
		send(exceeded, quote) // about a segment that was no probe
		eventually(t, func() bool { return tr.Stats().AnswersStray == 1 })
		send(exceeded, quote[:len(quote)-20]) // quotes no transport header
		eventually(t, func() bool { return tr.Stats().AnswersStray == 2 })
		for range 100 {
			send(echo, quote)
		}
		want(t, tr.Trace(t.Context(), flow, 1), "complete", "")
		if s := tr.Stats(); s.AnswersInvalid != 0 || s.Answers+s.AnswersStray-2 != s.Probes {
			t.Errorf("%+v", s)
		}
	})
}

// Without the privilege the error says which one it takes.
func TestNoPrivilege(t *testing.T) {
	needRoot(t)
	out := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, and so does what it gave up
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			out <- fmt.Errorf("capset: %w", err)
			return
		}
		_, err := New(DefaultConfig(), nil, slog.New(slog.DiscardHandler))
		out <- err
	}()
	if err := <-out; err == nil || !strings.Contains(err.Error(), "operation not permitted: run as root or with the capability CAP_NET_RAW") {
		t.Error(err)
	}
}

// decafTrace runs the command at h1.
func (f *fan) decafTrace(args ...string) (stdout string, err error) {
	f.t.Helper()
	var b strings.Builder
	f.do("h1", func() error {
		c := Command()
		c.SetArgs(args)
		c.SetOut(&b)
		c.SetErr(io.Discard)
		err = c.ExecuteContext(f.t.Context())
		return nil
	})
	return b.String(), err
}

func TestCommandTraces(t *testing.T) {
	f := newFan(t)
	f.serve(false)
	c := f.dial(flowOf(false, 40000))
	defer c.Close()
	// An open connection: told by its five-tuple, and left alone.
	challenges := f.snmp("h2", "Tcp", "InErrs")
	out, err := f.decafTrace("10.4.0.1:5201", "--flow", "10.1.0.0:40000", "--distance", "3")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"10.1.0.0:40000->10.4.0.1:5201/tcp: complete (", "TTL  ADDRESS", "1    10.1.0.1", "2    10.2.", "3    10.3."} {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in\n%s", w, out)
		}
	}
	if strings.Contains(out, "destination") || f.snmp("h2", "Tcp", "InErrs") != challenges {
		t.Errorf("a probe of an open connection reached the host\n%s", out)
	}
	// No connection: as far as the host, and what its port says.
	for to, says := range map[string]string{"10.4.0.1:5201": "destination open", "10.4.0.1:5202": "destination closed", "[fd00:4::1]:5202": "destination closed"} {
		out, err = f.decafTrace(to)
		if err != nil || !strings.Contains(out, "complete (") || !strings.Contains(out, says) || strings.Count(out, "\n") != 6 {
			t.Errorf("%s: %v\n%s", to, err, out)
		}
	}
	out, err = f.decafTrace("[fd00:4::1]:5201", "--max-ttl", "2", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var v pathView
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if v.Flow.Src != "fd00:1::" || v.Flow.SrcPort < 49152 || v.Flow.DstPort != 5201 || v.Status != "partial" || len(v.Hops) != 2 ||
		v.Hops[0].Address != "fd00:1::1" || v.Hops[0].RTTNS == 0 || v.ProbeSeq == 0 || v.TimeNS == 0 {
		t.Errorf("%s", out)
	}
	out, err = f.decafTrace("203.0.113.1:80", "--flow", "10.1.0.0:40000")
	if err == nil || !strings.Contains(err.Error(), "network is unreachable: this host has no route") || !strings.Contains(out, "failed: no probe could be sent") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestCommandWithoutAnswers(t *testing.T) {
	f := newFan(t)
	f.rule("r1", nftables.ChainHookPrerouting, append(protocol(packet.TCP), drop())...)
	if out, err := f.decafTrace("10.4.0.1:5201"); err == nil || !strings.Contains(err.Error(), "nothing answered: a firewall may drop") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What --all-paths finds makes a topology, and with it the same trace knows its
// distance and the switches' names.
func TestCommandLearnsATopology(t *testing.T) {
	f := newFan(t)
	file := filepath.Join(t.TempDir(), "learnt.yaml")
	if out, err := f.decafTrace("10.4.0.1:5201", "--all-paths", "--learn", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	top, err := topology.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(top.Devices) != 6 || len(top.Paths("h10-1-0-0", "h10-4-0-1")) != spines {
		t.Errorf("%d devices, %d paths", len(top.Devices), len(top.Paths("h10-1-0-0", "h10-4-0-1")))
	}
	out, err := f.decafTrace("10.4.0.1:5201", "--topology", file)
	if err != nil || !strings.Contains(out, "complete") || !strings.Contains(out, "r10-1-0-1:if10-1-0-1") {
		t.Errorf("%v\n%s", err, out)
	}
}

// All four paths of the fan, with the ports that go over them.
func TestCommandFindsAllPaths(t *testing.T) {
	f := newFan(t)
	for _, to := range []string{"10.4.0.1:5201", "[fd00:4::1]:5201"} {
		out, err := f.decafTrace(to, "--all-paths", "--confidence", "99")
		if err != nil || !strings.Contains(out, "4 paths seen, 4 possible by their links, 99% sure at every switch (") || !strings.Contains(out, "(this flow's)") ||
			strings.Contains(out, "FLOW LABELS") != strings.HasPrefix(to, "[") {
			t.Fatalf("%v\n%s", err, out)
		}
		out, err = f.decafTrace(to, "--all-paths", "--json")
		if err != nil {
			t.Fatal(err)
		}
		var v fanView
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Fatal(err)
		}
		if !v.Complete || len(v.Paths) != spines || len(v.Links) != 2*spines || v.Possible != spines || v.Confidence != 95 {
			t.Errorf("%s", out)
		}
		for _, p := range v.Paths {
			if strings.HasPrefix(to, "[") != (len(p.Labels) == len(p.Ports)) {
				t.Errorf("to %s: %d flow labels for %d ports", to, len(p.Labels), len(p.Ports))
			}
			if p.Own && !slices.Contains(p.Ports, v.Flow.SrcPort) {
				t.Errorf("the flow's own path has ports %v, the flow %d", p.Ports, v.Flow.SrcPort)
			}
		}
	}
}

// What routers say in extensions comes into the hop: r1 answers in the kernel's
// stead, by hand, since Linux sends none.
func TestExtensionsInAnswers(t *testing.T) {
	families(t, func(t *testing.T, f *fan, v6 bool) {
		flow := flowOf(v6, 40000)
		icmp, typ, version := packet.ICMP, byte(11), uint16(1)
		inbound := addr4(9, 9, 9)
		if v6 {
			icmp, typ, version, inbound = packet.ICMPv6, 3, 2, addr6(9, 9, 9)
		}
		// The kernel's own answers do not get to h1; the made ones do, being longer.
		f.rule("h1", nftables.ChainHookPrerouting, append(protocol(icmp),
			&expr.Meta{Key: expr.MetaKeyLEN, Register: 1},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, 150)},
			drop())...)
		tr := f.tracerAt("h1", testConfig(), 1)
		var probes, answers int
		f.do("r1", func() (err error) {
			if probes, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(networkOrder(unix.ETH_P_ALL))); err != nil {
				return err
			}
			if err = unix.SetsockoptTimeval(probes, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
				return err
			}
			family := unix.AF_INET
			if v6 {
				family = unix.AF_INET6
			}
			answers, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(icmp))
			return err
		})
		defer unix.Close(probes)
		defer unix.Close(answers)
		result := make(chan *decafpb.Path)
		go func() { result <- tr.Trace(t.Context(), flow, 1) }()
		b := make([]byte, 2048)
		for {
			n, _, err := unix.Recvfrom(probes, b, 0)
			if err != nil {
				t.Fatal(err)
			}
			if h, ok := parseHeard(b[:n]); ok && h.flow == flow {
				b = b[:n]
				break
			}
		}
		quote := make([]byte, 128)
		copy(quote, b)
		mpls := append([]byte{0, 12, 1, 1}, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 16<<12|1), 17<<12|1<<8|2)...)
		port := append(append(binary.BigEndian.AppendUint16(nil, version), 0, 0), inbound.AsSlice()...)
		port = append(port, 12, 'E', 't', 'h', 'e', 'r', 'n', 'e', 't', '1', '/', '7')
		port = append([]byte{0, byte(4 + len(port)), 2, 4 | 2}, port...)
		structure := append(append([]byte{0x20, 0, 0, 0}, mpls...), port...)
		message := []byte{typ, 0, 0, 0, 0, 128 / 4, 0, 0}
		if v6 {
			message[4], message[5] = 128/8, 0
		}
		message = append(append(message, quote...), structure...)
		if !v6 {
			binary.BigEndian.PutUint16(message[2:], onesComplement(message))
		}
		var to unix.Sockaddr = &unix.SockaddrInet6{Addr: flow.Src.Addr().As16()}
		if !v6 {
			to = &unix.SockaddrInet4{Addr: flow.Src.Addr().As4()}
		}
		if err := unix.Sendto(answers, message, 0, to); err != nil {
			t.Fatal(err)
		}
		p := <-result
		want(t, p, "complete", "")
		h := p.GetHops()[0]
		if hopAddr(h) != inbound || h.GetInterface() != "Ethernet1/7" || !slices.Equal(h.GetMpls(), []uint32{16<<12 | 1, 17<<12 | 1<<8 | 2}) {
			t.Errorf("%s, %q, %x", hopAddr(h), h.GetInterface(), h.GetMpls())
		}
	})
}

func onesComplement(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
