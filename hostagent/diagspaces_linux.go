package hostagent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
)

// diagSpaces are the network namespaces that sock_diag is asked in. Its sockets keep
// their namespace alive, and with it addresses and devices, so none may stay when the
// last process and the last name of the namespace are gone: how each was found is
// looked at again and again (gone), and what is to be found in no way is left. A
// namespace outlives its last user by a second at most.
//
// All but reading is under a lock, for two goroutines: the one that looks and the one
// that follows.
type diagSpaces struct {
	mu     sync.Mutex
	own    *diagSpace
	of     map[uint32]*diagSpace // by inode number
	watch  watchedSpaces
	others *flowSpaces // finds them, where all are watched
	// locals are the namespaces in which an address was seen as this end's.
	locals map[netip.Addr][]*diagSpace
	// leftOut is how many of those to be watched are not, and why.
	leftOut    int
	whyLeftOut error

	reading sync.WaitGroup
	// adopted is told of each new one, closed gets the messages of sockets as they
	// are closed, flushed the word that all there were until flush are told; for
	// several goroutines.
	adopted func(inum uint32, cookies []uint64)
	closed  func(*diagSpace, []byte)
	lost    func()
	flushed func()
	failed  func(error)
}

// diagSpace is one of them.
type diagSpace struct {
	inum uint32
	file string    // where it was found; "" is the agent's own, which stays
	ask  *diagConn // dumps and questions
	ends *diagConn // closed sockets
	book diagBook
}

// maxDiagSpaces bounds them: each has two sockets open, and its own buffers.
const maxDiagSpaces = 1024

// follow says which are watched from now on beside the agent's own. That one of them
// cannot be is no error: unwatched tells.
func (d *diagSpaces) follow(w watchedSpaces) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watch = w
	if w.all && d.others == nil {
		d.others = newFlowSpaces(nil, d.own.inum, []string{allNamespaces})
	}
	return d.update()
}

// update opens those that are new and leaves those that are gone.
func (d *diagSpaces) update() error {
	want, left := d.wanted()
	var failed, full error
	if left > 0 {
		full = fmt.Errorf("sock_diag watches no more than %d, name those that matter", maxDiagSpaces)
	}
	files := map[uint32]string{}
	for _, n := range want {
		files[n.inum] = n.file
	}
	var errs []error
	for inum, s := range d.of {
		if file, ok := files[inum]; !ok {
			errs = append(errs, s.Close())
			delete(d.of, inum)
			d.locals = nil // it may be there
		} else {
			s.file = file
		}
	}
	for _, n := range want {
		if d.of[n.inum] != nil {
			continue
		}
		err := d.adopt(n.inum, n.file)
		if err == nil {
			continue
		}
		if inum, gone := netNSOf(n.file); gone != nil || inum != n.inum {
			continue // with its last process, meanwhile
		}
		if left++; failed == nil { // one will do
			failed = fmt.Errorf("network namespace %s: %w", n.file, err)
		}
	}
	d.leftOut, d.whyLeftOut = left, errors.Join(failed, full)
	return errors.Join(errs...)
}

// wanted are those to be watched, the agent's own first, and how many more there are
// than can be: those that are named are taken before others, and of these those that
// are watched already.
func (d *diagSpaces) wanted() (want []namedSpace, left int) {
	seen := map[uint32]bool{}
	add := func(to *[]namedSpace, n namedSpace) {
		if !seen[n.inum] {
			seen[n.inum] = true
			*to = append(*to, n)
		}
	}
	add(&want, namedSpace{d.own.inum, ""})
	for _, n := range d.watch.named {
		add(&want, n)
	}
	if d.watch.all {
		var already, others []namedSpace
		for _, file := range d.others.files() {
			inum, err := netNSOf(file)
			switch {
			case err != nil: // gone meanwhile
			case d.of[inum] != nil:
				add(&already, namedSpace{inum, file})
			default:
				add(&others, namedSpace{inum, file})
			}
		}
		want = append(append(want, already...), others...)
	}
	if left = len(want) - maxDiagSpaces; left <= 0 {
		return want, 0
	}
	return want[:maxDiagSpaces], left
}

// unwatched is how many of those to be watched are not, and why.
func (d *diagSpaces) unwatched() (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leftOut, d.whyLeftOut
}

// netNSOf is the inode number of the namespace whose file that is, which it does not
// open.
func netNSOf(file string) (uint32, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	return inodeOf(fi)
}

// adopt opens one that is there.
func (d *diagSpaces) adopt(inum uint32, file string) error {
	f, found, err := openNetNS(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if found != inum {
		return nil // the name is another's by now, which comes next time
	}
	s, err := d.open(f, inum)
	if err != nil {
		return err
	}
	s.file = file
	return nil
}

// open opens sock_diag in a namespace.
func (d *diagSpaces) open(ns *os.File, inum uint32) (_ *diagSpace, err error) {
	s := &diagSpace{inum: inum, book: newDiagBook(inum)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.ends, err = dialDiag(ns, groupDestroy4, groupDestroy6); err != nil {
		return nil, err
	}
	if s.ask, err = dialDiag(ns); err != nil {
		return nil, err
	}
	// What was sent again before is nobody's.
	var cookies []uint64
	if err := s.ask.dump(diagStates, func(b []byte) {
		if k, err := decodeDiag(b); err == nil {
			s.book.look(&k, 0)
			cookies = append(cookies, k.cookie)
		}
	}); err != nil {
		return nil, err
	}
	s.book.endDump()
	d.adopted(inum, cookies)
	d.of[inum] = s
	d.reading.Go(func() {
		if err := s.ends.closed(func(b []byte) { d.closed(s, b) }, d.lost, d.flushed); err != nil {
			d.failed(err)
		}
	})
	return s, nil
}

// gone says that one is no longer to be found where it was.
func (d *diagSpaces) gone() bool {
	for _, s := range d.of {
		if s.file == "" {
			continue
		}
		if inum, err := netNSOf(s.file); err != nil || inum != s.inum {
			return true
		}
	}
	return false
}

// recheck leaves those that nobody else keeps alive.
func (d *diagSpaces) recheck() error {
	if !d.gone() {
		return nil
	}
	if d.others != nil {
		d.others.at = time.Time{} // another process may be in it
	}
	var still []namedSpace
	for _, n := range d.watch.named {
		if inum, err := netNSOf(n.file); err == nil && inum == n.inum {
			still = append(still, n)
		}
	}
	d.watch.named = still
	return d.update()
}

// maxGuesses bounds the namespaces that are looked into for an address that was seen
// in none yet.
const maxGuesses = 8

// where are the namespaces that may have a socket with this address of this end's.
func (d *diagSpaces) where(local netip.Addr) []*diagSpace {
	if len(d.of) == 1 {
		return []*diagSpace{d.own}
	}
	if at := d.locals[local]; len(at) > 0 {
		return at
	}
	if len(d.of) > maxGuesses {
		return []*diagSpace{d.own} // the next look finds those of others
	}
	all := make([]*diagSpace, 0, len(d.of))
	for _, s := range d.of {
		all = append(all, s)
	}
	return all
}

// look asks for all sockets of all of them.
func (d *diagSpaces) look(each func(*diagSpace, *diagSocket), broken func(error)) error {
	locals := map[netip.Addr][]*diagSpace{}
	var errs []error
	for _, s := range d.of {
		var last netip.Addr
		err := s.ask.dump(diagStates, func(b []byte) {
			k, err := decodeDiag(b)
			if err != nil {
				broken(err)
				return
			}
			if a := k.src.Addr(); len(d.of) > 1 && a != last {
				last = a
				if at := locals[a]; len(at) == 0 || at[len(at)-1] != s {
					locals[a] = append(at, s)
				}
			}
			each(s, &k)
		})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.book.endDump()
	}
	d.locals = locals
	return errors.Join(errs...)
}

// flush has the word come, as often as it says, that all sockets closed until now are
// told of.
func (d *diagSpaces) flush() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, s := range d.of {
		if s.ends.flush() == nil {
			n++
		}
	}
	return n
}

// Close leaves all.
func (d *diagSpaces) Close() error {
	d.mu.Lock()
	var errs []error
	for _, s := range d.of {
		errs = append(errs, s.Close())
	}
	clear(d.of)
	d.mu.Unlock()
	d.reading.Wait()
	return errors.Join(errs...)
}

// Close ends its reading too.
func (s *diagSpace) Close() error {
	var errs []error
	for _, c := range []*diagConn{s.ask, s.ends} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}
