package device

import (
	"context"
	"time"

	"decaf/api/packet"
	"decaf/api/yang"
)

// eventSource names how drops are seen.
const eventSource = "tp_btf"

// source is where drops are seen; openSource opens it: the kernel on Linux
// (kernel_linux.go), none elsewhere (source_other.go).
type source interface {
	// read hands on each freed packet until ctx ends, then what is left. The
	// record and its slices are valid during the call only; at is when it
	// happened. It can be called once; close is still to be called.
	read(ctx context.Context, handle func(r *record, at time.Time)) error
	// reason names a drop reason, without the kernel's prefix.
	reason(number uint32) string
	// function names where a packet was dropped; "" when that is not known.
	function(location uint64) string
	// ifname names an interface; "" for index 0.
	ifname(index uint32) string
	// counts says how many drops there was no room for, and how many freed
	// packets were passed over. It may be called while read runs.
	counts() (lost, passed uint64, err error)
	close()
}

// held is what a source counted of one cause and did not hand on: the record has
// all that the drops have in common, and no packet.
type held struct {
	record                *record
	drops, packets, bytes uint64
	lost                  bool // for lack of room; else to bound what a flood sends
	again                 bool // not for that either: their flows were handed on a moment ago
}

// holder is a source that holds back the records of a flood.
type holder interface {
	// held hands on what was counted since the last call. It may be called
	// while read runs, and after it.
	held(handle func(held)) error
	// turn does so too, and returns what is known of the flows of all that was
	// handed on since the last turn. It is the caller's until the next one.
	turn(handle func(held)) (*heldBack, error)
}

// heldBack are the causes of drops that were held back, and their flows.
type heldBack struct {
	causes []heldCause
	*sketch
}

// heldCause is what drops had in common.
type heldCause struct {
	key    [causeKeySize]byte
	record *record
}

// recursive is a source that is not asked about a drop that happens while it looks
// at another one on the same processor: an interrupt between two of its instructions
// may drop packets. missed counts those, of all network namespaces of this kernel,
// since the source was opened: whose they were nobody saw.
type recursive interface{ missed() uint64 }

// pausable is a source that can be taken out for a while: what is dropped
// meanwhile costs next to nothing and is not counted.
type pausable interface{ pause(out bool) error }

// paced is a source that can be told anew how many records to hand on.
type paced interface {
	// setPace says how many of each class, and of each cause whose class nobody has
	// told yet.
	setPace(unknown pace, of func(class string) pace)
	// classed tells a class of a record's cause: most have one.
	classed(r *record, class string)
}

// pace is how many records of one class a source hands on: so many a second,
// and so many at once.
type pace struct {
	rate, burst float64
	// once, where it is not 0, is how long a flow that was handed on takes no part in
	// that: its drops are held back, and take nothing of the pace from others.
	once time.Duration
}

// leastPace keeps some records of a flood coming, by which those of its flows are
// found that share all their cells of the sketch with larger ones.
var leastPace = pace{rate: 200, burst: 200}

// filterer is a source that knows filters: what matches one it hands on whatever
// the pace of its class is.
type filterer interface {
	// setFilters puts filters in force in place of those before, at most
	// kernelFilters of them, with the pace of all that matches.
	setFilters(list []*yang.Filter, of pace) error
	// missedOf hands on, by filter, how many packets matched since the last call that
	// were not handed on after all.
	missedOf(handle func(f *yang.Filter, packets uint64)) error
}

// repeating is a source that hands on a flow of a class once a while.
type repeating interface {
	// repeated tells when a drop of such a flow was last seen, and how many of its
	// packets were held back since the source remembers it; ok is false when it does
	// not. It may forget, and count from 0 again.
	repeated(now time.Time, class string, f packet.Flow) (last time.Time, packets uint64, ok bool)
	// forget has it hand on the next drop of a flow, and count it from 0 again.
	forget(class string, f packet.Flow)
	// anew has it hand on the next drop of each flow.
	anew()
}
