package hostagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// diagSource is what the three lesser sources are: sock_diag says what each
// connection has sent again since it was last looked at, each second and at its
// end; where there is a hinter, classic tracepoints say at once whom to look at.
// What one look finds is one event, however many buffers were sent again: no
// segment is missed, but they have no sequence numbers, and of a look that comes
// late the kind is the likeliest. What tracepoints say of ends goes to flows.
type diagSource struct {
	called string
	spaces diagSpaces
	hints  hinter    // nil: none
	flows  *flowDiag // nil unless asked for
	lost   atomic.Uint64
	every  time.Duration

	closed chan closedSocket
	errs   chan error // of reading; what finds no room is counted
	failed chan error
	over   chan struct{} // closed when Run is
	once   sync.Once
}

// closedSocket is the last word on a socket.
type closedSocket struct {
	in *diagSpace
	diagSocket
}

// A hinter says which connections sent something again.
type hinter interface {
	// run hands over hints until stop; lost is told how many found no room.
	run(hint func(hint), lost func(uint64), broken func(error)) error
	stop()
	Close() error
}

// pollEvery is how often all sockets are looked at.
const pollEvery = time.Second

// openDiag opens sock_diag, and classic tracepoints in the way given.
func openDiag(o sourceOptions, way classicWay, name string) (_ *diagSource, err error) {
	s := &diagSource{
		called: name, every: pollEvery,
		closed: make(chan closedSocket, 1024), errs: make(chan error, 16), failed: make(chan error, 3), over: make(chan struct{}),
	}
	s.spaces = diagSpaces{
		of:      map[uint32]*diagSpace{},
		adopted: func(uint32, []uint64) {}, closed: s.take, lost: func() { s.lost.Add(1) }, flushed: func() {},
		failed: func(err error) {
			select {
			case s.failed <- err:
			default: // one is enough
			}
		},
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	fi, err := o.ns.Stat()
	if err != nil {
		return nil, fmt.Errorf("find the network namespace to watch: %w", err)
	}
	inum, err := inodeOf(fi)
	if err != nil {
		return nil, err
	}
	if way.again != nil {
		if s.hints, err = way.again(); err != nil {
			return nil, err
		}
	}
	if o.flows {
		s.flows = newFlowDiag(s.spaces.flush)
		s.spaces.adopted, s.spaces.flushed = s.flows.adopted, s.flows.flushed
		s.spaces.lost = func() {
			s.lost.Add(1)
			s.flows.lost.Add(1)
		}
		if way.ends != nil {
			var missing []string
			if s.flows.ends, missing, err = way.ends(); err != nil {
				return nil, err
			}
			s.flows.lostEnds = func(n uint64) { s.lost.Add(n) }
			if len(missing) > 0 {
				s.called += " without " + strings.Join(missing, ", ")
			}
		}
	}
	if s.spaces.own, err = s.spaces.open(o.ns, inum); err != nil {
		return nil, err
	}
	return s, nil
}

// take takes the message of a socket that is closed.
func (s *diagSource) take(in *diagSpace, b []byte) {
	d, err := decodeDiag(b)
	if err != nil {
		s.lost.Add(1)
		select {
		case s.errs <- err:
		default:
		}
		return
	}
	select {
	case s.closed <- closedSocket{in, d}:
	case <-s.over:
	}
	if s.flows != nil {
		s.flows.take(in.inum, &d, b)
	}
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

func (s *diagSource) follow(w watchedSpaces) error { return s.spaces.follow(w) }

// unwatched is how many network namespaces of those that it follows it does not
// watch, and why.
func (s *diagSource) unwatched() (int, error) { return s.spaces.unwatched() }

func (s *diagSource) Lost() (uint64, error) { return s.lost.Load(), nil }

func (s *diagSource) Close() error {
	s.once.Do(func() { close(s.over) })
	var errs []error
	if s.flows != nil {
		s.flows.shut()
	}
	errs = append(errs, s.spaces.Close())
	if s.flows != nil {
		errs = append(errs, s.flows.Close())
	}
	if s.hints != nil {
		errs = append(errs, s.hints.Close())
	}
	return errors.Join(errs...)
}

// Run is that of source.
func (s *diagSource) Run(ctx context.Context, handle func(event), broken func(error)) error {
	defer s.once.Do(func() { close(s.over) })
	var wg sync.WaitGroup
	hints := make(chan hint, 1024)
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	var mu sync.Mutex // broken is for one goroutine
	complain := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		broken(err)
	}
	if s.hints != nil {
		wg.Go(func() {
			err := s.hints.run(func(h hint) {
				select {
				case hints <- h:
				default: // the next look finds it
					s.lost.Add(1)
				}
			}, func(n uint64) { s.lost.Add(n) }, complain)
			if err != nil && ctx.Err() == nil {
				s.spaces.failed(err)
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
		case d := <-s.closed:
			s.spaces.mu.Lock()
			d.in.book.end(&d.diagSocket, handle)
			s.spaces.mu.Unlock()
		case err := <-s.errs:
			complain(err)
		case <-tick.C:
			if err := s.look(handle, complain); err != nil {
				complain(err)
			}
		case err := <-s.failed:
			return err
		case <-ctx.Done():
			return s.look(handle, complain)
		}
	}
}

// look looks at all sockets.
func (s *diagSource) look(handle func(event), broken func(error)) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	s.spaces.mu.Lock()
	defer s.spaces.mu.Unlock()
	return errors.Join(s.spaces.recheck(), s.spaces.look(func(in *diagSpace, d *diagSocket) {
		for _, e := range in.book.look(d, now) {
			handle(e)
		}
	}, broken))
}

// hinted looks at the socket that a tracepoint told of. Tracepoints tell of all
// network namespaces and not of which: where several have one with these addresses
// and ports, it is the one whose counts went up; what is of none that is watched is
// not found.
func (s *diagSource) hinted(h hint, handle func(event), broken func(error)) {
	s.spaces.mu.Lock()
	defer s.spaces.mu.Unlock()
	for _, in := range s.spaces.where(h.flow.Src.Addr()) {
		d, err := in.ask.get(h.flow)
		if err != nil {
			broken(err)
			continue
		}
		if d == nil || d.flow() != h.flow {
			continue
		}
		for _, e := range in.book.look(d, h.at) {
			handle(e)
		}
	}
}

// diagBook knows what each connection had sent again when it was last looked
// at, in one network namespace. It is bounded by the sockets there are.
type diagBook struct {
	netns uint32
	of    map[uint64]*diagKnown // by cookie
	dumps uint32
}

func newDiagBook(netns uint32) diagBook {
	return diagBook{netns: netns, of: map[uint64]*diagKnown{}}
}

type diagKnown struct {
	total, dups, timeouts uint32
	repeats               uint8
	connecting            bool   // when it was last seen open
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
	if d.state != tcpClose {
		k.connecting = d.state == tcpSynSent
	}
	if at == 0 {
		k.total, k.dups, k.timeouts, k.repeats = d.totalRetrans, d.dsackDups, d.timeouts, d.repeats
		return nil
	}
	e := event{
		monotonic: at, cookie: d.cookie, src: d.src, dst: d.dst, state: d.state, netns: b.netns,
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
		if k.connecting {
			e.flags, e.state = flagSYN, tcpSynSent
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
		delete(b.of, d.cookie)
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
			what: whatClosed, monotonic: now, cookie: d.cookie, src: d.src, dst: d.dst, state: d.state, netns: b.netns,
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
