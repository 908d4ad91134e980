package tracer

import (
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"decaf/api/packet"
)

func TestHeardPackets(t *testing.T) {
	for _, src := range []string{"10.0.0.1:80", "[2001:db8::1]:80"} {
		dst := "10.0.0.2:40000"
		if src[0] == '[' {
			dst = "[2001:db8::2]:40000"
		}
		f := packet.Flow{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Proto: packet.TCP}
		b := marshal(t, packet.Probe{Flow: f, TTL: 61, ID: 1, Seq: 1000, Ack: 2000, Flags: packet.SYN | packet.ACK})
		h, ok := parseHeard(b)
		if !ok || h.flow != f || h.ttl != 61 || h.seq != 1000 || h.ack != 2000 || h.flags != packet.SYN|packet.ACK || h.data != 0 {
			t.Errorf("%+v %v", h, ok)
		}
		if s, ok := h.sequence(); !ok || s != (Sequence{Unacked: 2000, Next: 1001}) {
			t.Errorf("%+v %v", s, ok)
		}
		for n := range b {
			if _, ok := parseHeard(b[:n]); ok {
				t.Errorf("%d of %d bytes pass", n, len(b))
			}
		}
		udp := append([]byte{}, b...)
		udp[9], udp[6] = packet.UDP, packet.UDP
		if _, ok := parseHeard(udp); ok {
			t.Error("UDP passes")
		}
		if f.Is6() {
			bare := make([]byte, 40, 100)
			header6(bare, f.Src.Addr(), f.Dst.Addr(), 61, len(b)-40)
			if again, ok := parseHeard(append(bare, b[40:]...)); !ok || again != h {
				t.Errorf("%+v %v", again, ok)
			}
		}
	}
	for _, flags := range []uint8{packet.SYN, packet.RST | packet.ACK} {
		if _, ok := (&heard{flags: flags}).sequence(); ok {
			t.Errorf("flags %x say where a connection stands", flags)
		}
	}
}

func FuzzHeard(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := parseHeard(b)
		if ok && (!h.flow.Src.IsValid() || int(h.data) > 1<<16) {
			t.Errorf("%+v", h)
		}
	})
}

func TestDistancesFromTTLs(t *testing.T) {
	for ttl, want := range map[uint8]int{64: 0, 61: 3, 40: 24, 33: 0, 128: 0, 125: 3, 255: 0, 250: 5, 1: 0, 0: 0, 200: 0} {
		if got := switchesFrom(ttl); got != want {
			t.Errorf("TTL %d: %d switches, want %d", ttl, got, want)
		}
	}
	var d distances
	for i := range maxDistances + 10 {
		d.learn(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 3)
	}
	if len(d.at) != maxDistances || d.forgotten() != 10 {
		t.Errorf("%d kept, %d forgotten", len(d.at), d.forgotten())
	}
	d.learn(netip.MustParseAddr("10.9.9.9"), 7)
	if d.of(netip.MustParseAddr("10.9.9.9")) != 7 || d.of(netip.MustParseAddr("10.9.9.8")) != 0 {
		t.Error("not remembered")
	}
}

func TestWatchFilters(t *testing.T) {
	f4, f6 := tcpFlow("10.0.0.1:80", "10.0.0.2:40000"), tcpFlow("[2001:db8::1]:80", "[2001:db8::2]:40000")
	syn4 := marshal(t, packet.Probe{Flow: f4, TTL: 61, ID: 1, Flags: packet.SYN | packet.ACK})
	syn6 := marshal(t, packet.Probe{Flow: f6, TTL: 61, Flags: packet.SYN | packet.ACK})
	other4 := marshal(t, packet.Probe{Flow: tcpFlow("10.0.0.1:81", "10.0.0.2:40000"), TTL: 61, ID: 1})
	data4 := marshal(t, packet.Probe{Flow: f4, TTL: 61, ID: 1})
	other6 := marshal(t, packet.Probe{Flow: tcpFlow("[2001:db8::1]:81", "[2001:db8::2]:40000"), TTL: 61})
	udp4 := append([]byte{}, syn4...)
	udp4[9] = packet.UDP
	ports := func(v6 bool) ([]bpf.RawInstruction, error) { return watchPorts(v6, 80, 40000) }
	attended := func(v6 bool) ([]bpf.RawInstruction, error) { return watchFilter(v6, 81, 40000) }
	for name, c := range map[string]struct {
		filter func(bool) ([]bpf.RawInstruction, error)
		v6     bool
		b      []byte
		passes bool
	}{
		"one flow":             {ports, false, syn4, true},
		"another flow":         {ports, false, other4, false},
		"one flow, IPv6":       {ports, true, syn6[40:], true},
		"another flow, IPv6":   {ports, true, other4[20:], false},
		"one flow, cut":        {ports, false, syn4[:21], false},
		"opening":              {watchAll, false, syn4, true},
		"opening, IPv6":        {watchAll, true, syn6, true},
		"opening, but not TCP": {watchAll, false, udp4, false},
		"not opening":          {watchAll, false, other4, false},
		"not opening, IPv6":    {watchAll, true, other6, false},
		"attended":             {attended, false, other4, true},
		"attended, IPv6":       {attended, true, other6, true},
		"not attended":         {attended, false, data4, false},
	} {
		raw, err := c.filter(c.v6)
		if err != nil {
			t.Fatal(err)
		}
		program, ok := bpf.Disassemble(raw)
		if !ok {
			t.Fatal("cannot be disassembled")
		}
		// The machine here has no random numbers: those instructions are for what
		// opens no connection.
		for i, ins := range program {
			if _, random := ins.(bpf.LoadExtension); random {
				program[i] = bpf.LoadConstant{Dst: bpf.RegA, Val: 1<<32 - 1}
			}
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := vm.Run(c.b); err != nil || n > 0 != c.passes {
			t.Errorf("%s: %d of %d bytes pass, %v", name, n, len(c.b), err)
		}
	}
}

// A segment that looks like one of the connection is known again by what every
// router quotes; for IPv6, that is all of it.
func TestSequenceIsReadBack(t *testing.T) {
	s, drawn := Sequence{Unacked: 100, Next: 5000}, identity{seq: 9, id: 0x1240 &^ maxTTL, ack: 1 << 12}
	for _, id := range []identity{drawn, s.nonce(drawn), s.nonce(identity{seq: 1<<32 - 1, id: drawn.id})} {
		seqs := map[uint32]bool{}
		for ttl := 1; ttl <= maxTTL; ttl += 7 {
			for _, nth := range []int{0, 3, 63} {
				var p packet.Probe
				s.mark(&p, id, ttl, nth)
				seqs[p.Seq] = true
				if int32(p.Seq-s.Unacked) >= 0 || s.Unacked-p.Seq > 4097 || int32(s.Next-p.Ack) <= 0 || s.Next-p.Ack > 4096 {
					t.Fatalf("sequence %d, acknowledgement %d", p.Seq, p.Ack)
				}
				for _, v6 := range []bool{false, true} {
					if gotTTL, gotNth, ok := s.read(quoteOf(p, true), id, v6); !ok || gotTTL != ttl || gotNth != nth {
						t.Errorf("TTL %d number %d read as %d %d %v", ttl, nth, gotTTL, gotNth, ok)
					}
				}
				if gotTTL, gotNth, ok := s.read(quoteOf(p, false), id, false); !ok || gotTTL != ttl || gotNth != -1 {
					t.Errorf("8 bytes: TTL %d read as %d %d %v", ttl, gotTTL, gotNth, ok)
				}
				q := quoteOf(p, true)
				q.Seq = s.Unacked
				if _, _, ok := s.read(q, id, false); ok {
					t.Error("a segment of the flow itself is taken for a probe")
				}
			}
		}
		// One sequence for all of a trace, and that of its other probes where it
		// could be chosen.
		if len(seqs) != 1 || id != drawn && !seqs[id.seq] {
			t.Errorf("sequences %v, the identity's is %d", seqs, id.seq)
		}
	}
}
