package hostagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// How the ring buffer of retransmits is read: woken by each event while there
// are few, so that a trace starts at once; by the clock while there are many,
// since a wake-up costs the kernel ten times what the rest of an event does.
const (
	rateWindow = 100 * time.Millisecond
	busyFrom   = 40 // events in a window: from here on the clock reads
	quietBelow = 20 // and below here events wake
	busyPoll   = 4 * time.Millisecond

	// Sockets that sent something again are looked at for a while, for the
	// other end's word that it had it already (spurious.go).
	lookEvery     = 250 * time.Millisecond
	lookLong      = 2 * time.Second // for sockets that still wait, after settleAfter
	lookAtMost    = 2 * time.Minute
	lookEveryTill = settleAfter + time.Second
)

// Run hands every event to handle until ctx is done, and then what is left in
// the buffer; broken gets what cannot be read. It must return before Close is
// called.
func (k *kernel) Run(ctx context.Context, handle func(event), broken func(error)) error {
	stop := context.AfterFunc(ctx, k.wake)
	defer stop()
	r := &reading{k: k, handle: handle, broken: broken, buf: make([]byte, dumpBuffer)}
	for {
		err := r.pass(ctx)
		if ctx.Err() != nil {
			// Detached meanwhile, so this is the last there is. The deadline
			// may have passed before the flush was seen.
			k.reader.SetDeadline(time.Unix(1, 0))
			return errors.Join(r.drain(), r.look())
		}
		if err != nil {
			return err
		}
	}
}

// reading is the state of one Run.
type reading struct {
	k      *kernel
	handle func(event)
	broken func(error)
	buf    []byte
	rec    ringbuf.Record

	busy    bool
	window  time.Time // began
	events  int       // in it
	newest  time.Time // when the latest retransmit was read
	looked  time.Time
	looking bool
}

// pass waits for events, handles them and looks at sockets when that is due.
func (r *reading) pass(ctx context.Context) error {
	now := time.Now()
	due := r.due(now)
	if r.busy {
		wait := time.NewTimer(busyPoll)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
		// Past: read what is there.
		r.k.reader.SetDeadline(now)
	} else {
		r.k.reader.SetDeadline(due)
	}
	if err := r.drain(); err != nil {
		return err
	}
	now = time.Now()
	if err := r.pace(now); err != nil {
		return err
	}
	if !due.IsZero() && !now.Before(due) {
		return r.look()
	}
	return nil
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

// drain handles events until the deadline, or until they become so many that
// the clock is to read them.
func (r *reading) drain() error {
	for {
		switch err := r.k.reader.ReadInto(&r.rec); {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, ringbuf.ErrFlushed):
			return nil
		case err != nil:
			return fmt.Errorf("read kernel events: %w", err)
		}
		e, err := decodeEvent(r.rec.RawSample, r.k.layout.caState)
		if err != nil {
			r.broken(err)
			continue
		}
		// What the kernel dropped before it sent this again is known by now.
		if err := r.k.drops.drain(r.handle, r.broken); err != nil {
			return err
		}
		r.handle(e)
		if e.what != whatRetransmit {
			continue
		}
		r.events++
		now := time.Now()
		r.newest = now
		if !r.looking {
			// A wait without an end is over.
			r.looking, r.looked = true, now
			return nil
		}
		if !r.busy && (r.events >= busyFrom || now.Sub(r.window) > rateWindow) {
			return nil
		}
	}
}

// pace decides how the next events are waited for.
func (r *reading) pace(now time.Time) error {
	busy := r.busy
	switch full := now.Sub(r.window) > rateWindow; {
	case r.events >= busyFrom && !full:
		busy = true
	case full:
		if r.events < quietBelow {
			busy = false
		}
		r.window, r.events = now, 0
	}
	if busy == r.busy {
		return nil
	}
	r.busy = busy
	flags := uint64(0)
	if busy {
		flags = bpfRingNoWakeup
	}
	if err := r.k.mode.Put(uint32(0), flags); err != nil {
		return fmt.Errorf("tell the kernel's programs when to wake the reader: %w", err)
	}
	if !busy {
		// An event that came just before woke nobody.
		r.k.reader.SetDeadline(now)
		return r.drain()
	}
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
