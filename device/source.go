package device

import (
	"context"
	"time"
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
