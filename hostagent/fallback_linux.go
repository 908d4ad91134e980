package hostagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"decaf/api/packet"

	"golang.org/x/sys/unix"
)

// diagSource is what the three lesser sources are: sock_diag says what each
// connection has sent again since it was last looked at, each second and at its
// end; where there is a hinter, classic tracepoints say at once whom to look at.
// What one look finds is one event, however many buffers were sent again: no
// segment is missed, but they have no sequence numbers, and of a look that comes
// late the kind is the likeliest.
type diagSource struct {
	called string
	ask    *diagConn // dumps and questions
	ends   *diagConn // closed sockets
	hints  hinter    // nil: none
	flows  *flowDiag // nil unless asked for
	book   diagBook
	broke  atomic.Uint64 // messages that found no room
	every  time.Duration
}

// A hinter says which connections sent something again.
type hinter interface {
	// run hands over hints until stop; lost is told how many found no room.
	run(hint func(hint), lost func(uint64), broken func(error)) error
	stop()
	Close() error
}

// hint is what a classic tracepoint says.
type hint struct {
	at   uint64 // ns, CLOCK_MONOTONIC
	flow packet.Flow
}

// pollEvery is how often all sockets are looked at.
const pollEvery = time.Second

// openDiag opens sock_diag, and a hinter where open is given.
func openDiag(o sourceOptions, open func() (hinter, error), name string) (_ *diagSource, err error) {
	s := &diagSource{called: name, book: diagBook{of: map[uint64]*diagKnown{}}, every: pollEvery}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if o.netns == 0 || o.several {
		return nil, errors.New("sock_diag watches one network namespace, no more (without namespaces: it can)")
	}
	if s.ends, err = dialDiag(o.ns, groupDestroy4, groupDestroy6); err != nil {
		return nil, err
	}
	if s.ask, err = dialDiag(o.ns); err != nil {
		return nil, err
	}
	if open != nil {
		if s.hints, err = open(); err != nil {
			return nil, err
		}
	}
	if o.flows {
		if s.flows, err = openFlowDiag(o.ns); err != nil {
			return nil, err
		}
	}
	// What was sent again before is nobody's.
	if err := s.ask.dump(func(d *diagSocket) { s.book.look(d, 0) }, func(error) {}); err != nil {
		return nil, err
	}
	s.book.endDump()
	return s, nil
}

func (s *diagSource) name() string { return s.called }

func (s *diagSource) flowSource() flowReader {
	if s.flows == nil {
		return nil
	}
	return s.flows
}

// Missed is that of source: what was not seen is not known to have been.
func (s *diagSource) Missed() (uint64, error) { return 0, nil }

// LostDrops is that of source: there are none to lose.
func (s *diagSource) LostDrops() (uint64, error) { return 0, nil }

func (s *diagSource) follow([]uint32) error { return nil }

func (s *diagSource) Lost() (uint64, error) { return s.broke.Load(), nil }

func (s *diagSource) Close() error {
	var errs []error
	if s.hints != nil {
		errs = append(errs, s.hints.Close())
	}
	if s.flows != nil {
		errs = append(errs, s.flows.Close())
	}
	for _, c := range []*diagConn{s.ask, s.ends} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Run is that of source.
func (s *diagSource) Run(ctx context.Context, handle func(event), broken func(error)) error {
	var wg sync.WaitGroup
	closed, hints := make(chan diagSocket, 1024), make(chan hint, 1024)
	failed := make(chan error, 2)
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	var mu sync.Mutex // broken is for one goroutine
	complain := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		broken(err)
	}
	wg.Go(func() {
		err := s.ends.closed(func(d diagSocket) {
			select {
			case closed <- d:
			case <-ctx.Done():
			}
		}, func(err error) { s.broke.Add(1); complain(err) })
		if err != nil && ctx.Err() == nil {
			failed <- err
		}
	})
	context.AfterFunc(ctx, s.ends.wakeClosed)
	if s.hints != nil {
		wg.Go(func() {
			err := s.hints.run(func(h hint) {
				select {
				case hints <- h:
				default: // the next look finds it
					s.broke.Add(1)
				}
			}, func(n uint64) { s.broke.Add(n) }, complain)
			if err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
		context.AfterFunc(ctx, s.hints.stop)
	}

	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		select {
		case h := <-hints:
			s.hinted(h, handle, complain)
		case d := <-closed:
			s.book.end(&d, handle)
		case <-tick.C:
			if err := s.dump(handle, complain); err != nil {
				complain(err)
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return s.dump(handle, complain)
		}
	}
}

// dump looks at all sockets.
func (s *diagSource) dump(handle func(event), broken func(error)) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	err = s.ask.dump(func(d *diagSocket) {
		for _, e := range s.book.look(d, now) {
			handle(e)
		}
	}, broken)
	if err == nil {
		s.book.endDump()
	}
	return err
}

// hinted looks at the socket that a tracepoint told of. Tracepoints tell of all
// network namespaces: what is none of ours is not found.
func (s *diagSource) hinted(h hint, handle func(event), broken func(error)) {
	d, err := s.ask.get(h.flow)
	if err != nil {
		broken(err)
		return
	}
	if d == nil || d.flow() != h.flow {
		return
	}
	for _, e := range s.book.look(d, h.at) {
		handle(e)
	}
}

// diagBook knows what each connection had sent again when it was last looked
// at. It is bounded by the sockets there are.
type diagBook struct {
	of    map[uint64]*diagKnown // by cookie
	dumps uint32
}

type diagKnown struct {
	total, dups, timeouts uint32
	repeats               uint8
	again                 uint64 // when it was last seen to have sent something again
	dump                  uint32
}

// look compares a socket with what it was. at is the time, 0 for the first dump,
// which says only where all begins.
func (b *diagBook) look(d *diagSocket, at uint64) []event {
	if d.dst.Port() == 0 {
		return nil
	}
	k := b.of[d.cookie]
	if k == nil {
		k = new(diagKnown)
		b.of[d.cookie] = k
	}
	k.dump = b.dumps
	if at == 0 {
		k.total, k.dups, k.timeouts, k.repeats = d.totalRetrans, d.dsackDups, d.timeouts, d.repeats
		return nil
	}
	e := event{
		monotonic: at, cookie: d.cookie, src: d.src, dst: d.dst, state: d.state,
		totalRetrans: d.totalRetrans, dsackDups: d.dsackDups,
	}
	if d.state == tcpSynRecv && !d.full {
		n := d.repeats - k.repeats
		k.repeats = d.repeats
		if n == 0 || n > 127 {
			return nil
		}
		e.what, e.flags, e.segments, e.totalRetrans = whatSynAck, flagSYN|flagACK, uint32(n), 0
		return []event{e}
	}
	if !d.full {
		return nil
	}
	// The connection goes on with the count of its SYN-ACKs.
	k.total += uint32(k.repeats)
	k.repeats = 0
	var out []event
	if n := d.totalRetrans - k.total; n > 0 && int32(n) > 0 {
		e.what, e.segments, e.flags = whatRetransmit, n, flagACK
		if d.state == tcpSynSent {
			e.flags = flagSYN
		}
		e.caState = d.lossState(n, k)
		k.again = at
		// A word on it may have come before this look: that is told after.
		e.dsackDups = k.dups
		out = append(out, e)
		if d.dsackDups != k.dups {
			e.what, e.dsackDups = whatSample, d.dsackDups
			out = append(out, e)
		}
	} else if k.again != 0 {
		settled := d.waiting == 0 && at-k.again > uint64(settleAfter)
		if settled || d.dsackDups != k.dups {
			e.what, e.settled = whatSample, settled
			out = append(out, e)
		}
		if settled {
			k.again = 0
		}
	}
	k.total, k.dups, k.timeouts = d.totalRetrans, d.dsackDups, d.timeouts
	return out
}

// lossState is the congestion state in which n segments were likely sent again.
func (d *diagSocket) lossState(n uint32, k *diagKnown) uint8 {
	switch {
	case d.caState == caLoss || d.timeouts > k.timeouts:
		return caLoss
	case d.caState == caRecovery || n > 1:
		// A tail loss probe is one segment, and there is one of them.
		return caRecovery
	}
	return d.caState
}

// end takes the last word on a socket.
func (b *diagBook) end(d *diagSocket, handle func(event)) {
	now, err := monotonic()
	if err != nil || d.dst.Port() == 0 || !d.full {
		return
	}
	k := b.of[d.cookie]
	if k == nil {
		// Opened and closed between two dumps.
		k = new(diagKnown)
		b.of[d.cookie] = k
	}
	for _, e := range b.look(d, now) {
		handle(e)
	}
	delete(b.of, d.cookie)
	if d.totalRetrans > 0 {
		handle(event{
			what: whatClosed, monotonic: now, cookie: d.cookie, src: d.src, dst: d.dst, state: d.state,
			totalRetrans: d.totalRetrans, dsackDups: d.dsackDups,
		})
	}
}

// forgetAfter is how many dumps a socket may be missing from: one whose
// connection is over stays with its owner, unlisted, until that gives it back.
const forgetAfter = 600

// endDump forgets sockets that are gone for long: their last word was lost.
func (b *diagBook) endDump() {
	for cookie, k := range b.of {
		if b.dumps-k.dump >= forgetAfter {
			delete(b.of, cookie)
		}
	}
	b.dumps++
}

// findTracefs opens the kernel's list of tracepoints, where it is mounted or not.
func findTracefs() (*os.File, error) {
	for _, at := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if _, err := os.Stat(at + "/events"); err == nil {
			return os.Open(at)
		}
	}
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, needsPrivilege("open tracefs", fmt.Errorf("fsopen: %w", err))
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, needsPrivilege("open tracefs", fmt.Errorf("fsconfig: %w", err))
	}
	at, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, needsPrivilege("open tracefs", fmt.Errorf("fsmount: %w", err))
	}
	return os.NewFile(uintptr(at), "tracefs"), nil
}
