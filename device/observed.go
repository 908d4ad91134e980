package device

import (
	"context"

	"decaf/api/decafpb"
)

// observed is one drop as told by a source that says itself why a packet was
// dropped, unlike the kernel's records. It shares no memory with the source.
type observed struct {
	event   *decafpb.DropEvent // without its origin
	packets uint64             // on the wire
	bytes   uint64             // of them together, from the IP header on
	known   bool               // false: no rule knows the reason, class is unknown

	// Of an event without a packet: how many prefixes are routed over its interface,
	// and whether those it lists had to be widened to hold them all.
	routed  int
	widened bool
}

// observer is a source of them.
type observer interface {
	// observe hands on each drop until ctx ends. It can be called once; close
	// is still to be called.
	observe(ctx context.Context, handle func(observed)) error
	// counts says how many drops there was no room for somewhere, and how many
	// notices were no loss. It may be called while observe runs.
	counts() (lost, passed uint64, err error)
	close()
}
