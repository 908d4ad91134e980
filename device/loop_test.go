package device

import (
	"net/netip"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

func TestLoops(t *testing.T) {
	type drop struct {
		class, in, out string
		port           uint16
		id, length     uint32
	}
	const ttl = ErrorsL3RxTTL
	for name, tc := range map[string]struct {
		drops []drop
		want  []string
	}{
		"a trace passes":                {[]drop{{ttl, "eth1", "eth2", 1, 7, 40}, {ttl, "eth1", "eth2", 1, 8, 40}}, []string{"", ""}},
		"a trace's probe is sent again": {[]drop{{ttl, "eth1", "eth2", 1, 7, 40}, {ttl, "eth1", "eth2", 1, 7, 40}}, []string{"", ""}},
		"back where it came from":       {[]drop{{ttl, "eth1", "eth1", 1, 7, 40}}, []string{loopBack}},
		"told once of a flow":           {[]drop{{ttl, "eth1", "eth1", 1, 7, 40}, {ttl, "eth1", "eth1", 1, 8, 40}, {ttl, "eth1", "eth1", 2, 9, 40}}, []string{loopBack, "", loopBack}},
		"the very packet again":         {[]drop{{ttl, "eth1", "eth2", 1, 7, 1500}, {ttl, "eth3", "eth2", 1, 7, 1500}}, []string{"", loopAgain}},
		"another of the flow":           {[]drop{{ttl, "eth1", "eth2", 1, 7, 1500}, {ttl, "eth1", "eth2", 1, 8, 1500}}, []string{"", ""}},
		"no identification":             {[]drop{{ttl, "eth1", "eth2", 1, 0, 1500}, {ttl, "eth1", "eth2", 1, 0, 1500}}, []string{"", ""}},
		"no TTL":                        {[]drop{{PolicyL3ACL, "eth1", "eth1", 1, 7, 1500}}, []string{""}},
		"directions not known":          {[]drop{{ttl, "", "", 1, 7, 40}}, []string{""}},
	} {
		l := newLoops(loopQuiet, 16)
		for i, d := range tc.drops {
			p := packet.Flow{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.0.2:80"), Proto: packet.TCP}.PB()
			p.SrcPort = uint32(d.port)
			ev := &decafpb.DropEvent{Class: d.class, Ingress: d.in, Egress: d.out, Packet: &decafpb.Packet{Flow: p, IpId: d.id, Length: d.length}}
			if got := l.take(time.Unix(1000, int64(i)), ev); got != tc.want[i] {
				t.Errorf("%s: drop %d: %q, want %q", name, i, got, tc.want[i])
			}
		}
	}
	if got := newLoops(loopQuiet, 1).take(time.Now(), &decafpb.DropEvent{Class: ttl}); got != "" {
		t.Errorf("without a packet: %q", got)
	}
}

func TestLoopsForget(t *testing.T) {
	l := newLoops(10*time.Second, 4)
	at := time.Unix(1000, 0)
	take := func(port uint32) string {
		f := packet.Flow{Src: netip.MustParseAddrPort("10.0.0.1:1"), Dst: netip.MustParseAddrPort("10.0.0.2:80"), Proto: packet.TCP}.PB()
		f.SrcPort = port
		return l.take(at, &decafpb.DropEvent{Class: ErrorsL3RxTTL, Ingress: "a", Egress: "a", Packet: &decafpb.Packet{Flow: f}})
	}
	for port := range uint32(20) {
		take(port)
	}
	if len(l.flows.known) != 4 || l.flows.order.Len() != 4 || l.forgotten != 16 {
		t.Errorf("%d known, %d forgotten", len(l.flows.known), l.forgotten)
	}
	if take(19) != "" {
		t.Error("told twice")
	}
	at = at.Add(10 * time.Second)
	if take(19) == "" {
		t.Error("not told again after a while")
	}
	at = at.Add(-time.Hour) // the clock steps back
	if take(19) == "" {
		t.Error("silent until the old time is back")
	}
	// An anomaly is no drop: it counts no packets.
	if o := loopEvent(&decafpb.DropEvent{Class: ErrorsL3RxTTL, Ingress: "a"}, loopBack); o.packets != 0 || o.event.Class != AnomalyLoop || o.event.Ingress != "a" {
		t.Errorf("%+v", o)
	}
}
