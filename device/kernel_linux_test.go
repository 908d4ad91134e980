package device

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/api/service"
	"decaf/api/yang"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// startAgent runs an agent in a node until the test ends.
func startAgent(t testing.TB, n *node, cfg Config) *Agent {
	t.Helper()
	a, _ := startStoppable(t, n, cfg)
	return a
}

// startStoppable runs an agent in a node until it is stopped or the test ends.
func startStoppable(t testing.TB, n *node, cfg Config) (*Agent, func()) {
	t.Helper()
	a, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return a, runIn(t, n, a)
}

// runIn runs an agent in a node until it is stopped or the test ends.
func runIn(t testing.TB, n *node, a *Agent) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.ns); err != nil {
			done <- err
			return
		}
		done <- a.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("agent: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("agent does not end")
		}
	})
	t.Cleanup(stop)
	listening, late := context.WithTimeout(ctx, 10*time.Second)
	defer late()
	for a.Addr(listening) == nil {
		select {
		case err := <-done:
			done <- err
			t.Fatalf("agent ended: %v", err)
		default:
			t.Fatal("agent does not listen")
		}
	}
	return stop
}

func testConfig() Config {
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen = "r", "127.0.0.1:0"
	// The agent shares the process with the test, whose work is not its own.
	cfg.Fuse.CPU, cfg.Fuse.MemoryBytes = 1024, 1<<40
	return cfg
}

// dial connects to an agent from within its node.
func dial(t testing.TB, n *node, a *Agent, conf *tls.Config) gnmipb.GNMIClient {
	t.Helper()
	creds := insecure.NewCredentials()
	if conf != nil {
		creds = credentials.NewTLS(conf)
	}
	c, err := grpc.NewClient("passthrough:///"+a.Addr(t.Context()).String(),
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (c net.Conn, err error) {
			err = n.do(func() (err error) { c, err = (&net.Dialer{}).DialContext(ctx, "tcp", addr); return err })
			return c, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return gnmipb.NewGNMIClient(c)
}

// seen is an event and when its client had it.
type seen struct {
	*decafpb.DropEvent
	at time.Time
}

// watch subscribes to all of /loss and hands on its events; it returns when the
// subscription is in sync.
func watch(t testing.TB, c gnmipb.GNMIClient) <-chan seen {
	t.Helper()
	events := make(chan seen, 4096)
	receive(t, c, func(n *gnmipb.Notification) {
		if ev, ok, err := yang.DecodeEvent(n); err != nil {
			t.Errorf("event: %v", err)
		} else if ok {
			events <- seen{ev, time.Now()}
		}
	}, func() { close(events) }, "loss")
	return events
}

// next waits for the event about a flow.
func next(t testing.TB, events <-chan seen, f packet.Flow) seen {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				t.Fatal("subscription ended")
			}
			if got, err := packet.FlowFromPB(ev.GetPacket().GetFlow()); err == nil && got == f {
				return ev
			}
			t.Logf("event about something else: %v", ev)
		case <-deadline:
			t.Fatalf("no event about %v", f)
		}
	}
}

// TestKernelDropKinds makes the router drop one TCP packet in each of many ways
// and reads what a gNMI client is told of it.
func TestKernelDropKinds(t *testing.T) {
	l := newLab(t)
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	l.r.portRule(nftables.ChainHookPrerouting, 7002, dropped)
	l.r.portRule(nftables.ChainHookPostrouting, 7003, dropped)
	for dst, kind := range map[string]int{
		"10.1.1.0/24": unix.RTN_UNREACHABLE, "10.1.2.0/24": unix.RTN_PROHIBIT, "10.1.3.0/24": unix.RTN_BLACKHOLE,
		"fd01:1::/64": unix.RTN_UNREACHABLE, "fd01:2::/64": unix.RTN_PROHIBIT, "fd01:3::/64": unix.RTN_BLACKHOLE,
	} {
		l.r.route(dst, "", kind)
	}
	a := startAgent(t, l.r, testConfig())
	events := watch(t, dial(t, l.r, a, nil))

	for i, tc := range []struct {
		name            string
		dst             string
		ttl             uint8
		pad             int    // payload bytes, sent with do-not-fragment
		src             string // other than h1's own
		before          func()
		class           string
		reason          string
		function        string
		ingress, egress string
		wantTTL         uint8
	}{
		{name: "nft forward", dst: "10.0.2.2:7001", ttl: 9, class: PolicyL3ACL, reason: "NETFILTER_DROP", function: "nft_do_chain", ingress: "eth1", egress: "eth2", wantTTL: 8},
		{name: "nft prerouting", dst: "10.0.2.2:7002", ttl: 9, class: PolicyL3ACL, reason: "NETFILTER_DROP", function: "nft_do_chain", ingress: "eth1", wantTTL: 9},
		{name: "nft postrouting", dst: "10.0.2.2:7003", ttl: 9, class: PolicyL3ACL, reason: "NETFILTER_DROP", function: "nft_do_chain", ingress: "eth1", egress: "eth2", wantTTL: 8},
		{name: "nft forward v6", dst: "[fd00:2::2]:7001", ttl: 9, class: PolicyL3ACL, reason: "NETFILTER_DROP", function: "nft_do_chain", ingress: "eth1", egress: "eth2", wantTTL: 8},
		{name: "no route", dst: "10.9.9.9:80", ttl: 9, class: ErrorsL3RxNoRoute, function: "ip_error", ingress: "eth1", wantTTL: 9},
		{name: "no route v6", dst: "[fd99::9]:80", ttl: 9, class: ErrorsL3RxNoRoute, ingress: "eth1", wantTTL: 9},
		{name: "unreachable route", dst: "10.1.1.1:80", ttl: 9, class: PolicyL3NullRoute, reason: "NOT_SPECIFIED", function: "ip_error", ingress: "eth1", wantTTL: 9},
		{name: "prohibit route", dst: "10.1.2.1:80", ttl: 9, class: PolicyL3ACL, reason: "NOT_SPECIFIED", function: "ip_error", ingress: "eth1", wantTTL: 9},
		{name: "blackhole route", dst: "10.1.3.1:80", ttl: 9, class: PolicyL3NullRoute, reason: "NOT_SPECIFIED", function: "ip_error", ingress: "eth1", wantTTL: 9},
		{name: "unreachable route v6", dst: "[fd01:1::1]:80", ttl: 9, class: PolicyL3NullRoute, ingress: "eth1", wantTTL: 9},
		{name: "prohibit route v6", dst: "[fd01:2::1]:80", ttl: 9, class: PolicyL3ACL, ingress: "eth1", wantTTL: 9},
		{name: "blackhole route v6", dst: "[fd01:3::1]:80", ttl: 9, class: PolicyL3NullRoute, ingress: "eth1", wantTTL: 9},
		{name: "ttl", dst: "10.0.2.2:80", ttl: 1, class: ErrorsL3RxTTL, reason: "IP_INHDR", function: "ip_forward", ingress: "eth1", egress: "eth2", wantTTL: 1},
		{name: "hop limit", dst: "[fd00:2::2]:80", ttl: 1, class: ErrorsL3RxTTL, reason: "IP_INHDR", function: "ip6_forward", ingress: "eth1", egress: "eth2", wantTTL: 1},
		{name: "reverse path", dst: "10.0.2.2:80", src: "10.0.2.77", ttl: 9, class: PolicyL3RPF, reason: "IP_RPFILTER", ingress: "eth1", wantTTL: 9,
			before: func() {
				l.r.sysctl("net/ipv4/conf/eth1/rp_filter", "1")
				l.r.sysctl("net/ipv4/conf/all/rp_filter", "1")
			}},
		{name: "mtu", dst: "10.0.2.2:80", ttl: 9, pad: 1350, class: ErrorsL3RxMTU, reason: "PKT_TOO_BIG", function: "ip_forward", ingress: "eth1", egress: "eth2", wantTTL: 9,
			before: func() { l.r.must("mtu", l.r.nl.LinkSetMTU(l.r.link("eth2"), 1300)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.before != nil {
				tc.before()
			}
			dst := addrPort(tc.dst)
			src := addrPort(fmt.Sprintf("10.0.1.2:%d", 40000+i))
			if dst.Addr().Is6() {
				src = addrPort(fmt.Sprintf("[fd00:1::2]:%d", 40000+i))
			}
			if tc.src != "" {
				src = addrPort(fmt.Sprintf("%s:%d", tc.src, 40000+i))
			}
			p := packet.Probe{Flow: packet.Flow{Src: src, Dst: dst, Proto: unix.IPPROTO_TCP}, TTL: tc.ttl, Seq: 0xdeadbeef, Ack: 77, ID: 4711}
			b, err := p.Marshal(nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.pad > 0 {
				b = append(b, bytes.Repeat([]byte{0}, tc.pad)...)
				b[2], b[3] = byte(len(b)>>8), byte(len(b))
				b[6] |= 0x40 // do not fragment
			}
			l.h1.sendRaw(b)
			ev := next(t, events, p.Flow)

			t.Logf("%s %s in %q out %q, %s after the drop", ev.Reason, ev.Function, ev.Ingress, ev.Egress, ev.at.Sub(time.Unix(0, int64(ev.TimeNs))))
			if ev.Class != tc.class {
				t.Errorf("class %q, want %q", ev.Class, tc.class)
			}
			if tc.reason != "" && ev.Reason != tc.reason {
				t.Errorf("reason %q, want %q", ev.Reason, tc.reason)
			}
			if tc.function != "" && ev.Function != tc.function {
				t.Errorf("function %q, want %q", ev.Function, tc.function)
			}
			if ev.Ingress != tc.ingress || ev.Egress != tc.egress {
				t.Errorf("ingress %q, egress %q; want %q and %q", ev.Ingress, ev.Egress, tc.ingress, tc.egress)
			}
			got := ev.Packet
			if got.TcpSeq != 0xdeadbeef || got.TcpAck != 77 || got.Ttl != uint32(tc.wantTTL) || got.Length != uint32(len(b)) {
				t.Errorf("seq %#x, ack %d, ttl %d, length %d; want 0xdeadbeef, 77, %d, %d", got.TcpSeq, got.TcpAck, got.Ttl, got.Length, tc.wantTTL, len(b))
			}
			if dst.Addr().Is4() && got.IpId != 4711 {
				t.Errorf("ip id %d, want 4711", got.IpId)
			}
			if want := b[:min(len(b), maxHeader)]; len(got.Header) != len(want) {
				t.Errorf("%d header bytes, want %d", len(got.Header), len(want))
			}
			if mac := net.HardwareAddr(got.SrcMac).String(); mac != l.h1.link("eth0").Attrs().HardwareAddr.String() {
				t.Errorf("source mac %s is not that of h1", mac)
			}
			if ev.Source != "kernel" || ev.Origin.GetBootId() != a.ledger.bootID || ev.Origin.GetSeq() == 0 {
				t.Errorf("source %q, origin %v", ev.Source, ev.Origin)
			}
			if d := ev.at.Sub(time.Unix(0, int64(ev.TimeNs))); d < -time.Millisecond || d > time.Second {
				t.Errorf("event is %s old", d)
			}
		})
	}
	if s := a.State(); s.DropsUnclassified != 0 || s.EventsLost != 0 {
		t.Errorf("%d unclassified, %d lost", s.DropsUnclassified, s.EventsLost)
	}
}

// TestKernelQueue overflows a queue on the way out and holds the events and
// counters against the kernel's own.
func TestKernelQueue(t *testing.T) {
	l := newLab(t)
	l.withoutIPv6() // its housekeeping would be in the queue too
	eth2 := l.r.link("eth2")
	const rate = 12_500 // bytes/s: a packet stands in the queue for 43 ms
	l.r.must("tbf", l.r.nl.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: eth2.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Limit: 3000, Buffer: netlink.Xmittime(rate, 3000),
	}))
	a := startAgent(t, l.r, testConfig())
	events := watch(t, dial(t, l.r, a, nil))

	flow := packet.Flow{Src: addrPort("10.0.1.2:41000"), Dst: addrPort("10.0.2.2:80"), Proto: unix.IPPROTO_TCP}
	var burst [][]byte
	for i := range 200 {
		b, err := packet.Probe{Flow: flow, TTL: 64, Seq: uint32(i + 1), ID: 1}.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, make([]byte, 500)...)
		b[2], b[3] = byte(len(b)>>8), byte(len(b))
		burst = append(burst, b)
	}
	l.h1.sendRaw(burst...)
	ev := next(t, events, flow)
	t.Logf("%s %s in %q out %q", ev.Reason, ev.Function, ev.Ingress, ev.Egress)
	if ev.Class != NoBuffer || ev.Ingress != "eth1" || ev.Egress != "eth2" {
		t.Errorf("class %q, ingress %q, egress %q; want %q, eth1, eth2", ev.Class, ev.Ingress, ev.Egress, NoBuffer)
	}
	var drops uint64
	defer func() { t.Logf("queue counted %d, agent %+v", drops, a.ledger.totals()) }()
	poll(t, "as many drops as the queue counted", func() bool {
		qdiscs, err := l.r.nl.QdiscList(eth2)
		l.r.must("qdisc", err)
		for _, q := range qdiscs {
			if q.Type() == "tbf" {
				drops = uint64(q.Attrs().Statistics.Queue.Drops)
			}
		}
		for _, c := range a.ledger.totals().classes {
			if c.Name == NoBuffer && c.Packets == drops && drops > 0 {
				return c.Events == drops && c.Bytes == drops*uint64(len(burst[0]))
			}
		}
		return false
	})
	t.Logf("%d drops, all of them seen", drops)

	// What still stands in the queue goes with it, and is lost at the same link.
	l.h1.sendRaw(burst[:20]...)
	for len(events) > 0 {
		<-events
	}
	qdiscs, err := l.r.nl.QdiscList(eth2)
	l.r.must("qdisc", err)
	for _, q := range qdiscs {
		if q.Type() == "tbf" {
			l.r.must("remove tbf", l.r.nl.QdiscDel(q))
		}
	}
	for {
		ev := next(t, events, flow)
		if ev.Class != NoBuffer || ev.Egress != "eth2" {
			t.Fatalf("class %q, egress %q of what stood in a removed queue; want %q, eth2: %v", ev.Class, ev.Egress, NoBuffer, ev)
		}
		if ev.Reason != "QDISC_DROP" {
			t.Logf("%s %s in %q out %q", ev.Reason, ev.Function, ev.Ingress, ev.Egress)
			return
		}
	}
}

// TestKernelFlood: under a flood each drop is counted, whether it has an event,
// is held back or finds no room, and a client gets the events in order, with no hole that is not counted.
func TestKernelFlood(t *testing.T) {
	const flood = 20_000
	l := newLab(t)
	l.withoutIPv6() // its housekeeping would be lost too
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	cfg := testConfig()
	cfg.Ring = 64
	a := startAgent(t, l.r, cfg)
	events := watch(t, dial(t, l.r, a, nil))
	p := packet.Probe{Flow: packet.Flow{Src: addrPort("10.0.1.2:40000"), Dst: addrPort("10.0.2.2:7001"), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}
	b, err := p.Marshal(nil)
	l.h1.must("probe", err)
	packets := make([][]byte, flood)
	for i := range packets {
		packets[i] = b
	}
	begin := time.Now()
	go l.h1.sendRaw(packets...)
	var seen, holes, last uint64
	poll(t, "every drop counted", func() bool {
		for {
			select {
			case ev := <-events:
				if last != 0 && ev.Origin.Seq <= last {
					t.Fatalf("event %d after %d", ev.Origin.Seq, last)
				}
				if last != 0 {
					holes += ev.Origin.Seq - last - 1
				}
				last = ev.Origin.Seq
				seen++
				continue
			default:
			}
			break
		}
		s := a.State()
		var packets uint64
		for _, c := range a.ledger.totals().classes {
			packets += c.Packets // some meet a full backlog before the filter
		}
		return packets == flood && last == s.Events
	})
	s := a.State()
	t.Logf("%d drops in %s: %d events, %d lost in the kernel, %d at the client", flood, time.Since(begin).Round(time.Millisecond), s.Events, s.EventsLost, s.EventsLostQueue)
	var size, told, suppressed uint64
	for _, c := range a.ledger.totals().classes {
		size += c.Bytes
		told += c.Events
	}
	a.reporting.Lock()
	for _, c := range a.reporter.reporting() {
		suppressed += c.Suppressed.Threshold + c.Suppressed.Queue
	}
	a.reporting.Unlock()
	if size != flood*uint64(len(b)) || told+suppressed != flood {
		t.Errorf("%d bytes, %d events and %d suppressed; want %d bytes and together %d", size, told, suppressed, flood*len(b), flood)
	}
	// What the kernel sends up is bounded, not what the agent does with it.
	if k := a.sources.kernel.(*kernel); told > flood/2 {
		t.Errorf("%d events of a flood; %+v", told, k.tallies)
	}
	if holes != s.EventsLostQueue {
		t.Errorf("%d holes in what the client saw, %d counted", holes, s.EventsLostQueue)
	}
}

// TestKernelTwoStreams: a flood of one class ends that class's events, not
// another's; its aggregates have every drop and every flow above 1 % within its
// bound; when it is over the events come back.
func TestKernelTwoStreams(t *testing.T) {
	l := newLab(t)
	l.withoutIPv6()
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	cfg := testConfig()
	cfg.Report.Threshold, cfg.Report.Hold, cfg.Report.Interval = 100, 0, 200*time.Millisecond
	a := startAgent(t, l.r, cfg)
	updates := subscribe(t, dial(t, l.r, a, nil))
	marshal := func(src, dst string) []byte {
		b, err := packet.Probe{Flow: packet.Flow{Src: addrPort(src), Dst: addrPort(dst), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}.Marshal(nil)
		l.h1.must("probe", err)
		return b
	}
	// Two elephants of a quarter each among flows of one packet.
	const flood = 4000
	truth, size := map[string]uint64{}, uint64(0)
	var packets [][]byte
	for i := range flood {
		port := 40000 + i%2
		if i%4 >= 2 {
			port = 10000 + i
		}
		src := fmt.Sprintf("10.0.1.2:%d", port)
		truth[src]++
		packets = append(packets, marshal(src, "10.0.2.2:7001"))
		size = uint64(len(packets[0]))
	}
	go l.h1.sendRaw(packets...)

	var (
		total             yang.Aggregate // of the flood
		flows, flowErrors = map[string]uint64{}, map[string]uint64{}
		events            = map[string]uint64{}
		other             bool
		path              []string
	)
	total.LossAggregate = &decafpb.LossAggregate{}
	deadline := time.After(20 * time.Second)
	for total.Packets < flood || !slices.Contains(path, PolicyL3ACL+" events") || !other {
		select {
		case n := <-updates:
			if ev, is, err := yang.DecodeEvent(n); err != nil {
				t.Fatal(err)
			} else if is {
				events[ev.Class]++
				other = other || ev.Class == ErrorsL3RxNoRoute
			}
			if tr, is, err := yang.DecodeTransition(n); err != nil {
				t.Fatal(err)
			} else if is {
				path = append(path, tr.Class+" "+tr.To)
				if len(path) == 1 { // while the flood is on
					l.h1.sendRaw(marshal("10.0.1.2:5000", "10.9.9.9:80"))
				}
			}
			agg, is, err := yang.DecodeAggregate(n)
			if err != nil {
				t.Fatal(err)
			}
			// Some may meet a full backlog before the filter.
			if !is || agg.Class != PolicyL3ACL && agg.Class != NoBuffer {
				continue
			}
			if agg.Class == PolicyL3ACL && (agg.Ingress != "eth1" || agg.Egress != "eth2" || agg.Reason != "NETFILTER_DROP") {
				t.Errorf("aggregate %v", agg.LossAggregate)
			}
			total.Unattributed += agg.Unattributed
			total.Packets += agg.Packets
			total.Bytes += agg.Bytes
			total.Events += agg.Events
			total.Suppressed.Threshold += agg.Suppressed.Threshold
			total.Suppressed.Queue += agg.Suppressed.Queue
			for _, c := range agg.TopFlows {
				f, err := packet.FlowFromPB(c.Flow)
				if err != nil {
					t.Fatal(err)
				}
				flows[f.Src.String()] += c.Packets
				flowErrors[f.Src.String()] += c.PacketsError
			}
		case <-deadline:
			t.Fatalf("after 20 s: %+v, %v, %v, %+v", total, path, events, a.State())
		}
	}
	t.Logf("%d packets: %d events, %+v suppressed; %v", total.Packets, total.Events, total.Suppressed, path)
	if total.Packets != flood || total.Bytes != flood*size || total.Events+total.Suppressed.Threshold+total.Suppressed.Queue != flood || total.Events != events[PolicyL3ACL]+events[NoBuffer] {
		t.Errorf("%d packets, %d bytes, %d events, %+v; want %d packets of %d bytes, %d events", total.Packets, total.Bytes, total.Events, total.Suppressed, flood, size, events[PolicyL3ACL]+events[NoBuffer])
	}
	if total.Events < 100 || total.Events > flood/2 {
		t.Errorf("%d events above a threshold of 100", total.Events)
	}
	if slices.Index(path, PolicyL3ACL+" aggregates") != 0 || !slices.Contains(path, PolicyL3ACL+" events") {
		t.Errorf("transitions %v", path)
	}
	a.mu.Lock()
	held := a.sources.kernel.(*kernel).tenant.count(countHeld)
	a.mu.Unlock()
	if total.Unattributed > held+total.Suppressed.Queue {
		t.Errorf("%d packets nobody looked at; the kernel held back %d, %d found no room", total.Unattributed, held, total.Suppressed.Queue)
	}
	for _, src := range []string{"10.0.1.2:40000", "10.0.1.2:40001"} {
		if truth[src] > flows[src]+total.Unattributed || truth[src] < flows[src]-flowErrors[src] {
			t.Errorf("%s: %d packets, told [%d, %d]", src, truth[src], flows[src]-flowErrors[src], flows[src])
		}
	}
}

// TestKernelPacePerClass: what the kernel hands on of a class is bounded by that
// class's threshold as soon as one drop of it was seen, whatever other classes may
// have; a flow of a de-duplicated class is told of once for all its drops, and a
// flood of its drops does not hide the first one of another flow.
func TestKernelPacePerClass(t *testing.T) {
	l := newLab(t)
	l.withoutIPv6()
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	const flood = 4000
	tests := []struct {
		name        string
		deduplicate time.Duration
	}{
		{"held back", 0},
		{"told once", time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Report.Threshold, cfg.Report.Interval = 100, 200*time.Millisecond
			wide := 1e6
			cfg.Classes = map[string]ClassConfig{PolicyL3Policer: {Threshold: &wide}, PolicyL3ACL: {Deduplicate: &test.deduplicate}}
			a := startAgent(t, l.r, cfg)
			updates := subscribe(t, dial(t, l.r, a, nil))
			events, packets := map[string]int{}, uint64(0)
			until := func(what string, done func() bool) {
				t.Helper()
				deadline := time.After(20 * time.Second)
				for !done() {
					select {
					case n := <-updates:
						if ev, is, err := yang.DecodeEvent(n); err != nil {
							t.Fatal(err)
						} else if is {
							f, err := packet.FlowFromPB(ev.GetPacket().GetFlow())
							if err != nil {
								t.Fatal(err)
							}
							events[f.Src.String()]++
						}
						if agg, is, err := yang.DecodeAggregate(n); err != nil {
							t.Fatal(err)
						} else if is {
							packets += agg.Packets
						}
					case <-deadline:
						t.Fatalf("after 20 s no %s: %v, %d packets, %+v", what, events, packets, a.State())
					}
				}
			}
			probe := func(src string) []byte {
				b, err := packet.Probe{Flow: packet.Flow{Src: addrPort(src), Dst: addrPort("10.0.2.2:7001"), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}.Marshal(nil)
				l.h1.must("probe", err)
				return b
			}
			l.h1.sendRaw(probe("10.0.1.2:5000"))
			until("event of the first drop", func() bool { return events["10.0.1.2:5000"] == 1 })
			l.h1.sendRaw(slices.Repeat([][]byte{probe("10.0.1.2:6000")}, flood)...)
			if test.deduplicate > 0 {
				l.h1.sendRaw(probe("10.0.1.2:7000"))
				until("event of the flow beside the flood", func() bool { return events["10.0.1.2:7000"] == 1 })
			}
			until("aggregate of the flood", func() bool { return packets >= flood+1 })
			a.mu.Lock()
			held := a.sources.kernel.(*kernel).tenant.count(countHeld)
			a.mu.Unlock()
			if held <= flood/2 {
				t.Errorf("the kernel held back %d of %d drops", held, flood)
			}
			if n := events["10.0.1.2:6000"]; test.deduplicate > 0 && n != 1 {
				t.Errorf("%d events of one flow", n)
			}
		})
	}
}

// TestKernelFloodFlows: of a flood of which hardly a record comes up, every flow
// above 1 % is in its aggregates, and each that is there, within its stated bound.
func TestKernelFloodFlows(t *testing.T) {
	l := newLab(t)
	l.withoutIPv6()
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	cfg := testConfig()
	cfg.Report.Threshold, cfg.Report.Interval = 100, 250*time.Millisecond
	a := startAgent(t, l.r, cfg)
	updates := subscribe(t, dial(t, l.r, a, nil))

	// 20 flows of 1.2 % to 4.05 %, and half of the flood in flows of a few packets.
	const flood = 100_000
	truth := map[string]uint64{}
	packets := make([][]byte, 0, flood)
	add := func(src string, n int) {
		b, err := packet.Probe{Flow: packet.Flow{Src: addrPort(src), Dst: addrPort("10.0.2.2:7001"), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}.Marshal(nil)
		l.h1.must("probe", err)
		packets = append(packets, slices.Repeat([][]byte{b}, n)...)
		truth[src] += uint64(n)
	}
	for i := range 20 {
		add(fmt.Sprintf("10.0.1.2:%d", 40000+i), flood*(120+15*i)/10_000)
	}
	for i := 0; len(packets) < flood; i++ {
		add(fmt.Sprintf("10.0.1.%d:%d", 10+i%200, 1000+i), min(1+i%5, flood-len(packets)))
	}
	dice := rand.New(rand.NewPCG(1, 1))
	dice.Shuffle(len(packets), func(i, j int) { packets[i], packets[j] = packets[j], packets[i] })
	go l.h1.sendRaw(packets...)

	// Over all aggregates; of one that does not tell of a flow, 1 %.
	var all, full, held, unattributed, aggregates uint64
	least, more, not, times := map[string]uint64{}, map[string]uint64{}, map[string]uint64{}, map[string]int{}
	var shares []float64
	for all < flood {
		var g yang.Aggregate
		select {
		case n := <-updates:
			got, is, err := yang.DecodeAggregate(n)
			if err != nil {
				t.Fatal(err)
			}
			if !is {
				continue
			}
			g = *got
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d packets, and no more", all, flood)
		}
		all += g.Packets
		if g.Class == NoBuffer { // some may meet a full backlog before the filter
			full += g.Packets
		}
		if g.Class != PolicyL3ACL {
			continue
		}
		aggregates++
		held += g.Suppressed.Threshold
		unattributed += g.Unattributed
		for src := range truth {
			not[src] += g.Packets/100 + 1
		}
		for _, c := range g.TopFlows {
			f, err := packet.FlowFromPB(c.Flow)
			if err != nil {
				t.Fatal(err)
			}
			src := f.Src.String()
			least[src] += c.Packets - c.PacketsError
			more[src] += c.Packets
			not[src] -= g.Packets/100 + 1
			times[src]++
			if truth[src] > flood/100 {
				shares = append(shares, float64(c.PacketsError)/float64(g.Packets))
			}
		}
	}
	slices.Sort(shares)
	t.Logf("%d packets in %d aggregates: %d without an event, %d unattributed, %d met a full backlog", all, aggregates, held, unattributed, full)
	if held < flood*9/10 {
		t.Errorf("%d of %d drops were held back", held, flood)
	}
	for src, n := range truth {
		if least[src] > n || n > more[src]+not[src]+full {
			t.Errorf("%s: %d packets, told [%d, %d], and at most %d where it is not", src, n, least[src], more[src], not[src])
		}
		if n > flood/100 && times[src] == 0 {
			t.Errorf("%s with %d of %d packets is not told of", src, n, flood)
		}
	}
	if len(shares) == 0 || shares[len(shares)/2] > 0.01 {
		t.Errorf("errors, as shares of their aggregate: %.4f", shares)
	} else {
		t.Logf("half of the flows above 1 %% have an error of %.3f %% of their aggregate or less, all of %.3f %%", 100*shares[len(shares)/2], 100*shares[len(shares)-1])
	}
}

// shapes are packets of many shapes, for which nobody has a route, each with a flow
// of its own, and one whose ports stand behind more than the program looks at: it
// has none.
func shapes() (shapes [][]byte, noFlow []byte) {
	v4 := func(proto uint8, fragment uint16, options int, payload ...byte) []byte {
		b := make([]byte, 20+options, 60)
		b[0], b[8], b[9] = 0x40|byte(5+options/4), 9, proto
		for i := range options {
			b[20+i] = 1 // no operation
		}
		b[6], b[7] = byte(fragment>>8), byte(fragment)
		copy(b[12:], []byte{10, 0, 1, 2})
		copy(b[16:], []byte{10, 9, 9, 9})
		b = append(b, payload...)
		b[3] = byte(len(b))
		return b
	}
	v6 := func(next uint8, payload ...byte) []byte {
		b := make([]byte, 40, 80)
		b[0], b[5], b[6], b[7] = 0x60, byte(len(payload)), next, 9
		src, dst := netip.MustParseAddr("fd00:1::2").As16(), netip.MustParseAddr("fd99::9").As16()
		copy(b[8:], src[:])
		copy(b[24:], dst[:])
		return append(b, payload...)
	}
	port := byte(0)
	segment := func(size byte) []byte { // its ports are no other's
		port++
		return append([]byte{0x11, port, 0x33, 0x44, 0, size, 0, 0}, make([]byte, size-8)...)
	}
	shapes = [][]byte{
		v4(packet.TCP, 0, 0, segment(20)...), v4(packet.UDP, 0, 0, segment(12)...), v4(packet.TCP, 0, 4, segment(20)...), v4(packet.UDP, 0, 20, segment(12)...),
		v4(packet.ICMP, 0, 0, 13, 7, 0, 0, 0, 0, 0, 0), v4(packet.UDP, 0x2001, 0, segment(12)...), v4(47, 0, 0, segment(20)...),
		v6(packet.TCP, segment(20)...), v6(packet.UDP, segment(12)...), v6(packet.ICMPv6, 128, 3, 0, 0, 0, 0, 0, 0),
	}
	return shapes, v6(0, append([]byte{packet.UDP, 0, 1, 4, 0, 0, 0, 0}, segment(12)...)...)
}

// TestKernelFloodKinds: the kernel program finds the flow that packet.Decode
// finds, in packets of many shapes.
func TestKernelFloodKinds(t *testing.T) {
	l := newLab(t)
	cfg := testConfig()
	cfg.Report.Threshold, cfg.Report.Interval = 100, 300*time.Millisecond
	a := startAgent(t, l.r, cfg)
	updates := subscribe(t, dial(t, l.r, a, nil))
	shapes, noFlow := shapes()
	const each = 3000
	want := map[packet.Flow]bool{}
	for _, b := range shapes {
		d, err := packet.Decode(b)
		l.r.must("decode", err)
		f, err := packet.FlowFromPB(d.Flow)
		l.r.must("flow", err)
		want[f] = true
	}
	if len(want) != len(shapes) {
		t.Fatalf("%d flows of %d shapes", len(want), len(shapes))
	}
	burst := slices.Concat(shapes, [][]byte{noFlow})
	go l.h1.sendRaw(slices.Repeat(burst, each)...)
	least, most := map[packet.Flow]uint64{}, map[packet.Flow]uint64{}
	var all, unattributed uint64
	for all < uint64(each*len(burst)) {
		select {
		case n := <-updates:
			g, is, err := yang.DecodeAggregate(n)
			if err != nil {
				t.Fatal(err)
			}
			if !is || g.Class != ErrorsL3RxNoRoute {
				continue
			}
			all += g.Packets
			unattributed += g.Unattributed
			for _, c := range g.TopFlows {
				f, err := packet.FlowFromPB(c.Flow)
				l.r.must("flow", err)
				least[f] += c.Packets - c.PacketsError
				most[f] += c.Packets
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d packets, and no more", all, each*len(burst))
		}
	}
	t.Logf("%d packets, %d unattributed", all, unattributed)
	for f := range want {
		if least[f] < each*9/10 || least[f] > each || most[f] < each {
			t.Errorf("%v: told [%d, %d], want %d", f, least[f], most[f], each)
		}
	}
	if unattributed < each*8/10 || unattributed > each*2 {
		t.Errorf("%d packets have no flow, want those %d with an extension header", unattributed, each)
	}
}

// BenchmarkFlood measures what a drop costs in the kernel while most are held
// back, by the kernel's own statistics, and how many records came up of it.
func BenchmarkFlood(b *testing.B) {
	l := newLab(b)
	l.withoutIPv6()
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	k := startAgent(b, l.r, testConfig()).sources.kernel.(*kernel)
	sent := l.floodPort(b, k, 7001)
	b.ReportMetric(float64(k.tenant.count(countHeld))/float64(sent), "held/drop")
}

// floodPort sends to a port of h2, where the router drops it, and reports what a run of
// the program took meanwhile, by the kernel's own statistics, and the drops a second.
func (l *lab) floodPort(b *testing.B, k *kernel, port uint16) (sent int) {
	b.Helper()
	enabled, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	l.r.must("program statistics", err)
	defer enabled.Close()
	to := netip.AddrPortFrom(netip.MustParseAddr("10.0.2.2"), port)
	p := packet.Probe{Flow: packet.Flow{Src: addrPort("10.0.1.2:40000"), Dst: to, Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}
	raw, err := p.Marshal(nil)
	l.r.must("probe", err)
	burst := slices.Repeat([][]byte{raw}, 1000)
	before, err := k.shared.program.Stats()
	l.r.must("program statistics", err)
	for b.Loop() {
		l.h1.sendRaw(burst...)
	}
	after, err := k.shared.program.Stats()
	l.r.must("program statistics", err)
	sent = b.N * len(burst)
	b.ReportMetric(float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount), "kernel-ns/drop")
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "drops/s")
	return sent
}

// BenchmarkDropToClient measures from the moment the kernel drops a packet to
// the moment a gNMI client, over mutual TLS, has the event. One drop at a time:
// the reader sleeps in between, as it does most of its life.
func BenchmarkDropToClient(b *testing.B) {
	l := newLab(b)
	l.r.portRule(nftables.ChainHookForward, 7001, dropped)
	ca, err := service.NewCA(b.TempDir())
	l.r.must("authority", err)
	server, err := ca.Issue("r", "127.0.0.1")
	l.r.must("certificate", err)
	client, err := ca.Issue("collector.test")
	l.r.must("certificate", err)
	cfg := testConfig()
	cfg.Report.Threshold, cfg.Fuse.Events = 1e6, 1e6 // as fast as one follows the other
	cfg.TLS = server
	conf, err := client.Client("127.0.0.1")
	l.r.must("client", err)
	a := startAgent(b, l.r, cfg)
	events := watch(b, dial(b, l.r, a, conf))
	p := packet.Probe{Flow: packet.Flow{Src: addrPort("10.0.1.2:40000"), Dst: addrPort("10.0.2.2:7001"), Proto: unix.IPPROTO_TCP}, TTL: 9, Seq: 1, ID: 1}
	raw, err := p.Marshal(nil)
	l.r.must("probe", err)
	var took []time.Duration
	for b.Loop() {
		l.h1.sendRaw(raw)
		ev := next(b, events, p.Flow)
		took = append(took, ev.at.Sub(time.Unix(0, int64(ev.TimeNs))))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}
