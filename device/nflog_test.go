package device

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/api/service"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

// attr is one netlink attribute.
func attr(kind uint16, v ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(v)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), v...)
	return append(b, make([]byte, -len(v)&3)...)
}

func nflogMessage(family uint8, group byte, attrs ...[]byte) []byte {
	return slices.Concat(append([][]byte{{family, 0, 0, group}}, attrs...)...)
}

func testIfname(i uint32) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprint("eth", i)
}

func TestNFLOGEvent(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	tcp := frame(t, "10.0.0.1:40000>10.0.0.2:23", 0xdeadbeef)
	want := func(change func(*decafpb.Packet)) *decafpb.Packet {
		p, err := packet.Decode(tcp[14:])
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(p)
		}
		return p
	}
	cfg := &NFLOGConfig{Groups: []uint16{12}, Classes: []NFLOGClass{{"rate-rpf", PolicyL3RPF}, {"rate-", PolicyL3Policer}, {"flowspec", PolicyL3DDoS}}}
	payload := attr(nflogPayload, tcp[14:]...)
	for _, c := range []struct {
		name    string
		message []byte
		want    *decafpb.DropEvent
	}{
		{"all there is to tell", nflogMessage(2, 12,
			attr(1, 8, 0, 2, 0), attr(2, 0, 0, 0, 1),
			attr(nflogTimestamp, 0, 0, 0, 0, 0x65, 0x53, 0xf0, 0xff, 0, 0, 0, 0, 0, 0, 0, 7),
			attr(nflogIn, 0, 0, 0, 1), attr(nflogOut, 0, 0, 0, 2), attr(nflogLinkLayer, tcp[:14]...),
			attr(nflogVLAN|1<<15, slices.Concat(attr(1, 0x81, 0), attr(2, 0x20, 7))...),
			payload, attr(nflogPrefix, []byte("acl-12: \x00")...), attr(nflogSeq, 0, 0, 0, 3)),
			&decafpb.DropEvent{TimeNs: 1_699_999_999_000_007_000, Class: PolicyL3ACL, Reason: "acl-12", Ingress: "eth1", Egress: "eth2",
				Packet: want(func(p *decafpb.Packet) { p.Vlan, p.DstMac, p.SrcMac = 7, tcp[:6], tcp[6:12] })}},
		{"a prefix with a class of its own", nflogMessage(2, 12, payload, attr(nflogPrefix, []byte("rate-5\x00")...)),
			&decafpb.DropEvent{Class: PolicyL3Policer, Reason: "rate-5", Packet: want(nil)}},
		{"the longer prefix counts", nflogMessage(2, 12, payload, attr(nflogPrefix, []byte("rate-rpf-1\x00")...)),
			&decafpb.DropEvent{Class: PolicyL3RPF, Reason: "rate-rpf-1", Packet: want(nil)}},
		{"no prefix", nflogMessage(2, 12, payload), &decafpb.DropEvent{Class: PolicyL3ACL, Reason: "group 12", Packet: want(nil)}},
		{"a bridge's port", nflogMessage(nfBridge, 12, payload, attr(nflogIn, 0, 0, 0, 9), attr(nflogPhysIn, 0, 0, 0, 1), attr(nflogPhysOut, 0, 0, 0, 2)),
			&decafpb.DropEvent{Class: PolicyL2ACL, Reason: "group 12", Ingress: "eth1", Egress: "eth2", Packet: want(nil)}},
		{"no ip", nflogMessage(3, 12, attr(nflogPayload, 0, 1, 8, 0), attr(nflogPrefix, []byte("\x1b[2J\xff\x00")...)),
			&decafpb.DropEvent{Class: PolicyL3ACL, Reason: "?[2J?"}},
		{"an attribute of the future", nflogMessage(2, 12, attr(999, 1, 2, 3), payload), &decafpb.DropEvent{Class: PolicyL3ACL, Reason: "group 12", Packet: want(nil)}},
	} {
		r, err := parseNFLOG(c.message)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.want.TimeNs == 0 {
			c.want.TimeNs = uint64(now.UnixNano())
		}
		c.want.Source = "nflog"
		o := r.event(cfg, now, testIfname)
		if d := cmp.Diff(c.want, o.event, protocmp.Transform()); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
		if o.packets != 1 || !o.known || o.bytes != uint64(c.want.GetPacket().GetLength()) {
			t.Errorf("%s: %+v", c.name, o)
		}
	}
}

func TestNFLOGBadInput(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":                      nil,
		"half a header":                {2, 0, 0},
		"half an attribute":            nflogMessage(2, 1, []byte{8, 0}),
		"an attribute beyond the end":  nflogMessage(2, 1, attr(nflogPrefix, 'a')[:4]),
		"an attribute of no length":    nflogMessage(2, 1, make([]byte, 8)),
		"an interface of two bytes":    nflogMessage(2, 1, attr(nflogIn, 0, 1)),
		"a time of four bytes":         nflogMessage(2, 1, attr(nflogTimestamp, 0, 0, 0, 1)),
		"a broken attribute within":    nflogMessage(2, 1, attr(nflogVLAN, 9, 0, 0)),
		"a number without its numbers": nflogMessage(2, 1, attr(nflogSeq)),
	} {
		if r, err := parseNFLOG(b); err == nil || !strings.Contains(err.Error(), "update this program") {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestNFLOGConfig(t *testing.T) {
	for _, c := range []struct{ name, yaml, wrong string }{
		{"all keys", "groups: [0, 12]\nclasses: [{prefix: rate-, class: policy/l3/policer}]\n", ""},
		{"off", "groups: []\n", ""},
		{"group twice", "groups: [3, 3]\n", "group 3 twice"},
		{"too many groups", "groups: [" + strings.Repeat("1, ", 64) + "1]\n", "65 groups: at most 64"},
		{"no class there is", "classes: [{prefix: a, class: policy/acl}]\n", `"policy/acl" is no class: use one of errors/`},
		{"no prefix", "classes: [{class: policy/l3/acl}]\n", "has no prefix"},
		{"prefix twice", "classes: [{prefix: a, class: policy/l3/acl}, {prefix: a, class: policy/l3/rpf}]\n", `prefix "a" twice`},
		{"a group above 65535", "groups: [70000]\n", "c.yaml:1:"},
	} {
		var cfg NFLOGConfig
		err := service.DecodeConfig("c.yaml", []byte(c.yaml), &cfg)
		if err == nil {
			err = cfg.Validate()
		}
		if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.wrong)
		}
	}
}

// FuzzNFLOG: no message makes it panic, and what it makes an event of can be
// sent on.
func FuzzNFLOG(f *testing.F) {
	f.Add(nflogMessage(2, 12, attr(nflogIn, 0, 0, 0, 1), attr(nflogPayload, frame(f, "10.0.0.1:1>10.0.0.2:2", 3)[14:]...), attr(nflogPrefix, 'a', 0)))
	f.Add(nflogMessage(7, 0, attr(nflogVLAN, attr(2, 0, 7)...), attr(nflogLinkLayer, make([]byte, 14)...), attr(nflogTimestamp, make([]byte, 16)...)))
	cfg := &NFLOGConfig{Classes: []NFLOGClass{{"a", PolicyL3RPF}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseNFLOG(b)
		if err != nil {
			return
		}
		o := r.event(cfg, time.Unix(1_700_000_000, 0), testIfname)
		if _, err := proto.Marshal(o.event); err != nil || !utf8.ValidString(o.event.Reason) || o.event.Reason == "" {
			t.Fatalf("event %v: %v", o.event, err)
		}
	})
}
