package flow

import (
	"time"

	"decaf/sim/scenario"
)

// Slots of the faults that come in bursts: whether one is in a burst is drawn
// anew for each slot, so that neighbouring packets share their fate.
const (
	queueSlot  = 5 * time.Millisecond
	duplexSlot = 20 * time.Millisecond
	flapPeriod = 2 * time.Second // of a flapping route: first gone, then back
)

// times says when a fault is there.
type times struct {
	at, stay, every, run time.Duration // stay 0: to the end of the run; every 0: once
	// Within that, a fault may come in bursts: drawn per slot with the chance duty,
	// or, with flap, the first part of every slot.
	slot time.Duration
	duty float64
	flap bool
	seed uint64
}

func newTimes(f scenario.Fault, run time.Duration) times {
	return times{at: f.At, stay: f.For, every: f.Every, run: run}
}

// inWindow says whether the fault is there at a time of the run, bursts aside.
func (w *times) inWindow(t time.Duration) bool {
	if t < w.at || t >= w.run {
		return false
	}
	t -= w.at
	if w.every > 0 {
		t %= w.every
	}
	return w.stay == 0 || t < w.stay
}

// active says whether it takes packets at that time.
func (w *times) active(t time.Duration) bool {
	if !w.inWindow(t) {
		return false
	}
	switch {
	case w.slot == 0:
		return true
	case w.flap:
		return (t-w.at)%w.slot < time.Duration(w.duty*float64(w.slot))
	}
	return unit(mix(w.seed^uint64(t/w.slot))) < w.duty
}

// touches says whether the fault is there at any time of [from, to).
func (w *times) touches(from, to time.Duration) bool {
	to = min(to, w.run)
	if to <= w.at || from >= to {
		return false
	}
	if from < w.at || w.inWindow(from) {
		return true
	}
	if w.every == 0 {
		return false // it is over
	}
	next := from - (from-w.at)%w.every + w.every
	return next < to
}

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// unit maps 64 random bits to [0, 1).
func unit(x uint64) float64 { return float64(x>>11) / (1 << 53) }
