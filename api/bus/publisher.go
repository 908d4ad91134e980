package bus

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"decaf/api/decafpb"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
)

// PublisherOptions bound a Publisher. The zero value takes the defaults.
type PublisherOptions struct {
	BootID     uint64        // of records without an origin; 0: drawn at random
	MaxRecords int           // per batch, default 500
	MaxDelay   time.Duration // a record waits for its batch at most this long, default 10 ms
	SpoolBytes int           // encoded batches kept until stored, default 32 MiB
}

func (o PublisherOptions) withDefaults() PublisherOptions {
	if o.BootID == 0 {
		o.BootID = drawID()
	}
	if o.MaxRecords <= 0 {
		o.MaxRecords = 500
	}
	o.MaxRecords = min(o.MaxRecords, maxBatchRecords)
	if o.MaxDelay <= 0 {
		o.MaxDelay = 10 * time.Millisecond
	}
	if o.SpoolBytes <= 0 {
		o.SpoolBytes = 32 * mib
	}
	return o
}

// PublisherStats counts records and batches. Records = Stored + LeftOut +
// Rejected + Merged + Waiting.
type PublisherStats struct {
	Records  uint64 // given to Publish
	Stored   uint64 // acknowledged by JetStream
	LeftOut  uint64 // lost to a full spool, or not stored when the publisher closed
	Rejected uint64 // no evidence, malformed, or with another producer's origin
	Merged   uint64 // became one with others while NATS was away
	Waiting  uint64 // in a batch being filled or in the spool
	Batches  uint64 // cut
	Resent   uint64 // batches sent again
	Bytes    uint64 // payload bytes of acknowledged batches
}

// Publisher sends one producer's records. Safe for concurrent use.
type Publisher struct {
	c        *Conn
	o        PublisherOptions
	producer string
	nonce    string // names this publisher in batch ids and in its inbox
	wake     chan struct{}
	done     chan struct{} // closed when the sender has returned

	mu      sync.Mutex
	filling [len(kinds)]struct {
		buf     []byte
		records int
	}
	seq    [len(kinds)]uint64
	timer  *time.Timer // runs only while a batch is being filled
	armed  bool
	spool  spool
	nextID uint64
	stats  PublisherStats
	reject error // why the last rejected record was, until logged
	replyE error // why the server did not store a batch, until logged
	closed bool  // Publish takes no more
	quit   bool  // the sender is to return

	troubled bool // the sender's: a failure was logged and no success since
}

// NewPublisher starts a publisher for a producer: a device or host of the
// topology. Close ends it. Records of a producer whose name is no subject
// token are all rejected.
func NewPublisher(c *Conn, producer string, o PublisherOptions) *Publisher {
	o = o.withDefaults()
	p := &Publisher{
		c: c, o: o, producer: producer,
		nonce: strconv.FormatUint(drawID(), 36),
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
		spool: spool{limit: o.SpoolBytes},
	}
	p.timer = time.AfterFunc(time.Hour, p.cutAll)
	p.timer.Stop()
	go p.run()
	return p
}

// BootID is the boot id of records published without an origin.
func (p *Publisher) BootID() uint64 { return p.o.BootID }

// Publish queues a record of any type of evidence. It never blocks on the
// network. It encodes m at once, so that m is the caller's again; a record
// without an origin is given one: this producer, its boot id, and the next
// sequence number of its type.
func (p *Publisher) Publish(m proto.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Records++
	k := kindOf(m)
	if k < 0 {
		p.rejectLocked(fmt.Errorf("%T is no evidence", m))
		return
	}
	if p.closed {
		p.stats.LeftOut++
		return
	}
	e := m.(evidence)
	numbered := e.GetOrigin() == nil
	if numbered {
		setOrigin(m, &decafpb.Origin{Producer: p.producer, BootId: p.o.BootID, Seq: p.seq[k] + 1})
	}
	if o := e.GetOrigin(); o.Producer != p.producer {
		p.rejectLocked(fmt.Errorf("a record of %q given to the publisher of %q", o.Producer, p.producer))
		return
	}
	if err := validRecord(e); err != nil {
		p.rejectLocked(fmt.Errorf("%s record: %w", kinds[k].record, err))
		return
	}
	f := &p.filling[k]
	buf, err := appendRecord(f.buf, k, m)
	if err != nil { // text that is not UTF-8
		p.rejectLocked(fmt.Errorf("%s record: %w", kinds[k].record, err))
		return
	}
	if n := len(buf) - len(f.buf); n > maxRecordBytes {
		p.rejectLocked(fmt.Errorf("%s record of %d bytes: above %d", kinds[k].record, n, maxRecordBytes))
		return
	}
	if numbered {
		p.seq[k]++
	}
	f.buf = buf
	f.records++
	if f.records >= p.o.MaxRecords || len(f.buf) >= cutBytes {
		p.cutLocked(k)
		p.wakeUp()
		return
	}
	if !p.armed {
		p.armed = true
		p.timer.Reset(p.o.MaxDelay)
	}
}

// rejectLocked counts a record that cannot be sent. The sender logs it, since
// logging may block.
func (p *Publisher) rejectLocked(why error) {
	p.stats.Rejected++
	if p.reject == nil {
		p.reject = why
		p.wakeUp()
	}
}

// Flush sends what waits for others to travel with.
func (p *Publisher) Flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.armed {
		p.timer.Stop()
		p.cutAllLocked()
		p.wakeUp()
	}
}

// cutAll is the timer's.
func (p *Publisher) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAllLocked()
	p.wakeUp()
}

func (p *Publisher) cutAllLocked() {
	p.armed = false
	for k := range p.filling {
		p.cutLocked(k)
	}
}

func (p *Publisher) cutLocked(k int) {
	f := &p.filling[k]
	if f.records == 0 {
		return
	}
	p.nextID++
	p.stats.Batches++
	// What append left over would count nowhere while the batch waits.
	p.stats.LeftOut += uint64(p.spool.push(&parcel{id: p.nextID, kind: k, records: f.records, data: f.buf[:len(f.buf):len(f.buf)]}))
	f.buf, f.records = nil, 0
}

func (p *Publisher) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default: // it is awake already
	}
}

// awayLimit is how long Close waits for a server that is away already: one that
// restarts comes back within it, and whoever stops an agent does not wait longer.
const awayLimit = 3 * time.Second

// Close sends what waits and returns when all of it is stored. If ctx ends
// first, or NATS is away for awayLimit, it gives up and says how many records were
// not stored and why; they are counted as left out. It may be called more than once.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.timer.Stop()
	p.cutAllLocked()
	p.mu.Unlock()
	p.wakeUp()
	var err error
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if p.c.Ready() != nil {
		defer time.AfterFunc(awayLimit, func() {
			if away := p.c.Ready(); away != nil {
				cancel(away)
			}
		}).Stop()
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-p.c.closed:
		err = errors.New("the connection is closed")
	}
	p.mu.Lock()
	p.quit = true
	lost := p.spool.records
	p.stats.LeftOut += uint64(lost)
	p.spool = spool{limit: p.o.SpoolBytes}
	p.mu.Unlock()
	p.wakeUp()
	<-p.done
	if lost > 0 {
		return fmt.Errorf("%d records of %s were not stored: %w", lost, p.producer, err)
	}
	return nil
}

// Stats returns the counters so far.
func (p *Publisher) Stats() PublisherStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Waiting = uint64(p.spool.records)
	for k := range p.filling {
		s.Waiting += uint64(p.filling[k].records)
	}
	return s
}

// run is the sender. It sleeps until it is woken by a batch, an
// acknowledgement, a reconnect, or the spool's deadline, which there is only
// while something is on its way.
func (p *Publisher) run() {
	defer close(p.done)
	inbox := p.c.nc.Opts.InboxPrefix + "." + p.nonce + "."
	sub, err := p.c.nc.Subscribe(inbox+"*", func(m *nats.Msg) { p.answer(m, m.Subject[len(inbox):]) })
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		p.c.log.Error("cannot listen for acknowledgements of evidence", "producer", p.producer, "error", err)
	}
	if sub != nil {
		defer sub.Unsubscribe()
	}
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	generation := p.c.generation()
	for {
		up := p.c.nextUp()
		p.packAll()
		p.mergeOldest()
		sendErr := p.sendAll(inbox, &generation)
		p.report(sendErr)

		p.mu.Lock()
		now := time.Now()
		deadline := p.spool.deadline(now)
		quit := p.quit || p.closed && p.spool.settled()
		p.mu.Unlock()
		if quit {
			return
		}
		if deadline.IsZero() || errors.Is(sendErr, errAway) {
			timer.Stop() // a reconnect wakes us
		} else {
			timer.Reset(deadline.Sub(now))
		}
		select {
		case <-p.wake:
		case <-timer.C:
		case <-up:
		case <-p.c.closed:
			// Nothing more can be sent, but Stats and Close still count.
			p.waitForQuit()
			return
		}
	}
}

func (p *Publisher) waitForQuit() {
	for range p.wake {
		p.mu.Lock()
		quit := p.quit
		p.mu.Unlock()
		if quit {
			return
		}
	}
}

// packAll compresses what was cut, also while NATS is away: the spool holds
// more of it that way.
func (p *Publisher) packAll() {
	for {
		p.mu.Lock()
		next := p.spool.toPack()
		p.mu.Unlock()
		if next == nil {
			return
		}
		payload := p.c.codec.pack(next.data) // only the sender changes data
		p.mu.Lock()
		p.spool.pack(next, payload)
		p.mu.Unlock()
	}
}

// errAway says that there is no connection now.
var errAway = errors.New("nats is away")

// sendAll sends what the spool lets it send.
func (p *Publisher) sendAll(inbox string, generation *uint64) error {
	for {
		if !p.c.nc.IsConnected() {
			return errAway
		}
		if g := p.c.generation(); g != *generation {
			*generation = g
			p.mu.Lock()
			p.spool.reconnected()
			p.mu.Unlock()
		}
		p.mu.Lock()
		if p.quit {
			p.mu.Unlock()
			return nil
		}
		now := time.Now()
		timedOut := p.spool.tick(now)
		var resent bool
		if next := p.spool.parcels; p.spool.next < len(next) {
			resent = next[p.spool.next].sent
		}
		b := p.spool.send(now)
		if b != nil && resent {
			p.stats.Resent++
		}
		p.mu.Unlock()
		if timedOut {
			return fmt.Errorf("no acknowledgement for %s", ackLimit)
		}
		if b == nil {
			return nil
		}
		id := strconv.FormatUint(b.id, 10)
		err := p.c.nc.PublishMsg(&nats.Msg{
			Subject: Subject(p.c.cfg.Site, kinds[b.kind].record, p.producer),
			Reply:   inbox + id,
			Header:  nats.Header{nats.MsgIdHdr: {p.producer + "." + p.nonce + "." + id}},
			Data:    b.data,
		})
		if err == nil {
			continue
		}
		p.mu.Lock()
		if errors.Is(err, nats.ErrMaxPayload) {
			p.stats.LeftOut += uint64(p.spool.refuse(b.id))
		} else {
			p.spool.again(now)
		}
		p.mu.Unlock()
		if !p.c.nc.IsConnected() {
			return errAway
		}
		return err
	}
}

// answer takes JetStream's word on a batch.
func (p *Publisher) answer(m *nats.Msg, id string) {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return
	}
	permanent, err := ackError(m)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case err == nil:
		full := p.spool.flying >= window
		records, bytes := p.spool.ack(n, now)
		p.stats.Stored += uint64(records)
		p.stats.Bytes += uint64(bytes)
		// The sender has something to do only if it waited for room, or for
		// the end, or to say that all is well again.
		if !full && !p.closed && !p.troubled && p.spool.next >= len(p.spool.parcels) {
			return
		}
	case permanent:
		p.stats.LeftOut += uint64(p.spool.refuse(n))
		p.replyE = err
	default:
		if b := p.spool.find(n); b != nil && b.waiting { // else: already seen to
			p.spool.again(now)
		}
		p.replyE = err
	}
	p.wakeUp()
}

// ackError reads an answer of JetStream's to a publish. permanent errors are
// about the message, the others about the state of the server.
func ackError(m *nats.Msg) (permanent bool, err error) {
	if m.Header.Get("Status") == "503" {
		return false, errors.New("no stream takes evidence: has the correlator been started with this NATS server?")
	}
	var a struct {
		Stream string `json:"stream"`
		Error  *struct {
			Code        int    `json:"code"`
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return false, fmt.Errorf("unreadable acknowledgement: %w", err)
	}
	if a.Error != nil {
		// 10054: message size exceeds maximum allowed (nats-server
		// server/errors.json, JSStreamMessageExceedsMaximumErr).
		return a.Error.ErrCode == 10054, fmt.Errorf("%s (%d)", strings.TrimSpace(a.Error.Description), a.Error.ErrCode)
	}
	if a.Stream == "" {
		return false, errors.New("acknowledgement without a stream")
	}
	return false, nil
}

// report logs once when storing evidence begins to fail and once when it works
// again.
func (p *Publisher) report(sendErr error) {
	p.mu.Lock()
	reject, reply, waiting := p.reject, p.replyE, p.spool.records
	healthy := p.spool.pause == 0
	p.reject, p.replyE = nil, nil
	was := p.troubled
	err := reply
	if err == nil && sendErr != nil && !errors.Is(sendErr, errAway) { // the connection logs its own
		err = sendErr
	}
	switch {
	case err != nil:
		p.troubled = true
	case healthy:
		p.troubled = false
	}
	is := p.troubled
	p.mu.Unlock()
	if reject != nil {
		p.c.log.Error("record rejected", "producer", p.producer, "why", reject)
	}
	if is && !was {
		p.c.log.Warn("evidence cannot be stored: trying on, it waits in the spool", "producer", p.producer, "records", waiting, "error", err)
	}
	if was && !is {
		p.c.log.Info("evidence is stored again", "producer", p.producer)
	}
}

// drawID returns a random number that is not 0.
func drawID() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails since Go 1.24
		if id := binary.LittleEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}
