package packet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestMPLSStack(t *testing.T) {
	e := Extension{Class: 1, Type: 1, Data: []byte{0x00, 0x01, 0x16, 0x3f, 0xff, 0xff, 0xf1, 0x01}}
	got, ok := e.MPLS()
	want := []MPLSLabel{{Label: 17, TrafficClass: 3, TTL: 63}, {Label: 0xfffff, Bottom: true, TTL: 1}}
	if d := cmp.Diff(want, got); !ok || d != "" {
		t.Error(ok, d)
	}
	for name, e := range map[string]Extension{
		"another class": {Class: 2, Type: 1, Data: make([]byte, 4)},
		"another type":  {Class: 1, Type: 2, Data: make([]byte, 4)},
		"no label":      {Class: 1, Type: 1},
		"half a label":  {Class: 1, Type: 1, Data: make([]byte, 6)},
	} {
		if _, ok := e.MPLS(); ok {
			t.Errorf("%s: taken for a label stack", name)
		}
	}
}

func TestInterfaceInformation(t *testing.T) {
	index := []byte{0, 0, 0, 7}
	addr4 := []byte{0, 1, 0, 0, 192, 0, 2, 1}
	addr6 := append([]byte{0, 2, 0, 0}, netip.MustParseAddr("2001:db8::1").AsSlice()...)
	name := []byte{8, 'e', 't', 'h', '1', 0, 0, 0}
	mtu := []byte{0, 0, 5, 220}
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	for what, c := range map[string]struct {
		typ  uint8
		data []byte
		want InterfaceInfo
	}{
		"all of the incoming one": {0x0f, join(index, addr4, name, mtu), InterfaceInfo{RoleIncoming, 7, netip.MustParseAddr("192.0.2.1"), "eth1", 1500}},
		"next hop, IPv6":          {0xc4, addr6, InterfaceInfo{Role: RoleNextHop, Addr: netip.MustParseAddr("2001:db8::1")}},
		"outgoing, name only":     {0x82, name, InterfaceInfo{Role: RoleOutgoing, Name: "eth1"}},
		"nothing said":            {0x40, nil, InterfaceInfo{Role: RoleSubIncoming}},
		"control characters":      {0x02, []byte{8, 'e', 0x1b, 't', '\n', 0xff, 0, 0}, InterfaceInfo{Name: "et"}},
	} {
		got, err := Extension{Class: 2, Type: c.typ, Data: c.data}.Interface()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if d := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	for what, c := range map[string]struct {
		e    Extension
		want string
	}{
		"another class":      {Extension{Class: 1}, "class 1"},
		"cut index":          {Extension{Class: 2, Type: 8, Data: index[:3]}, "index"},
		"cut address":        {Extension{Class: 2, Type: 4, Data: addr4[:7]}, "address"},
		"cut address family": {Extension{Class: 2, Type: 4, Data: addr4[:3]}, "address family"},
		"unknown family":     {Extension{Class: 2, Type: 4, Data: []byte{0, 6, 0, 0, 1, 2, 3, 4}}, "family 6"},
		"no name":            {Extension{Class: 2, Type: 2}, "name"},
		"name of length 0":   {Extension{Class: 2, Type: 2, Data: []byte{0, 0}}, "name"},
		"name past the end":  {Extension{Class: 2, Type: 2, Data: []byte{9, 'e'}}, "name"},
		"cut MTU":            {Extension{Class: 2, Type: 1, Data: mtu[:2]}, "MTU"},
	} {
		if _, err := c.e.Interface(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}
