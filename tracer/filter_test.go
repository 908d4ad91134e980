package tracer

import (
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"decaf/api/packet"
)

// The filters run here in x/net's BPF machine, over made packets.
func TestFilters(t *testing.T) {
	tcp4 := marshal(t, packet.Probe{Flow: flow4(packet.TCP), TTL: 1, ID: 1})
	tcp6 := marshal(t, packet.Probe{Flow: packet.Flow{Src: netip.MustParseAddrPort("[2001:db8::1]:1"), Dst: netip.MustParseAddrPort("[2001:db8::2]:2"), Proto: packet.TCP}, TTL: 1})
	udp4, udp6 := append([]byte{}, tcp4...), append([]byte{}, tcp6...)
	udp4[9], udp6[6] = packet.UDP, packet.UDP
	ip := make([]byte, 20)
	ip[0] = 0x45
	ipOptions := make([]byte, 24)
	ipOptions[0] = 0x46
	message := func(header []byte, typ byte, quote []byte) []byte {
		b := append(append([]byte{}, header...), typ, 0, 0, 0, 0, 0, 0, 0)
		return append(b, quote...)
	}
	for name, c := range map[string]struct {
		filter func() ([]bpf.RawInstruction, error)
		b      []byte
		passes bool
	}{
		"time exceeded":               {filter4, message(ip, 11, tcp4), true},
		"unreachable":                 {filter4, message(ip, 3, tcp4), true},
		"behind IP options":           {filter4, message(ipOptions, 11, tcp4), true},
		"about UDP":                   {filter4, message(ip, 11, udp4), false},
		"ping":                        {filter4, message(ip, 8, tcp4), false},
		"ping's answer":               {filter4, message(ip, 0, tcp4), false},
		"cut short":                   {filter4, message(ip, 11, tcp4[:9]), false},
		"empty":                       {filter4, nil, false},
		"IPv6 time exceeded":          {filter6, message(nil, 3, tcp6), true},
		"IPv6 unreachable":            {filter6, message(nil, 1, tcp6), true},
		"IPv6 about UDP":              {filter6, message(nil, 3, udp6), false},
		"IPv6 neighbour solicitation": {filter6, message(nil, 135, tcp6), false},
		"IPv6 cut short":              {filter6, message(nil, 3, tcp6[:6]), false},
	} {
		raw, err := c.filter()
		if err != nil {
			t.Fatal(err)
		}
		program, ok := bpf.Disassemble(raw)
		if !ok {
			t.Fatal("cannot be disassembled")
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		n, err := vm.Run(c.b)
		if passes := n > 0; err != nil || passes != c.passes || passes && n < len(c.b) {
			t.Errorf("%s: %d of %d bytes pass, %v", name, n, len(c.b), err)
		}
	}
}

func marshal(t *testing.T, p packet.Probe) []byte {
	t.Helper()
	b, err := p.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func flow4(proto uint8) packet.Flow {
	return packet.Flow{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.0.2:2"), Proto: proto}
}
