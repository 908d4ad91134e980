package correlator

import (
	"cmp"
	"slices"
)

// Epoch is the record of a closed epoch: tumbling, aligned to its length.
type Epoch struct {
	Ranking   *Ranking
	Lossy     int // flows that voted
	Joined    int // lossy flows explained by devices' drops
	Drops     int
	Blamed    []string // components named some time in the epoch
	Explained int
}

// maxEpochs bounds how many closed epochs are kept: half an hour of 30 s.
const maxEpochs = 60

// linksPerEpoch bounds the ranking that a closed epoch keeps.
const linksPerEpoch = 100

// epochs records each closed epoch once.
type epochs struct {
	length int64 // ns
	next   int64 // end of the epoch that closes next; 0 at first
	closed []Epoch
}

// due gives the epoch that has closed by now and is not recorded, as its
// bounds. It waits for ripe, so that the epoch's late evidence is in. An engine
// that was asleep skips to the latest.
func (e *epochs) due(ripe int64) (start, end int64, ok bool) {
	last := ripe / e.length * e.length // latest boundary
	if e.next == 0 {
		e.next = last + e.length
	}
	if ripe < e.next {
		return 0, 0, false
	}
	e.next = last + e.length
	return last - e.length, last, true
}

// put records an epoch, in the place of an older record of it.
func (e *epochs) put(x Epoch) {
	if len(x.Ranking.Links) > linksPerEpoch {
		x.Ranking.Links = x.Ranking.Links[:linksPerEpoch]
	}
	for i := range x.Ranking.Candidates { // keep the ranking, not the evidence
		c := &x.Ranking.Candidates[i]
		c.Flows, c.Drops, c.own = nil, nil, nil
	}
	at, known := slices.BinarySearchFunc(e.closed, x.Ranking.End, func(y Epoch, end int64) int { return cmp.Compare(y.Ranking.End, end) })
	if known {
		e.closed[at] = x
		return
	}
	e.closed = slices.Insert(e.closed, at, x)
	if len(e.closed) > maxEpochs {
		e.closed = e.closed[1:]
	}
}
