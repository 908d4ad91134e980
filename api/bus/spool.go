package bus

import "time"

const (
	// window is how many batches may be on their way, unacknowledged.
	window = 64
	// ackLimit is how long the oldest of them may stay so before all are
	// sent again.
	ackLimit = 5 * time.Second
	// keepFor is how long a batch is kept after its acknowledgement: past
	// the server's next sync to disk, with room for a slow disk.
	keepFor = syncInterval + 2*time.Second
	// Pauses after the server could not store a batch.
	pauseFirst = 100 * time.Millisecond
	pauseMost  = 2 * time.Second
)

// parcel is a batch on its way.
type parcel struct {
	id      uint64 // counts up by one within a publisher
	kind    int    // index in kinds
	records int
	data    []byte // an encoded Batch, then the payload made of it
	packed  bool   // data is the payload

	due     bool // is to be sent
	waiting bool // was sent on this connection, not yet acknowledged
	sent    bool // was sent before
	acked   time.Time
}

// spool keeps batches in order from when they are cut until they are safely
// stored, within a bound. It is an engine: it does no I/O and is told the
// time. Not safe for concurrent use.
//
// JetStream acknowledges evidence up to syncInterval before it is on disk. If
// the server dies in between, it comes back without the newest batches that it
// had acknowledged, and only their publisher can bring them back. So a batch
// leaves the spool not at its acknowledgement but at one of a later batch that
// comes keepFor after it: only that shows that the server lived to sync. After
// every reconnect all that is in the spool is sent again, oldest first; what
// was stored all the same JetStream drops by its batch id.
type spool struct {
	limit int // bytes

	parcels []*parcel // ids without holes
	bytes   int
	next    int // index: nothing before it is due
	unpack  int // index: everything before it is packed
	flying  int // parcels waiting
	open    int // parcels never acknowledged
	records int // in those

	mergeAgain int // bytes: crowd gives nothing before there are so many

	progress time.Time // last send into an empty window, or acknowledgement
	pause    time.Duration
	until    time.Time // nothing is sent before
}

// push adds a freshly cut batch and returns how many records had to be left
// out to keep within the bound: the oldest, since what has just been lost on
// the network matters more than what was lost when NATS went away.
func (s *spool) push(p *parcel) (leftOut int) {
	p.due = true
	s.parcels = append(s.parcels, p)
	s.bytes += len(p.data)
	s.open++
	s.records += p.records
	return s.trim()
}

func (s *spool) trim() (leftOut int) {
	n := 0
	// The newest stays even if it alone is above the bound.
	for ; s.bytes > s.limit && n < len(s.parcels)-1; n++ {
		p := s.parcels[n]
		s.bytes -= len(p.data)
		if p.acked.IsZero() {
			s.open--
			s.records -= p.records
			leftOut += p.records
		}
		if p.waiting {
			s.flying--
		}
	}
	s.drop(n)
	return leftOut
}

// drop takes the first n parcels off the list, their accounts being settled.
func (s *spool) drop(n int) {
	if n == 0 {
		return
	}
	clear(s.parcels[:n])
	s.parcels = s.parcels[n:]
	s.next = max(0, s.next-n)
	s.unpack = max(0, s.unpack-n)
	if len(s.parcels) == 0 {
		s.parcels = nil // an idle agent keeps no memory of a busy hour
	}
}

// toPack returns the oldest batch not yet packed, or nil.
func (s *spool) toPack() *parcel {
	for ; s.unpack < len(s.parcels); s.unpack++ {
		if p := s.parcels[s.unpack]; !p.packed {
			return p
		}
	}
	return nil
}

// pack replaces a batch's encoding by its payload.
func (s *spool) pack(p *parcel, payload []byte) {
	if s.find(p.id) == p { // else it was left out meanwhile
		s.bytes += len(payload) - len(p.data)
	}
	p.data, p.packed = payload, true
}

// send returns the batch to send now, or nil.
func (s *spool) send(now time.Time) *parcel {
	if s.flying >= window || now.Before(s.until) {
		return nil
	}
	for ; s.next < len(s.parcels); s.next++ {
		p := s.parcels[s.next]
		if !p.due {
			continue
		}
		if !p.packed {
			return nil
		}
		if s.flying == 0 {
			s.progress = now
		}
		p.due, p.waiting, p.sent = false, true, true
		s.flying++
		s.next++
		return p
	}
	return nil
}

// ack notes that a batch is stored and returns its records the first time.
func (s *spool) ack(id uint64, now time.Time) (records, bytes int) {
	p := s.find(id)
	if p == nil {
		return 0, 0
	}
	s.progress = now
	s.pause, s.until = 0, time.Time{}
	if p.waiting {
		p.waiting = false
		s.flying--
	}
	p.due = false
	if p.acked.IsZero() {
		s.open--
		s.records -= p.records
		records, bytes = p.records, len(p.data)
	}
	// Also when it was acknowledged before: the server may have lost it since
	// and stored it only now.
	p.acked = now
	n := 0
	for n < len(s.parcels) {
		old := s.parcels[n]
		if old.acked.IsZero() || old.waiting || old.due || now.Sub(old.acked) < keepFor {
			break
		}
		s.bytes -= len(old.data)
		n++
	}
	s.drop(n)
	return records, bytes
}

// refuse forgets a batch that will never be stored and returns its records.
func (s *spool) refuse(id uint64) (records int) {
	p := s.find(id)
	if p == nil || !p.acked.IsZero() {
		return 0
	}
	if p.waiting {
		s.flying--
	}
	s.bytes -= len(p.data)
	s.records -= p.records
	records = p.records
	p.waiting = false
	s.empty(p)
	return records
}

// empty makes a batch an empty place, so that ids have no holes; it counts as
// acknowledged long ago. What it held is settled.
func (s *spool) empty(p *parcel) {
	s.open--
	p.data, p.records, p.packed, p.due = nil, 0, true, false
	p.acked = time.Unix(0, 1)
}

// again is for when a batch was not stored, or nothing is known of it for too
// long: it and all sent after it are to be sent again, after a pause that
// doubles each time until something is acknowledged.
func (s *spool) again(now time.Time) {
	s.rewind(false)
	s.pause = min(pauseMost, max(pauseFirst, 2*s.pause))
	s.until = now.Add(s.pause)
}

// reconnected is for a new connection: everything is to be sent again, also
// what was acknowledged.
func (s *spool) reconnected() {
	s.rewind(true)
	s.pause, s.until = 0, time.Time{}
}

func (s *spool) rewind(all bool) {
	s.flying, s.next = 0, 0
	for _, p := range s.parcels {
		// What was being sent again after a reconnect and is not yet
		// acknowledged anew stays to be sent.
		p.due = len(p.data) > 0 && (all || p.due || p.waiting || p.acked.IsZero())
		p.waiting = false
	}
}

// tick does what is due by the time alone.
func (s *spool) tick(now time.Time) (timedOut bool) {
	if s.flying > 0 && now.Sub(s.progress) >= ackLimit {
		s.again(now)
		return true
	}
	return false
}

// deadline is when tick or send must be called next without anything else
// having happened; the zero time if never, as when nothing waits.
func (s *spool) deadline(now time.Time) time.Time {
	if s.flying > 0 {
		return s.progress.Add(ackLimit)
	}
	if now.Before(s.until) && s.next < len(s.parcels) {
		return s.until
	}
	return time.Time{}
}

// settled says that nothing is left to send or to wait for: also nothing that
// was acknowledged once and is being sent again after a reconnect.
func (s *spool) settled() bool {
	if s.open > 0 || s.flying > 0 {
		return false
	}
	for ; s.next < len(s.parcels); s.next++ {
		if s.parcels[s.next].due {
			return false
		}
	}
	return true
}

// find returns the batch of that id while it is in the spool.
func (s *spool) find(id uint64) *parcel {
	if len(s.parcels) == 0 || id < s.parcels[0].id || id-s.parcels[0].id >= uint64(len(s.parcels)) {
		return nil
	}
	return s.parcels[id-s.parcels[0].id]
}
