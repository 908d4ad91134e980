package sflow_test

import (
	"bytes"
	"slices"
	"testing"

	"decaf/device/sflow"
)

func TestFrame(t *testing.T) {
	macs := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	ip4 := append([]byte{0x45}, make([]byte, 19)...)
	ip6 := append([]byte{0x60}, make([]byte, 39)...)
	eth := func(parts ...[]byte) []byte { return slices.Concat(append([][]byte{macs}, parts...)...) }
	tag := func(kind uint16, vid byte) []byte { return []byte{byte(kind >> 8), byte(kind), 0x20, vid} }
	for _, c := range []struct {
		name     string
		protocol uint32
		header   []byte
		network  []byte
		vlan     uint16
		macs     bool
		length   uint32 // of a frame of 1000 bytes, 4 of them stripped
	}{
		{"ipv4", 1, eth([]byte{8, 0}, ip4), ip4, 0, true, 982},
		{"ipv6", 1, eth([]byte{0x86, 0xdd}, ip6), ip6, 0, true, 982},
		{"one tag", 1, eth(tag(0x8100, 7), []byte{8, 0}, ip4), ip4, 7, true, 978},
		{"two tags: the outer counts", 1, eth(tag(0x88a8, 9), tag(0x8100, 7), []byte{8, 0}, ip4), ip4, 9, true, 974},
		{"mpls, two labels", 1, eth([]byte{0x88, 0x47}, []byte{0, 1, 0, 64, 0, 2, 1, 64}, ip4), ip4, 0, true, 974},
		{"mpls without its bottom", 1, eth([]byte{0x88, 0x47}, []byte{0, 1, 0, 64}), nil, 0, true, 978},
		{"mpls over something else", 1, eth([]byte{0x88, 0x47}, []byte{0, 1, 1, 64}, make([]byte, 20)), nil, 0, true, 978},
		{"arp", 1, eth([]byte{8, 6}, make([]byte, 28)), nil, 0, true, 982},
		{"llc", 1, eth([]byte{0, 40}, make([]byte, 40)), nil, 0, true, 982},
		{"cut in a tag", 1, eth([]byte{0x81, 0, 0}), nil, 0, true, 982},
		{"cut in the addresses", 1, macs[:11], nil, 0, false, 996},
		{"nothing", 1, nil, nil, 0, false, 996},
		{"no ethernet: ipv4", 11, ip4, ip4, 0, false, 996},
		{"no ethernet: ipv6", 12, ip6, ip6, 0, false, 996},
		{"no ethernet: mpls", 13, append([]byte{0, 1, 1, 64}, ip6...), ip6, 0, false, 992},
		{"token ring", 2, ip4, nil, 0, false, 996},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := sflow.Drop{HeaderProtocol: c.protocol, Header: c.header, FrameLength: 1000, Stripped: 4}
			f := d.Frame()
			if !bytes.Equal(f.Network, c.network) || f.VLAN != c.vlan || f.Length != c.length {
				t.Errorf("network %x, vlan %d, length %d; want %x, %d, %d", f.Network, f.VLAN, f.Length, c.network, c.vlan, c.length)
			}
			if c.macs != (f.SrcMAC != nil) || c.macs && (!bytes.Equal(f.DstMAC, macs[:6]) || !bytes.Equal(f.SrcMAC, macs[6:])) {
				t.Errorf("addresses %x > %x", f.SrcMAC, f.DstMAC)
			}
		})
	}
	many := sflow.Drop{HeaderProtocol: 1, Header: append(slices.Clone(macs), bytes.Repeat([]byte{0x81, 0, 0, 1}, 200)...)}
	if f := many.Frame(); f.Network != nil || f.VLAN != 1 || f.Length != 0 {
		t.Errorf("200 tags: %+v, want none of its inside", f)
	}
}
