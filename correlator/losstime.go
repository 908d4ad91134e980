package correlator

import (
	"slices"

	"decaf/api/decafpb"
)

// When a packet was lost is known only by when it was sent again: at once where
// later segments were acknowledged, by a timeout long after it.

const (
	// minRTO is the least time until a timeout sends again: TCP_RTO_MIN, 200 ms.
	minRTO = 200e6
	// rtoChain bounds how many retransmits back the same segment is looked for.
	rtoChain = 16
)

// lostAt is when the packet was lost that the mark at this place is about. Of a
// timeout that was not the first of its segment, what the one before had sent was
// lost, when it was sent.
func (f *Flow) lostAt(place int) int64 {
	m := &f.marks[place]
	if m.kind != decafpb.RetransmitKind_RETRANSMIT_KIND_RTO {
		return m.at
	}
	for i := place - 1; i >= max(0, place-rtoChain); i-- {
		if b := &f.marks[i]; b.seq == m.seq && b.at < m.at && b.kind != decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED {
			return b.at
		}
	}
	return m.at - minRTO
}

// lose notes when a packet with data was lost.
func (f *Flow) lose(at int64) {
	if f.lost == [2]int64{} {
		f.lost = [2]int64{at, at}
	}
	f.lost[0], f.lost[1] = min(f.lost[0], at), max(f.lost[1], at)
}

// lostWithin gives the first and the last loss of those that were made good in
// [from, to); zeros for none that is known.
func (f *Flow) lostWithin(from, to int64) (first, last int64) {
	if f.First >= from && f.Last < to {
		return f.lost[0], f.lost[1]
	}
	var part Flow
	for _, m := range f.marks {
		if m.at >= from && m.at < to && m.kind != decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED {
			part.lose(m.lost)
		}
	}
	if f.Count > uint64(len(f.marks)) && f.Last < to && f.Last >= from { // too many to know each: they came last
		part.lose(f.Last)
	}
	return part.lost[0], part.lost[1]
}

// lostIn says whether any packet of the flow was lost in [from, to], as far as
// each is known.
func (f *Flow) lostIn(from, to int64) bool {
	return slices.ContainsFunc(f.marks, func(m recordMark) bool {
		return m.kind != decafpb.RetransmitKind_RETRANSMIT_KIND_UNSPECIFIED && m.lost >= from && m.lost <= to
	})
}
