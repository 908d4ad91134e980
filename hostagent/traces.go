package hostagent

import (
	"sync"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// Bounds of the book. At the default rate some 300 flows are traced in an
// epoch; the bounds are for what nobody foresaw.
const (
	maxBookFlows   = 65536
	maxBookWaiting = 8192 // records, over all flows
)

// book holds one trace per flow and epoch: who asked first traces, who asks
// while that goes on waits for it, who asks later in the epoch gets the same
// hops. It knows no clock and no network. Safe for concurrent use.
type book struct {
	mu      sync.Mutex
	epoch   int64
	flows   map[flowIn]*entry
	waiting int
	// maxFlows and maxWaiting are the bounds.
	maxFlows, maxWaiting int
}

// flowIn is a flow of a network namespace, 0 being the agent's own: the same
// five-tuple may be another connection, and take another way, in each.
type flowIn struct {
	packet.Flow
	netns uint32
}

type entry struct {
	epoch int64
	label uint32 // IPv6 flow label: with another the flow may take another path
	// again is the path for further records of the epoch; nil while the trace
	// goes on.
	again *decafpb.Path
	// waiters are records that came meanwhile, in order.
	waiters []*decafpb.Retransmit
}

func newBook() *book {
	return &book{flows: make(map[flowIn]*entry), maxFlows: maxBookFlows, maxWaiting: maxBookWaiting}
}

// asked is what the book says to one who needs a path.
type asked int

const (
	askTrace   asked = iota // trace it, and say so with done
	askWait                 // the book keeps the record until the trace is done
	askKnown                // here is the path
	askFull                 // too many flows in this epoch
	askCrowded              // too many records waiting
)

// ask needs the path of a flow, with this flow label, in an epoch for a record. Of
// its labels the book knows the path of the latest.
func (b *book) ask(f flowIn, label uint32, epoch int64, r *decafpb.Retransmit) (asked, *decafpb.Path) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(epoch)
	e, ok := b.flows[f]
	switch {
	case ok && e.again == nil:
		// Still going on: at most some milliseconds old, whatever its epoch.
		if b.waiting >= b.maxWaiting {
			return askCrowded, nil
		}
		b.waiting++
		e.waiters = append(e.waiters, r)
		return askWait, nil
	case ok && e.epoch >= epoch && e.label == label:
		return askKnown, e.again
	case !ok && len(b.flows) >= b.maxFlows:
		return askFull, nil
	}
	b.flows[f] = &entry{epoch: epoch, label: label}
	return askTrace, nil
}

// hold keeps a record that needs no path behind the trace of its flow, if one
// goes on, so that it is not sent before the records it speaks of.
func (b *book) hold(f flowIn, r *decafpb.Retransmit) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.flows[f]
	if !ok || e.again != nil || b.waiting >= b.maxWaiting {
		return false
	}
	b.waiting++
	e.waiters = append(e.waiters, r)
	return true
}

// done takes the path of the flow traced and returns the records that waited,
// with their paths, to be sent in this order. It is called again until it
// returns none, and only that call ends the trace: what comes meanwhile still
// waits, so that no record overtakes one before it. A refused trace did not
// happen: the flow may ask again.
func (b *book) done(f flowIn, p *decafpb.Path) []*decafpb.Retransmit {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.flows[f]
	if !ok || e.again != nil {
		return nil
	}
	if waiters := e.waiters; len(waiters) > 0 {
		e.waiters = nil
		b.waiting -= len(waiters)
		path := again(p)
		for _, r := range waiters {
			if !r.GetUndone() {
				r.Path = path
			}
		}
		return waiters
	}
	e.again = again(p)
	if p.GetStatus() == decafpb.PathStatus_PATH_STATUS_REFUSED || e.epoch != b.epoch {
		delete(b.flows, f)
	}
	return nil
}

// turn forgets the traces of other epochs once a new one begins. The epoch before
// the book's is not new: its last events come late. One further back is: the clock
// was set back, and what was traced before that is no path of now.
func (b *book) turn(epoch int64) {
	if epoch == b.epoch || epoch == b.epoch-1 {
		return
	}
	b.epoch = epoch
	for f, e := range b.flows {
		if e.again != nil && e.epoch != epoch {
			delete(b.flows, f)
		}
	}
}

// again is what further records of the epoch say of a path. A trace that was
// refused or failed stays so: there are no hops to repeat.
func again(p *decafpb.Path) *decafpb.Path {
	switch p.GetStatus() {
	case decafpb.PathStatus_PATH_STATUS_COMPLETE, decafpb.PathStatus_PATH_STATUS_PARTIAL:
	default:
		return p
	}
	why := "traced earlier in this epoch"
	if p.GetStatus() == decafpb.PathStatus_PATH_STATUS_PARTIAL {
		why += ", in part"
		if p.GetWhy() != "" {
			why += ": " + p.GetWhy()
		}
	}
	return &decafpb.Path{
		Status: decafpb.PathStatus_PATH_STATUS_CACHED, Why: why,
		Hops: p.GetHops(), Distance: p.GetDistance(),
		ProbeSeq: p.GetProbeSeq(), ProbeId: p.GetProbeId(),
		StartNs: p.GetStartNs(), TookNs: p.GetTookNs(), Probed: p.GetProbed(),
	}
}
