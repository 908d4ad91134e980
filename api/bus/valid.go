package bus

import (
	"errors"
	"fmt"

	"decaf/api/decafpb"
)

// maxHeader is the most bytes of a dropped packet that DropEvent carries.
const maxHeader = 128

// validRecord checks what the schema cannot say: an origin that names the
// record, addresses of 4 or 16 bytes and of one family, ports and protocol
// numbers in range. It does not judge what the record claims.
func validRecord(m evidence) error {
	o := m.GetOrigin()
	switch {
	case o == nil:
		return errors.New("no origin")
	case !token.MatchString(o.Producer):
		return fmt.Errorf("producer %q is no name of a device or host", o.Producer)
	case o.BootId == 0:
		return errors.New("no boot id in its origin")
	case o.Seq == 0:
		return errors.New("no sequence number in its origin")
	}
	switch m := m.(type) {
	case *decafpb.DropEvent:
		return errors.Join(validPacket(m.Packet), validPrefixes(m.Prefixes...))
	case *decafpb.LossAggregate:
		for _, f := range m.TopFlows {
			if err := validFlow(f.GetFlow()); err != nil {
				return err
			}
		}
		for _, p := range m.TopPrefixes {
			if err := validPrefixes(p.GetPrefix()); err != nil {
				return err
			}
		}
		return validInterval(m.StartNs, m.EndNs)
	case *decafpb.RouteEvent:
		return errors.Join(validPrefixes(m.Prefix), validAddresses(m.OldNextHops...), validAddresses(m.NewNextHops...))
	case *decafpb.FlowRecord:
		return errors.Join(validFlow(m.Flow), validPath(m.Path), validInterval(m.StartNs, m.EndNs))
	case *decafpb.Retransmit:
		return errors.Join(validFlow(m.Flow), validPath(m.Path))
	case *decafpb.Exchange:
		return validFlow(m.Flow)
	case *decafpb.Survey:
		return validSurvey(m)
	}
	return nil
}

func validFlow(f *decafpb.Flow) error {
	if f == nil {
		return nil
	}
	if err := validAddresses(f.Src, f.Dst); err != nil {
		return err
	}
	if len(f.Src) != 0 && len(f.Dst) != 0 && len(f.Src) != len(f.Dst) {
		return errors.New("flow from one address family to the other")
	}
	if f.SrcPort > 0xffff || f.DstPort > 0xffff {
		return fmt.Errorf("flow with ports %d and %d: above 65535", f.SrcPort, f.DstPort)
	}
	if f.Protocol > 0xff {
		return fmt.Errorf("flow with protocol %d: above 255", f.Protocol)
	}
	return nil
}

func validPacket(p *decafpb.Packet) error {
	if p == nil {
		return nil
	}
	if len(p.Header) > maxHeader {
		return fmt.Errorf("packet header of %d bytes: above %d", len(p.Header), maxHeader)
	}
	if p.IpId > 0xffff || p.Ttl > 0xff || p.TcpFlags > 0xffff {
		return fmt.Errorf("packet with id %d, ttl %d, flags %#x: out of range", p.IpId, p.Ttl, p.TcpFlags)
	}
	return validFlow(p.Flow)
}

func validPath(p *decafpb.Path) error {
	for _, h := range p.GetHops() {
		if h.GetTtl() > 0xff {
			return fmt.Errorf("hop with ttl %d: above 255", h.GetTtl())
		}
		if err := errors.Join(validAddresses(h.GetAddress()), validAddresses(h.GetOthers()...)); err != nil {
			return err
		}
	}
	return nil
}

// validSurvey checks that a survey has both its ends, and that its walks go by
// nodes that it lists.
func validSurvey(m *decafpb.Survey) error {
	if len(m.Src) == 0 || len(m.Dst) == 0 {
		return errors.New("survey without source or destination")
	}
	if err := validFlow(&decafpb.Flow{Src: m.Src, Dst: m.Dst, DstPort: m.DstPort}); err != nil {
		return err
	}
	for _, n := range m.Nodes {
		if len(n.GetAddress()) != len(m.Src) {
			return fmt.Errorf("survey with a node's address of %d bytes: its source has %d", len(n.GetAddress()), len(m.Src))
		}
	}
	for _, w := range m.Walks {
		if len(w.GetHops()) > 0xff {
			return fmt.Errorf("walk of %d hops: above 255", len(w.GetHops()))
		}
		for _, h := range w.GetHops() {
			if int64(h) > int64(len(m.Nodes)) {
				return fmt.Errorf("walk by node %d of %d", h, len(m.Nodes))
			}
		}
	}
	return nil
}

func validPrefixes(ps ...*decafpb.Prefix) error {
	for _, p := range ps {
		if err := validAddresses(p.GetAddress()); err != nil {
			return err
		}
		if int(p.GetLength()) > 8*len(p.GetAddress()) {
			return fmt.Errorf("prefix length %d of an address of %d bytes", p.GetLength(), len(p.GetAddress()))
		}
	}
	return nil
}

func validAddresses(as ...[]byte) error {
	for _, a := range as {
		if n := len(a); n != 0 && n != 4 && n != 16 {
			return fmt.Errorf("address of %d bytes: must be 4 or 16", n)
		}
	}
	return nil
}

func validInterval(start, end uint64) error {
	if end != 0 && start > end {
		return fmt.Errorf("interval from %d to %d ns: reversed", start, end)
	}
	return nil
}
