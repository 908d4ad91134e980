package device

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"
	"decaf/api/yang/model"
)

const (
	// maxFilters bounds the filters: each is held against every drop.
	maxFilters = 64
	// kernelFilters is how many of them the kernel source knows: each is a few
	// instructions of its program for every drop.
	kernelFilters = 8
)

// filters are those for planned path tests. A drop that matches one has an event
// whatever its class's threshold, de-duplication and ignore say; only the fuse
// stands above that. It does no I/O and is not safe for concurrent use.
type filters struct {
	list []*yang.Filter // by name
}

// newFilters reads the filters that were set. The error says which is wrong.
func newFilters(list map[string]*model.Loss_Filter) (*filters, error) {
	out := &filters{}
	for name, s := range list {
		f := &yang.Filter{Name: name, Protocol: s.Protocol, SourcePort: s.SourcePort, DestinationPort: s.DestinationPort, DSCP: s.Dscp, Only: s.Only == nil || *s.Only}
		var err error
		if f.Source, err = filterPrefix(s.SourcePrefix); err != nil {
			return nil, fmt.Errorf("filter %s: source-prefix: %w", name, err)
		}
		if f.Destination, err = filterPrefix(s.DestinationPrefix); err != nil {
			return nil, fmt.Errorf("filter %s: destination-prefix: %w", name, err)
		}
		if f.Source.IsValid() && f.Destination.IsValid() && f.Source.Addr().Is4() != f.Destination.Addr().Is4() {
			return nil, fmt.Errorf("filter %s: source-prefix %s and destination-prefix %s are of different families: no packet has both", name, f.Source, f.Destination)
		}
		if s.EndTime == nil {
			return nil, fmt.Errorf("filter %s has no end-time: give the time at which it is to remove itself, in ns since 1970", name)
		}
		f.EndNs = *s.EndTime
		out.list = append(out.list, f)
	}
	slices.SortFunc(out.list, func(a, b *yang.Filter) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// inherit has filters that are as they were keep what they counted.
func (f *filters) inherit(before *filters) {
	for _, l := range f.list {
		if i := slices.IndexFunc(before.list, func(b *yang.Filter) bool { return sameFilter(b, l) }); i >= 0 {
			l.Matched = before.list[i].Matched
		}
	}
}

func filterPrefix(s *string) (netip.Prefix, error) {
	if s == nil {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(*s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no prefix such as 192.0.2.0/24", *s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits set behind its length: do you mean %s?", p, p.Masked())
	}
	return p, nil
}

func sameFilter(a, b *yang.Filter) bool {
	return a.Name == b.Name && a.Source == b.Source && a.Destination == b.Destination && a.Only == b.Only && a.EndNs == b.EndNs &&
		same(a.Protocol, b.Protocol) && same(a.SourcePort, b.SourcePort) && same(a.DestinationPort, b.DestinationPort) && same(a.DSCP, b.DSCP)
}

func same[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// match returns the name of the first filter, by name, that a packet matches; ""
// for none. Each that it matches counts it.
func (f *filters) match(now time.Time, flow packet.Flow, dscp uint8, packets uint64) (name string) {
	if len(f.list) == 0 || !flow.Src.IsValid() {
		return ""
	}
	at := uint64(now.UnixNano())
	for _, l := range f.list {
		if at >= l.EndNs || !matches(l, flow, dscp) {
			continue
		}
		l.Matched += packets
		if name == "" {
			name = l.Name
		}
	}
	return name
}

// missed counts packets that matched a filter and that the source did not hand on. One
// that is no more counts nowhere.
func (f *filters) missed(of *yang.Filter, packets uint64) {
	for _, l := range f.list {
		if sameFilter(l, of) {
			l.Matched += packets
		}
	}
}

func matches(f *yang.Filter, flow packet.Flow, dscp uint8) bool {
	switch {
	case f.Source.IsValid() && !f.Source.Contains(flow.Src.Addr()),
		f.Destination.IsValid() && !f.Destination.Contains(flow.Dst.Addr()),
		f.Protocol != nil && *f.Protocol != flow.Proto,
		f.SourcePort != nil && *f.SourcePort != flow.Src.Port(),
		f.DestinationPort != nil && *f.DestinationPort != flow.Dst.Port(),
		f.DSCP != nil && *f.DSCP != dscp:
		return false
	}
	return true
}

// filterable reports whether a drop can be told to be of no filter: its flow is
// known. A loss that shows no packet may be that of the tested path, and an anomaly
// is of the device, whichever packet showed it.
func filterable(d *drop) bool {
	return d.flow != (packet.Flow{}) && !strings.HasPrefix(d.class, "anomaly/")
}

// only reports whether drops that match no filter are to have no event.
func (f *filters) only(now time.Time) bool {
	at := uint64(now.UnixNano())
	for _, l := range f.list {
		if l.Only && at < l.EndNs {
			return true
		}
	}
	return false
}

// over returns the names of the filters whose end has come.
func (f *filters) over(now time.Time) (names []string) {
	for _, l := range f.list {
		if uint64(now.UnixNano()) >= l.EndNs {
			names = append(names, l.Name)
		}
	}
	return names
}

// dscpOf reads the differentiated services code point (RFC 2474) of a header that
// begins with that of IP; 0 when it is too short.
func dscpOf(header []byte) uint8 {
	if len(header) < 2 {
		return 0
	}
	switch header[0] >> 4 {
	case 4:
		return header[1] >> 2
	case 6:
		return header[0]&0xf<<2 | header[1]>>6
	}
	return 0
}
