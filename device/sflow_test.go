package device

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/api/service"
	"decaf/device/sflow"
	"decaf/device/sflow/sflowtest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

var (
	leafAgent = netip.MustParseAddr("192.0.2.1")
	macs      = []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1} // destination, source
)

func sflowLog(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// leaf is a listener without its socket, for one switch, and what is observed.
func leaf(t testing.TB) (*sflowListener, *sflowSwitch, func() []observed) {
	t.Helper()
	l := newSFlowListener(SFlowConfig{Listen: "127.0.0.1:0", Switches: []SwitchConfig{
		{Name: "leaf1", Listen: "127.0.0.1:0", Agent: leafAgent, Interfaces: map[uint32]string{3: "Ethernet0"}},
	}}, sflowLog(t))
	s, ok := l.device("leaf1")
	if !ok {
		t.Fatal("no leaf1")
	}
	var seen []observed
	s.handle = func(o observed) { seen = append(seen, o) }
	return l, s, func() []observed { return seen }
}

// frame is an Ethernet frame of a TCP packet.
func frame(t testing.TB, flow string, seq uint32, tag ...byte) []byte {
	t.Helper()
	src, dst, _ := strings.Cut(flow, ">")
	p := packet.Probe{Flow: packet.Flow{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Proto: packet.TCP}, TTL: 9, Seq: seq, Ack: 77, ID: 4711}
	ip, err := p.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	kind := []byte{8, 0}
	if p.Flow.Is6() {
		kind = []byte{0x86, 0xdd}
	}
	b := append(append([]byte(nil), macs...), tag...)
	return append(append(b, kind...), ip...)
}

func notice(number uint32, samples ...[]byte) []byte {
	return sflowtest.Datagram{Agent: leafAgent, Sequence: number, Uptime: number * 10, Samples: samples}.Bytes()
}

func TestSFlowEvent(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const then = 1_699_999_999_000_000_000
	tcp := frame(t, "10.0.0.1:40000>10.0.0.2:80", 0xdeadbeef)
	tagged := frame(t, "[2001:db8::1]:40000>[2001:db8::2]:80", 5, 0x81, 0, 0, 7)
	arp := append(append([]byte(nil), macs...), 8, 6, 0, 1)
	ipPart := func(b []byte, at int) *decafpb.Packet {
		p, err := packet.Decode(b[at:])
		if err != nil {
			t.Fatal(err)
		}
		p.DstMac, p.SrcMac = macs[:6], macs[6:]
		return p
	}
	six := ipPart(tagged, 18)
	six.Vlan = 7
	long := ipPart(tcp, 14)
	offload := append([]byte(nil), tcp...)
	offload[16], offload[17] = 0, 0 // no length in the IP header
	long.Length, long.Header = 9000, offload[14:]
	for _, c := range []struct {
		name  string
		drop  sflowtest.Drop
		want  *decafpb.DropEvent
		bytes uint64
		known bool
	}{
		{"all there is to tell", sflowtest.Drop{Input: 3, Output: 9, Reason: 259, Records: [][]byte{
			sflowtest.Header(1, uint32(len(tcp)+4), 4, tcp), sflowtest.Queue(6), sflowtest.TransitDelay(1500), sflowtest.QueueDepth(65536), sflowtest.Timestamp(then)}},
			&decafpb.DropEvent{TimeNs: then, Class: NoBuffer, Reason: "no_buffer_space", Ingress: "Ethernet0", Egress: "if9", Queue: 6, TransitDelayNs: 1500, QueueDepthBytes: 65536, Packet: ipPart(tcp, 14)}, 40, true},
		{"a delay that is longer than can be said, and no packet", sflowtest.Drop{Reason: 260, Records: [][]byte{sflowtest.TransitDelay(1<<32 - 1)}},
			&decafpb.DropEvent{Class: NoBuffer, Reason: "red", TransitDelayNs: 1<<32 - 1}, 0, true},
		{"ipv6 with a tag", sflowtest.Drop{Input: 3, Reason: 258, Records: [][]byte{sflowtest.Header(1, uint32(len(tagged)), 0, tagged)}},
			&decafpb.DropEvent{Class: PolicyL3ACL, Reason: "acl", Ingress: "Ethernet0", Packet: six}, 60, true},
		{"from linux", sflowtest.Drop{Reason: 256, Records: [][]byte{sflowtest.Function("ip_forward+0x1a0/0x300"), sflowtest.LinuxReason("IP_INHDR"), sflowtest.Header(11, 40, 0, tcp[14:])}},
			&decafpb.DropEvent{Class: ErrorsL3RxTTL, Reason: "IP_INHDR", Function: "ip_forward", Packet: func() *decafpb.Packet { p := ipPart(tcp, 14); p.SrcMac, p.DstMac = nil, nil; return p }()}, 40, true},
		{"length where the header has none", sflowtest.Drop{Reason: 262, Records: [][]byte{sflowtest.Header(1, 9018, 4, offload)}},
			&decafpb.DropEvent{Class: ErrorsL3RxMTU, Reason: "pkt_too_big", Packet: long}, 9000, true},
		{"no header", sflowtest.Drop{Input: 0x3fffffff, Reason: 257},
			&decafpb.DropEvent{Class: ErrorsL3RxTTL, Reason: "ttl_exceeded"}, 0, true},
		{"arp, which no rule about IP dropped", sflowtest.Drop{Reason: 258, Records: [][]byte{sflowtest.Header(1, 64, 4, arp)}},
			&decafpb.DropEvent{Class: PolicyL2ACL, Reason: "acl", Packet: &decafpb.Packet{Length: 46, DstMac: macs[:6], SrcMac: macs[6:]}}, 46, true},
		{"ip cut too short to read is still ip", sflowtest.Drop{Reason: 258, Records: [][]byte{sflowtest.Header(1, 64, 4, tcp[:20])}},
			&decafpb.DropEvent{Class: PolicyL3ACL, Reason: "acl", Packet: &decafpb.Packet{Length: 46, DstMac: macs[:6], SrcMac: macs[6:]}}, 46, true},
		{"a clock that is years off", sflowtest.Drop{Reason: 257, Records: [][]byte{sflowtest.Timestamp(5)}},
			&decafpb.DropEvent{Class: ErrorsL3RxTTL, Reason: "ttl_exceeded"}, 0, true},
		{"a clock beyond all", sflowtest.Drop{Reason: 257, Records: [][]byte{sflowtest.Timestamp(1<<64 - 1)}},
			&decafpb.DropEvent{Class: ErrorsL3RxTTL, Reason: "ttl_exceeded"}, 0, true},
		{"words that are none", sflowtest.Drop{Reason: 256, Records: [][]byte{sflowtest.Trap("g", "\x1b[2J\xff"+strings.Repeat("x", 500)), sflowtest.Function("f\x00\x00")}},
			&decafpb.DropEvent{Class: Unknown, Reason: "?[2J?" + strings.Repeat("x", 59), Function: "f"}, 0, false},
		{"a reason of the future", sflowtest.Drop{Reason: 9999},
			&decafpb.DropEvent{Class: Unknown, Reason: "reason_9999"}, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, _, seen := leaf(t)
			l.datagram(notice(1, c.drop.Sample()), leafAgent, now)
			got := seen()
			if len(got) != 1 {
				t.Fatalf("%d events, want 1", len(got))
			}
			if c.want.TimeNs == 0 {
				c.want.TimeNs = uint64(now.UnixNano())
			}
			c.want.Source = "sflow"
			if d := cmp.Diff(c.want, got[0].event, protocmp.Transform()); d != "" {
				t.Error(d)
			}
			if got[0].packets != 1 || got[0].bytes != c.bytes || got[0].known != c.known {
				t.Errorf("%d packets, %d bytes, known %t; want 1, %d, %t", got[0].packets, got[0].bytes, got[0].known, c.bytes, c.known)
			}
		})
	}
}

// What is left out is counted, each where it belongs.
func TestSFlowCounts(t *testing.T) {
	drop := func(seq, held uint32) []byte {
		return sflowtest.Drop{Sequence: seq, Index: 1, Drops: held, Reason: 258}.Sample()
	}
	other := func(seq uint32) []byte { return sflowtest.Drop{Sequence: seq, Index: 2, Reason: 258}.Sample() }
	broken := notice(3, drop(3, 0))
	broken[len(broken)-1] = 200 // records that are not there
	cut := notice(2, drop(2, 0), drop(3, 0))
	cut = cut[:len(cut)-8]
	again := sflowtest.Datagram{Agent: leafAgent, Sequence: 1, Uptime: 10, Samples: [][]byte{drop(1, 4)}}.Bytes()
	late := sflowtest.Datagram{Agent: leafAgent, Sequence: 30, Uptime: 60_000, Samples: [][]byte{drop(7, 90)}}.Bytes()
	for _, c := range []struct {
		name   string
		sent   [][]byte
		want   SFlowCounts
		events int
	}{
		{"all well", [][]byte{notice(1, drop(1, 0)), notice(2, drop(2, 0), other(900)), notice(3, other(901))},
			SFlowCounts{Datagrams: 3, Notifications: 4, NoIP: 4}, 4},
		{"datagrams lost, and notifications in them", [][]byte{notice(1, drop(1, 0)), notice(4, drop(9, 0))},
			SFlowCounts{Datagrams: 2, DatagramsLost: 2, Notifications: 2, NotificationsLost: 7, NoIP: 2}, 2},
		{"overtaken", [][]byte{notice(1, drop(1, 0)), notice(3, drop(3, 2)), notice(2, drop(2, 1))},
			SFlowCounts{Datagrams: 3, Notifications: 3, Suppressed: 2, NoIP: 3}, 3},
		{"twice", [][]byte{notice(1, drop(1, 0)), notice(1, drop(1, 0))},
			SFlowCounts{Datagrams: 2, DatagramsTwice: 1, Notifications: 1, NoIP: 1}, 1},
		{"held back by the switch, but for what was before us", [][]byte{notice(1, drop(1, 1000)), notice(2, drop(2, 1000)), notice(3, drop(3, 1500))},
			SFlowCounts{Datagrams: 3, Notifications: 3, Suppressed: 500, NoIP: 3}, 3},
		{"began anew", [][]byte{late, again}, SFlowCounts{Datagrams: 2, Restarts: 1, Notifications: 2, Suppressed: 4, NoIP: 2}, 2},
		{"another sub-agent has numbers of its own", [][]byte{notice(1, drop(1, 0)), sflowtest.Datagram{Agent: leafAgent, SubAgent: 1, Sequence: 77, Samples: [][]byte{drop(50, 9)}}.Bytes()},
			SFlowCounts{Datagrams: 2, Notifications: 2, NoIP: 2}, 2},
		{"one broken notification", [][]byte{notice(1, drop(1, 0)), broken},
			SFlowCounts{Datagrams: 2, DatagramsLost: 1, Notifications: 1, Malformed: 1, NoIP: 1}, 1},
		{"a datagram cut off", [][]byte{cut}, SFlowCounts{Datagrams: 1, Notifications: 1, Malformed: 1, NoIP: 1}, 1},
		{"other samples and records", [][]byte{notice(1, sflowtest.Sample(1, make([]byte, 20)), sflowtest.Sample(77<<12|5, nil),
			sflowtest.Drop{Sequence: 1, Reason: 3, Records: [][]byte{sflowtest.Record(1001, make([]byte, 16))}}.Sample())},
			SFlowCounts{Datagrams: 1, Notifications: 1, NoLoss: 1, SamplesSkipped: 2, RecordsSkipped: 1}, 0},
		{"a reason nobody knows, a clock nobody has", [][]byte{notice(1, sflowtest.Drop{Reason: 5000, Records: [][]byte{sflowtest.Timestamp(1)}}.Sample())},
			SFlowCounts{Datagrams: 1, Notifications: 1, UnknownReasons: 1, WrongClock: 1, NoIP: 1}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, s, seen := leaf(t)
			for _, b := range c.sent {
				l.datagram(b, leafAgent, time.Unix(1_700_000_000, 0))
			}
			if d := cmp.Diff(c.want, s.Counts()); d != "" {
				t.Error(d)
			}
			if len(seen()) != c.events {
				t.Errorf("%d events, want %d", len(seen()), c.events)
			}
			lost, passed, err := s.counts()
			if err != nil || lost != c.want.NotificationsLost+c.want.Suppressed || passed != c.want.NoLoss {
				t.Errorf("lost %d, passed %d, %v", lost, passed, err)
			}
		})
	}
}

func TestSFlowRefuses(t *testing.T) {
	good := notice(1, sflowtest.Drop{Reason: 258}.Sample())
	stranger := sflowtest.Datagram{Agent: netip.MustParseAddr("198.51.100.1"), Samples: [][]byte{sflowtest.Drop{}.Sample()}}.Bytes()
	l, s, seen := leaf(t)
	s.from = append(s.from, netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("fe80::/10"))
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		name                       string
		bytes                      []byte
		from                       string
		notSFlow, strange, spoofed uint64
		events                     int
	}{
		{"the switch", good, "192.0.2.1", 0, 0, 0, 1},
		{"the switch on a socket for both families", notice(2, sflowtest.Drop{Reason: 258}.Sample()), "::ffff:192.0.2.1", 0, 0, 0, 1},
		{"another of its addresses", notice(3, sflowtest.Drop{Reason: 258}.Sample()), "203.0.113.9", 0, 0, 0, 1},
		{"a link-local one", notice(4, sflowtest.Drop{Reason: 258}.Sample()), "fe80::1%lo", 0, 0, 0, 1},
		{"the switch's agent address from elsewhere", good, "198.51.100.1", 0, 0, 1, 0},
		{"an agent nobody listed", stranger, "198.51.100.1", 0, 1, 0, 0},
		{"an agent nobody listed from a listed address", stranger, "192.0.2.1", 0, 1, 0, 0},
		{"no sFlow", []byte("GET / HTTP/1.1\r\n"), "192.0.2.1", 1, 0, 0, 0},
		{"nothing", nil, "192.0.2.1", 1, 0, 0, 0},
	} {
		n, st, sp, ev := l.notSFlow.Load(), l.strange.Load(), l.spoofed.Load(), len(seen())
		l.datagram(c.bytes, netip.MustParseAddr(c.from), now)
		if l.notSFlow.Load()-n != c.notSFlow || l.strange.Load()-st != c.strange || l.spoofed.Load()-sp != c.spoofed || len(seen())-ev != c.events {
			t.Errorf("%s: %d no sFlow, %d strange, %d spoofed, %d events", c.name, l.notSFlow.Load()-n, l.strange.Load()-st, l.spoofed.Load()-sp, len(seen())-ev)
		}
	}
	if n := s.Counts().Datagrams; n != 4 {
		t.Errorf("%d datagrams counted for the switch, want its 4", n)
	}
}

// A hostile or broken switch makes the agent remember no more than it may.
func TestSFlowMemoryIsBounded(t *testing.T) {
	l, s, _ := leaf(t)
	s.handle = func(observed) {}
	now := time.Unix(1_700_000_000, 0)
	const n = 3 * maxSources
	for i := range uint32(n) {
		l.datagram(sflowtest.Datagram{Agent: leafAgent, SubAgent: i, Sequence: i, Samples: [][]byte{
			sflowtest.Drop{Index: i, Input: 100 + i, Reason: 256, Records: [][]byte{sflowtest.Trap(fmt.Sprint("g", i), fmt.Sprint("t", i))}}.Sample(),
		}}.Bytes(), leafAgent, now)
	}
	if len(s.streams) > maxSubAgents || len(s.sources) > maxSources || len(s.words) > maxWords {
		t.Errorf("%d sub-agents, %d sources, %d words kept", len(s.streams), len(s.sources), len(s.words))
	}
	c := s.Counts()
	if want := uint64(n - maxSubAgents + n - maxSources); c.NotFollowed != want || c.Notifications != n {
		t.Errorf("%d not followed of %d notifications, want %d of %d", c.NotFollowed, c.Notifications, want, n)
	}
}

func TestComplaint(t *testing.T) {
	var c complaint
	at := time.Unix(1000, 0)
	for _, step := range []struct {
		after time.Duration
		count uint64
		due   bool
	}{{0, 1, true}, {0, 0, false}, {9 * time.Second, 0, false}, {time.Second, 3, true}, {-time.Hour, 1, true}, {time.Second, 0, false}} {
		at = at.Add(step.after)
		if n, due := c.make(at); n != step.count || due != step.due {
			t.Errorf("%s: %d, %t; want %d, %t", at, n, due, step.count, step.due)
		}
	}
}

// An agent whose listener fails ends with an error instead of waiting for ever.
func TestSFlowListenerEnds(t *testing.T) {
	l, s, _ := leaf(t)
	close(l.ended)
	if err := s.observe(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "the listener ended") {
		t.Errorf("error %v", err)
	}
}

func TestSFlowAddressInUse(t *testing.T) {
	taken, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = openSFlow(SFlowConfig{Listen: taken.LocalAddr().String(), Switches: []SwitchConfig{{Name: "a", Listen: "127.0.0.1:0", Agent: leafAgent}}}, sflowLog(t))
	if err == nil || !strings.Contains(err.Error(), "a port that no other collector has") {
		t.Errorf("error %v", err)
	}
}

func TestSFlowConfig(t *testing.T) {
	const one = "listen: 127.0.0.1:6343\nswitches:\n- {name: leaf1, listen: 127.0.0.1:9340, agent: 192.0.2.1"
	for _, c := range []struct{ name, yaml, wrong string }{
		{"all keys", one + ", from: [192.0.2.0/24, 'fe80::/10'], interfaces: {1: swp1, 1001: Ethernet0}}\n", ""},
		{"off", "listen: ''\n", ""},
		{"two switches", one + "}\n- {name: leaf2, listen: 127.0.0.1:9341, agent: '2001:db8::2'}\n", ""},
		{"no switches", "listen: 127.0.0.1:6343\n", "name each switch and its agent address"},
		{"nowhere to listen", "switches: [{name: a, listen: ':1', agent: 192.0.2.1}]\n", "switches without listen: give the UDP address"},
		{"no port", strings.Replace(one, ":6343", "", 1) + "}\n", "give an address and a port"},
		{"bad name", strings.Replace(one, "leaf1", "leaf.1", 1) + "}\n", `switch name "leaf.1": use letters`},
		{"name twice", one + "}\n- {name: leaf1, listen: ':1', agent: 192.0.2.2}\n", "two switches are named leaf1"},
		{"agent twice", one + "}\n- {name: leaf2, listen: ':1', agent: '::ffff:192.0.2.1'}\n", "switches leaf1 and leaf2 have the same agent address"},
		{"target twice", one + "}\n- {name: leaf2, listen: 127.0.0.1:9340, agent: 192.0.2.2}\n", "leaf1 and leaf2 both listen on 127.0.0.1:9340"},
		{"no agent", "listen: 127.0.0.1:6343\nswitches: [{name: a, listen: ':1'}]\n", "switch a: no agent address"},
		{"no target", "listen: 127.0.0.1:6343\nswitches: [{name: a, agent: 192.0.2.1}]\n", "switch a: listen is empty"},
		{"interface without a name", one + ", interfaces: {1: ''}}\n", `interface 1 named ""`},
		{"ifIndex 0", one + ", interfaces: {0: swp1}}\n", "an ifIndex begins with 1"},
		{"unknown key", one + ", adress: x}\n", `unknown key "adress"`},
		{"agent that is no address", strings.Replace(one, "192.0.2.1", "leaf1.example", 1) + "}\n", `ParseAddr("leaf1.example")`},
	} {
		var cfg SFlowConfig
		err := service.DecodeConfig("c.yaml", []byte(c.yaml), &cfg)
		if err == nil {
			err = cfg.Validate()
		}
		if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.wrong)
		}
		if c.name == "all keys" && (cfg.Switches[0].Interfaces[1001] != "Ethernet0" || len(cfg.Switches[0].From) != 2 || cfg.Switches[0].Agent != leafAgent) {
			t.Errorf("read %+v", cfg)
		}
	}
}

// FuzzSFlowDatagram: whatever comes from a switch, its events can be sent on,
// name a class there is, and every notification is accounted for.
func FuzzSFlowDatagram(f *testing.F) {
	all := [][]byte{sflowtest.Header(1, 64, 4, frame(f, "10.0.0.1:1>10.0.0.2:2", 3)), sflowtest.Queue(1), sflowtest.Function("f"),
		sflowtest.Trap("g", "t"), sflowtest.LinuxReason("NO_SOCKET"), sflowtest.Timestamp(3)}
	for _, r := range all {
		f.Add(notice(1, sflowtest.Drop{Reason: 256, Records: [][]byte{r}}.Sample()))
	}
	f.Add(notice(2, sflowtest.Drop{Reason: 258, Records: all}.Sample(), sflowtest.Sample(1, make([]byte, 8))))
	f.Add(notice(3, sflowtest.Drop{Reason: 258, Records: [][]byte{sflowtest.Header(1, 64, 4, frame(f, "[::1]:1>[::2]:2", 3, 0x81, 0, 0, 5))}}.Sample()))
	classes := map[string]bool{}
	for _, c := range Classes() {
		classes[c] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, s, seen := leaf(t)
		l.log, s.log = slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler)
		if len(b) >= 12 {
			binary.BigEndian.PutUint32(b[0:], 5) // most get past the list
			binary.BigEndian.PutUint32(b[4:], 1)
			copy(b[8:], leafAgent.AsSlice())
		}
		l.datagram(b, leafAgent, time.Unix(1_700_000_000, 0))
		c := s.Counts()
		if uint64(len(seen()))+c.NoLoss != c.Notifications {
			t.Fatalf("%d events of %+v", len(seen()), c)
		}
		for _, o := range seen() {
			if _, err := proto.Marshal(o.event); err != nil || !classes[o.event.Class] || !utf8.ValidString(o.event.Reason) || o.event.Reason == "" {
				t.Fatalf("event %v: %v", o.event, err)
			}
		}
	})
}

// sflowLoad is a datagram as switches send them: as many notifications, each
// with 128 bytes of header, as fit into 1,400 bytes.
func sflowLoad(b *testing.B) (datagram []byte, notifications int) {
	header := append(frame(b, "10.0.0.1:40000>10.0.0.2:80", 1), make([]byte, 128)...)[:128]
	var samples [][]byte
	for i, reason := range []uint32{258, 257, 259, 256, 6, 269} {
		records := [][]byte{sflowtest.Header(1, 1518, 4, header), sflowtest.Queue(uint32(i)), sflowtest.Trap("acl_drops", "ingress_flow_action_drop")}
		samples = append(samples, sflowtest.Drop{Sequence: uint32(i), Index: 1, Input: 3, Output: 9, Reason: reason, Records: records}.Sample())
	}
	return notice(1, samples...), len(samples)
}

// BenchmarkSFlowDecode is decoding and classifying: one operation is one
// notification.
func BenchmarkSFlowDecode(b *testing.B) {
	datagram, each := sflowLoad(b)
	_, s, _ := leaf(b)
	var r sflow.Reader
	unknown := 0
	b.ReportAllocs()
	for n := 0; n < b.N; n += each {
		if err := r.Reset(datagram); err != nil {
			b.Fatal(err)
		}
		for r.Next() {
			if v, _ := s.classify(&r.Drop, ""); !v.known {
				unknown++
			}
		}
	}
	if r.Err() != nil || unknown > 0 {
		b.Fatal(r.Err(), unknown)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "notifications/s")
}

// BenchmarkSFlowEvents goes all the way from a datagram to events: one
// operation is one notification.
func BenchmarkSFlowEvents(b *testing.B) {
	datagram, each := sflowLoad(b)
	l, s, _ := leaf(b)
	events := 0
	s.handle = func(observed) { events++ }
	now := time.Unix(1_700_000_000, 0)
	number := uint32(0)
	sent := 0
	b.ReportAllocs()
	for ; sent < b.N; sent += each {
		number++
		binary.BigEndian.PutUint32(datagram[16:], number)
		l.datagram(datagram, leafAgent, now)
	}
	if events != sent {
		b.Fatalf("%d events of %d notifications", events, sent)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "notifications/s")
}
