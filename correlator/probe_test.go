package correlator

import (
	"testing"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// A probe's drop that shows the whole packet is no evidence, though no record ever
// claims it: a busy host tells of its traces late, and of surveys not at all.
func TestProbeNobodyClaims(t *testing.T) {
	t.Parallel()
	f := packet.Flow{Src: addrPortString("10.0.0.1:31000"), Dst: addrPortString("10.1.0.2:443"), Proto: packet.TCP}
	for _, c := range []struct {
		name   string
		wrong  bool // its checksum
		probes uint64
		drops  int
	}{
		{"a probe", true, 1, 0},
		{"an acknowledgement", false, 0, 1},
	} {
		b, err := packet.Probe{Flow: f, TTL: 1, Seq: 88, Ack: 77, ID: 5<<6 | 1, BadChecksum: c.wrong}.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := packet.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		s := NewStore(smallClos(t), DefaultStoreLimits())
		s.AddDrop(&decafpb.DropEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 1, Seq: 1}, TimeNs: 90, Class: classTTL, Packet: p}, 100)
		s.Settle(300)
		if got := s.Stats().ProbeDrops; got != c.probes || len(s.drops) != c.drops {
			t.Errorf("%s: %d probes and %d drops, want %d and %d", c.name, got, len(s.drops), c.probes, c.drops)
		}
	}
}
