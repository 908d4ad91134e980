package correlator

// A sender probes the tail of what it sent when acknowledgements stay away, and
// often it was they that were lost or late: DSACK gives away few such probes (host
// notes 2.6, trap 10; RFC 8985 section 7). So a flow that repeated nothing but one
// tail counts half, until it repeats anything else.

// loneProbeCounts is what a flow counts for whose one retransmission is a tail
// loss probe: of its vote 1/(2h), of its loss half a packet.
const loneProbeCounts = 0.5

// loneProbe says whether all that the flow sent again is one tail loss probe.
func (f *Flow) loneProbe() bool { return f.Count == 1 && f.tails == 1 }

// counted is what the flow's loss counts for where no device showed it: 1, or half
// of it.
func (f *Flow) counted() float64 {
	if f.loneProbe() {
		return loneProbeCounts
	}
	return 1
}
