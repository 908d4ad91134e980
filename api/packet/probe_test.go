package packet

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// tcpChecksumRight checks a probe's TCP checksum without gopacket: RFC 9293
// section 3.1, over the pseudo header and the segment.
func tcpChecksumRight(p []byte) bool {
	header, addresses := 20, p[12:20]
	if p[0]>>4 == 6 {
		header, addresses = 40, p[8:40]
	}
	pseudo := append(append([]byte{}, addresses...), 0, TCP, 0, byte(len(p)-header))
	return checksum(append(pseudo, p[header:]...)) == 0
}

func TestProbeIsAPacketOfTheFlow(t *testing.T) {
	for _, f := range []Flow{
		flow("10.0.0.1:40000", "10.0.0.2:80", TCP),
		flow("[2001:db8::1]:40000", "[2001:db8::2]:80", TCP),
		flow("[::ffff:10.0.0.1]:40000", "[::ffff:10.0.0.2]:80", TCP),
	} {
		for _, bad := range []bool{true, false} {
			p := Probe{Flow: f, TTL: 3, Seq: 0xcafe0001, Ack: 0xbeef0002, ID: 0x7003, FlowLabel: 0x54321, BadChecksum: bad}
			b, err := p.Marshal(make([]byte, 0, 60))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			back, err := FlowFromPB(got.GetFlow())
			if err != nil || back != f.Unmapped() {
				t.Errorf("flow %s became %s, %v", f, back, err)
			}
			if got.GetTtl() != 3 || got.GetTcpSeq() != 0xcafe0001 || got.GetTcpAck() != 0xbeef0002 || got.GetTcpFlags() != uint32(ACK) || int(got.GetLength()) != len(b) {
				t.Errorf("%s: %v", f, got)
			}
			if f.Is6() {
				if ip, _ := readIP(b); ip.flowLabel != 0x54321 {
					t.Errorf("flow label %#x", ip.flowLabel)
				}
			} else if got.GetIpId() != 0x7003 || checksum(b[:20]) != 0 {
				t.Errorf("IP ID %#x, header checksum off by %#x", got.GetIpId(), checksum(b[:20]))
			}
			if right := tcpChecksumRight(b); right == bad {
				t.Errorf("%s: BadChecksum %v: checksum right: %v", f, bad, right)
			}
			if whole := gopacket.NewPacket(b, layers.LayerTypeIPv4, gopacket.Default); !f.Is6() && whole.ErrorLayer() != nil {
				t.Errorf("gopacket: %v", whole.ErrorLayer().Error())
			}
		}
	}
}

// Whatever the right checksum is, the wrong one is wrong: also at 0x0000 and
// 0xffff, which are one number.
func TestBadChecksumIsAlwaysWrong(t *testing.T) {
	f := flow("10.0.0.1:40000", "10.0.0.2:80", TCP)
	seen := map[[2]byte]bool{}
	for seq := range uint32(1 << 16) {
		b, err := Probe{Flow: f, TTL: 1, ID: 1, Seq: seq, BadChecksum: true}.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		if tcpChecksumRight(b) {
			t.Fatalf("sequence %d: right checksum %x", seq, b[36:38])
		}
		seen[[2]byte(b[36:38])] = true
	}
	if len(seen) < 65000 {
		t.Errorf("only %d different checksums tried", len(seen))
	}
}

// A probe with a wrong checksum is known for one by itself, whatever became of its
// TTL; no other packet is.
func TestIsProbe(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(p *Probe)
		then func(b []byte) []byte
		is   bool
	}{
		{"a probe", func(*Probe) {}, nil, true},
		{"one that opens a connection", func(p *Probe) { p.Flags = SYN }, nil, true},
		{"whose TTL ran out", func(*Probe) {}, func(b []byte) []byte {
			b[map[byte]int{4: 8, 6: 7}[b[0]>>4]] = 1
			return b
		}, true},
		{"with more behind it than was shown", func(*Probe) {}, func(b []byte) []byte { return append(b, 0) }, true},
		{"a right checksum", func(p *Probe) { p.BadChecksum = false }, nil, false},
		{"a damaged one", func(*Probe) {}, func(b []byte) []byte {
			b[len(b)-9] ^= 4
			return b
		}, false},
		{"another window", func(*Probe) {}, func(b []byte) []byte {
			b[len(b)-5] ^= 4
			return b
		}, false},
		{"cut short", func(*Probe) {}, func(b []byte) []byte { return b[:len(b)-1] }, false},
		{"nothing", func(*Probe) {}, func([]byte) []byte { return nil }, false},
	} {
		for _, f := range []Flow{flow("10.0.0.1:40000", "10.0.0.2:80", TCP), flow("[2001:db8::1]:40000", "[2001:db8::2]:80", TCP)} {
			p := Probe{Flow: f, TTL: 3, Seq: 0xcafe0001, Ack: 0xbeef0002, ID: 0x7003, BadChecksum: true}
			c.edit(&p)
			b, err := p.Marshal(nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.then != nil {
				b = c.then(b)
			}
			if got := IsProbe(b); got != c.is {
				t.Errorf("%s, %s: %v, want %v", c.name, f, got, c.is)
			}
		}
	}
}

func TestProbeReusesItsBuffer(t *testing.T) {
	buf := make([]byte, 5, 60)
	b, err := Probe{Flow: flow("10.0.0.1:1", "10.0.0.2:2", TCP), TTL: 1, ID: 1}.Marshal(buf)
	if err != nil || len(b) != 40 || &b[0] != &buf[0] {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestProbeFlags(t *testing.T) {
	for bit := range 8 {
		want := uint8(1) << bit
		b, err := Probe{Flow: flow("10.0.0.1:1", "10.0.0.2:2", TCP), TTL: 1, ID: 1, Flags: want}.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		if p, _ := Decode(b); p.GetTcpFlags() != uint32(want) {
			t.Errorf("flags %#x became %#x", want, p.GetTcpFlags())
		}
	}
}

// What our own layers write is what gopacket's write.
func TestProbeIsWhatGopacketWrites(t *testing.T) {
	for i, f := range []Flow{flow("10.0.0.1:40000", "10.0.0.2:80", TCP), flow("[2001:db8::1]:40000", "[2001:db8::2]:80", TCP)} {
		for bit := range 8 {
			p := Probe{Flow: f, TTL: 7, Seq: 0xcafe0001 << bit, Ack: 0xbeef0002, ID: 0x7003, FlowLabel: 0xf4321, Flags: 1 << bit}
			got, err := p.Marshal(nil)
			if err != nil {
				t.Fatal(err)
			}
			tcp := &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: p.Seq, Ack: p.Ack, Window: 1024,
				FIN: p.Flags == FIN, SYN: p.Flags == SYN, RST: p.Flags == RST, PSH: p.Flags == PSH,
				ACK: p.Flags == ACK, URG: p.Flags == URG, ECE: p.Flags == ECE, CWR: p.Flags == CWR}
			ip4 := &layers.IPv4{Version: 4, TTL: 7, Id: 0x7003, Protocol: layers.IPProtocolTCP, Flags: layers.IPv4DontFragment,
				SrcIP: f.Src.Addr().AsSlice(), DstIP: f.Dst.Addr().AsSlice()}
			ip6 := &layers.IPv6{Version: 6, HopLimit: 7, FlowLabel: 0xf4321, NextHeader: layers.IPProtocolTCP,
				SrcIP: f.Src.Addr().AsSlice(), DstIP: f.Dst.Addr().AsSlice()}
			want := gopacket.NewSerializeBuffer()
			options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
			if i == 0 {
				tcp.SetNetworkLayerForChecksum(ip4)
				err = gopacket.SerializeLayers(want, options, ip4, tcp)
			} else {
				tcp.SetNetworkLayerForChecksum(ip6)
				err = gopacket.SerializeLayers(want, options, ip6, tcp)
			}
			if err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%s, flags %#x: %x, want %x (%v)", f, p.Flags, got, want.Bytes(), err)
			}
		}
	}
}

func TestProbesThatCannotBe(t *testing.T) {
	good := Probe{Flow: flow("10.0.0.1:1", "10.0.0.2:2", TCP), TTL: 1, ID: 1}
	for name, c := range map[string]struct {
		change func(*Probe)
		want   string
	}{
		"udp":          {func(p *Probe) { p.Flow.Proto = UDP }, "only TCP"},
		"two families": {func(p *Probe) { p.Flow.Dst = netip.MustParseAddrPort("[2001:db8::1]:1") }, "one address family"},
		"no addresses": {func(p *Probe) { p.Flow = Flow{Proto: TCP} }, "one address family"},
		"ttl 0":        {func(p *Probe) { p.TTL = 0 }, "TTL 0"},
		"id 0":         {func(p *Probe) { p.ID = 0 }, "IP ID 0"},
	} {
		p := good
		c.change(&p)
		if _, err := p.Marshal(nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func BenchmarkProbeMarshal(b *testing.B) {
	p := Probe{Flow: flow("10.0.0.1:1", "10.0.0.2:2", TCP), TTL: 1, ID: 1, BadChecksum: true}
	var buf [60]byte
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Marshal(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}
