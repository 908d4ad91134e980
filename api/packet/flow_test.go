package packet

import (
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"decaf/api/decafpb"
)

func flow(src, dst string, p uint8) Flow {
	return Flow{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Proto: p}
}

func TestFlowText(t *testing.T) {
	for _, c := range []struct {
		flow Flow
		want string
	}{
		{flow("10.0.0.1:5", "10.0.0.2:80", TCP), "10.0.0.1:5->10.0.0.2:80/tcp"},
		{flow("[2001:db8::1]:5", "[2001:db8::2]:53", UDP), "[2001:db8::1]:5->[2001:db8::2]:53/udp"},
		{flow("10.0.0.1:0", "10.0.0.2:2816", ICMP), "10.0.0.1:0->10.0.0.2:2816/icmp"},
		{flow("10.0.0.1:0", "10.0.0.2:0", 89), "10.0.0.1:0->10.0.0.2:0/89"},
	} {
		if got := c.flow.String(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func TestFlowReversesAndTravels(t *testing.T) {
	for _, f := range []Flow{
		flow("10.0.0.1:5", "10.0.0.2:80", TCP),
		flow("[2001:db8::1]:5", "[2001:db8::2]:53", UDP),
	} {
		if r := f.Reverse(); r == f || r.Reverse() != f || r.Src != f.Dst {
			t.Errorf("%s: reverse is %s", f, r)
		}
		back, err := FlowFromPB(f.PB())
		if err != nil || back != f {
			t.Errorf("%s came back as %s, %v", f, back, err)
		}
	}
}

// A dual-stack socket's IPv4 flow is the IPv4 flow.
func TestMappedAddressesAreIPv4(t *testing.T) {
	plain := flow("10.0.0.1:5", "10.0.0.2:80", TCP)
	mapped := flow("[::ffff:10.0.0.1]:5", "[::ffff:10.0.0.2]:80", TCP)
	if mapped.Unmapped() != plain || mapped.Is6() {
		t.Errorf("unmapped: %s, IPv6 %v", mapped.Unmapped(), mapped.Is6())
	}
	if !proto.Equal(mapped.PB(), plain.PB()) {
		t.Errorf("on the wire: %v", mapped.PB())
	}
	a := mapped.Src.Addr().As16()
	b := mapped.Dst.Addr().As16()
	if got, err := FlowFromPB(&decafpb.Flow{Src: a[:], Dst: b[:], SrcPort: 5, DstPort: 80, Protocol: 6}); err != nil || got != plain {
		t.Errorf("from 16 bytes: %s, %v", got, err)
	}
}

func TestBadFlows(t *testing.T) {
	four, sixteen := []byte{10, 0, 0, 1}, make([]byte, 16)
	for name, c := range map[string]struct {
		flow *decafpb.Flow
		want string
	}{
		"none":             {nil, "none given"},
		"no address":       {&decafpb.Flow{Dst: four}, "source address of 0 bytes"},
		"cut address":      {&decafpb.Flow{Src: four, Dst: []byte{1, 2, 3}}, "destination address of 3 bytes"},
		"two families":     {&decafpb.Flow{Src: four, Dst: sixteen}, "different address families"},
		"port too high":    {&decafpb.Flow{Src: four, Dst: four, DstPort: 65536}, "at most 65535"},
		"no such protocol": {&decafpb.Flow{Src: four, Dst: four, Protocol: 256}, "at most 255"},
	} {
		if _, err := FlowFromPB(c.flow); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
