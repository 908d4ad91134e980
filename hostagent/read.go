package hostagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// How the ring buffer of retransmits is read. To be woken costs this process
// more than all else an event does, by some ten times: its code and data have
// left the processor's caches meanwhile. So an event wakes the reader only where
// something hangs on it: the start of a trace. It does not where
//
//   - no trace can be afforded yet (kernelOptions.spent),
//   - the same socket did a moment ago (askAgain),
//   - others do so all the time.
//
// What wakes nobody is read with the next that does, or by the clock.
const (
	tick     = 150 * time.Millisecond
	askAgain = time.Second // as often does a socket wake the reader

	rateWindow = 100 * time.Millisecond
	busyFrom   = 40 // events in a window that want to wake: from here on the clock reads
	quietBelow = 20 // and below here they wake
	busyPoll   = 4 * time.Millisecond

	// tellEvery is how often kernelOptions.caughtUp is called at most.
	tellEvery = 90 * time.Millisecond

	// Sockets that sent something again are looked at for a while, for the
	// other end's word that it had it already (spurious.go).
	lookEvery     = 500 * time.Millisecond
	lookLong      = 2 * time.Second // for sockets that still wait, after settleAfter
	lookAtMost    = 2 * time.Minute
	lookEveryTill = settleAfter + time.Second
)

// Run hands every event to handle until ctx is done, and then what is left in
// the buffer; broken gets what cannot be read. It must return before Close is
// called.
func (k *kernel) Run(ctx context.Context, handle func(event), broken func(error)) error {
	stop := context.AfterFunc(ctx, k.ring.stop)
	defer stop()
	r := &reading{k: k, handle: handle, broken: broken, buf: make([]byte, dumpBuffer)}
	for ctx.Err() == nil {
		if err := r.pass(); err != nil {
			return err
		}
	}
	// Detached first, so that nothing more comes.
	return errors.Join(k.unlink(), r.drain(), r.look())
}

// reading is the state of one Run.
type reading struct {
	k      *kernel
	handle func(event)
	broken func(error)
	buf    []byte

	spentUntil uint64 // CLOCK_MONOTONIC: until then no trace could be afforded
	told       uint64 // what the programs know of it
	busy       bool
	window     time.Time // began
	asked      int       // events in it that wanted to wake
	begun      bool      // this pass may have begun a trace
	latest     time.Time // when something was read
	newest     time.Time // when the latest retransmit was
	caughtUp   time.Time // when that was called
	looked     time.Time
	looking    bool
}

// never is a time that does not come.
const never = math.MaxUint64

// pass waits for events, handles them and looks at sockets when that is due.
func (r *reading) pass() error {
	now := time.Now()
	due := r.due(now)
	deadline := due
	if pause := r.pause(now); pause > 0 && (due.IsZero() || now.Add(pause).Before(due)) {
		deadline = now.Add(pause)
	}
	if err := r.k.ring.wait(deadline); err != nil {
		return err
	}
	if err := r.drain(); err != nil {
		return err
	}
	now = time.Now()
	r.pace(now)
	if err := r.tell(now); err != nil {
		return err
	}
	if !due.IsZero() && !now.Before(due) {
		if err := r.look(); err != nil {
			return err
		}
	}
	// Where a trace was begun its answers come first: to send records takes as long
	// as they do, and there will be another pass soon (tick).
	if since := now.Sub(r.caughtUp); r.k.caughtUp != nil && since >= tellEvery && (!r.begun || since >= 2*tellEvery) {
		r.caughtUp = now
		r.k.caughtUp()
	}
	return nil
}

// pause is how long events may wait that wake nobody; 0: there are none.
func (r *reading) pause(now time.Time) time.Duration {
	switch {
	case r.busy:
		return busyPoll
	case now.Sub(r.latest) < askAgain+tick:
		return tick
	}
	return 0
}

// due is when sockets are to be looked at next; zero: not before the next
// retransmit.
func (r *reading) due(now time.Time) time.Time {
	switch age := now.Sub(r.newest); {
	case !r.looking:
		return time.Time{}
	case age < lookEveryTill:
		return r.looked.Add(lookEvery)
	case age < lookAtMost:
		return r.looked.Add(lookLong)
	}
	r.looking = false
	return time.Time{}
}

// drain handles the events that wait.
func (r *reading) drain() error {
	r.begun = false
	return r.k.ring.each(func(b []byte) error {
		e, err := decodeEvent(b, r.k.layout.caState)
		if err != nil {
			r.broken(err)
			return nil
		}
		// What the kernel dropped before it sent this again is known by now.
		if err := r.k.drops.drain(r.handle, r.broken); err != nil {
			return err
		}
		e.over = e.monotonic < r.spentUntil
		r.handle(e)
		if !e.quiet && !e.over {
			r.asked++
			r.begun = true
		}
		r.latest = time.Now()
		if e.what == whatRetransmit {
			r.newest = r.latest
			if !r.looking {
				r.looking, r.looked = true, r.newest
			}
		}
		return nil
	})
}

// pace decides whether so many want to wake that the clock had better read.
func (r *reading) pace(now time.Time) {
	full := now.Sub(r.window) > rateWindow
	switch {
	case full && r.asked < quietBelow:
		r.busy = false
	case !full && r.asked >= busyFrom:
		r.busy = true
	}
	if full {
		r.window, r.asked = now, 0
	}
}

// tell lets the programs know from when on to wake the reader. One that runs just
// then may still go by what it was told before: who reads comes again by itself.
func (r *reading) tell(now time.Time) error {
	if r.k.spent != nil {
		if spent := r.k.spent(); spent > 0 || r.spentUntil > kernelClock(now) { // or more is allowed meanwhile
			r.spentUntil = kernelClock(now.Add(spent))
		}
	}
	from := r.spentUntil
	if r.busy {
		from = never
	}
	if from == r.told {
		return nil
	}
	if err := r.k.wakeFrom.Put(uint32(0), from); err != nil {
		return fmt.Errorf("tell the kernel's programs when to wake the reader: %w", err)
	}
	r.told = from
	return nil
}

// look hands over a sample of each socket that sent something again lately and
// of which there is news.
func (r *reading) look() error {
	r.looked = time.Now()
	if len(r.k.looks) == 0 {
		return nil
	}
	it, err := r.k.looks[0].Open()
	if err != nil {
		return fmt.Errorf("look at the sockets that sent again: %w", err)
	}
	defer it.Close()
	held := 0
	for {
		n, err := it.Read(r.buf[held:])
		// What was said by sequence numbers is counted in these samples, and comes first.
		if err := r.drain(); err != nil {
			return err
		}
		held += n
		whole := held / evBytes * evBytes
		for at := 0; at < whole; at += evBytes {
			e, err := decodeEvent(r.buf[at:at+evBytes], r.k.layout.caState)
			if err != nil {
				r.broken(err)
				continue
			}
			r.handle(e)
		}
		held = copy(r.buf, r.buf[whole:held])
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("look at the sockets that sent again: %w", err)
		}
	}
}
