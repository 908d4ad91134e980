package correlator

import (
	"testing"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// pairFlow is a connection between two hosts, and a retransmit of its bytes 500 to 1948.
func pairFlow(t *testing.T, topo *topology.Topology, path *decafpb.Path) (packet.Flow, *decafpb.Retransmit) {
	t.Helper()
	src, _ := topo.Host("p0-tor0-h0")
	dst, _ := topo.Host("p1-tor1-h1")
	flow := packet.Flow{Src: addrPort(src, 1000), Dst: addrPort(dst, 5201), Proto: packet.TCP}
	return flow, &decafpb.Retransmit{Origin: &decafpb.Origin{Producer: src.Name, BootId: 1, Seq: 1}, TimeNs: 100, Flow: flow.PB(), Cookie: 3,
		TcpSeq: 500, TcpEndSeq: 1948, Kind: kindFAST, Path: path}
}

// A device drops what a tunnel carries: the loss is the user's whose packet was
// inside, and a probe of ours inside is no loss.
func TestDropInTunnelIsTheUsers(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	outer := packet.Flow{Src: addrPortString("10.9.0.1:4789"), Dst: addrPortString("10.9.0.2:4789"), Proto: packet.UDP}
	for _, c := range []struct {
		name    string
		seq, id uint32
		dropped bool // it is evidence, and joins the flow
	}{
		{"the segment", 500, 77, true},
		{"a part of it", 700, 77, true},
		{"another segment", 9000, 77, true},
		{"a probe", 88, 5<<6 | 3, false},
	} {
		for _, first := range []string{"drop", "retransmit"} {
			s := NewStore(topo, DefaultStoreLimits())
			flow, r := pairFlow(t, topo, &decafpb.Path{ProbeSeq: 88, ProbeId: 5 << 6, Distance: 5})
			d := &decafpb.DropEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: 1}, TimeNs: 90, Class: "policy/l3/acl", Encapsulation: "vxlan",
				Packet: &decafpb.Packet{Flow: outer.PB(), IpId: 4}, Inner: &decafpb.Packet{Flow: flow.PB(), TcpSeq: c.seq, IpId: c.id}}
			if first == "drop" {
				s.AddDrop(d, 100)
				s.AddRetransmit(r, 200)
			} else {
				s.AddRetransmit(r, 100)
				s.AddDrop(d, 200)
			}
			s.Settle(300)
			j := s.join(s.order[0])
			if got := len(j.Drops) == 1; got != c.dropped {
				t.Errorf("%s, %s first: joined %v", c.name, first, got)
			}
			if matched := j.Matched == 1; matched != (c.seq >= 500 && c.seq < 1948) {
				t.Errorf("%s, %s first: the very segment: %v", c.name, first, matched)
			}
			if c.dropped && j.Matched == 1 {
				if ev := evidenceOf(j.Drops, s.order, nil, nil); ev.GetMatchedCount() != 1 {
					t.Errorf("%s, %s first: the evidence does not pair them: %v", c.name, first, ev)
				}
			}
		}
	}
}

// Behind a translation a probe carries another five-tuple than the flow, as
// Path.probed tells: its drop there is no loss, while the user's own packet, dropped
// under that five-tuple, is the user's loss.
func TestDropBehindTranslation(t *testing.T) {
	t.Parallel()
	topo := smallClos(t)
	wire := packet.Flow{Src: addrPortString("10.7.0.1:31000"), Dst: addrPortString("10.7.0.2:443"), Proto: packet.TCP}
	for _, first := range []string{"drop", "retransmit"} {
		s := NewStore(topo, DefaultStoreLimits())
		_, r := pairFlow(t, topo, &decafpb.Path{ProbeSeq: 88, ProbeId: 5 << 6, Distance: 5, Probed: wire.PB()})
		drop := func(seq uint64, tcp, id uint32) {
			s.AddDrop(&decafpb.DropEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: seq}, TimeNs: 90, Class: "policy/l3/acl",
				Packet: &decafpb.Packet{Flow: wire.PB(), TcpSeq: tcp, IpId: id}}, 100)
		}
		if first == "retransmit" {
			s.AddRetransmit(r, 50)
		}
		drop(1, 88, 5<<6|2) // the probe
		drop(2, 500, 9)     // the segment
		if first == "drop" {
			s.AddRetransmit(r, 200)
		}
		s.Settle(300)
		j := s.join(s.order[0])
		if len(j.Drops) != 1 || j.Matched != 1 || j.Drops[0].Event.GetPacket().GetTcpSeq() != 500 || s.Stats().ProbeDrops != 1 {
			t.Errorf("%s first: %d drops joined, %d matched, %+v", first, len(j.Drops), j.Matched, s.Stats())
		}
		s.Prune(1 << 60)
		if len(s.ofTuple)+len(s.dropsOf) != 0 {
			t.Errorf("%s first: %d and %d five-tuples are not forgotten", first, len(s.ofTuple), len(s.dropsOf))
		}
	}
}
