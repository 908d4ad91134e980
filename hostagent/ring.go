package hostagent

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ring is a ring buffer of the kernel's, the counter of what finds it full, and
// its one reader. Records are read where they lie, without a system call, and
// waited for with Go's own poller: a thread that blocks in a system call of its
// own keeps the runtime's monitor awake, which then takes more than half of what
// a rare event costs.
type ring struct {
	m    *ebpf.Map
	lost *ebpf.Map // array of one 64-bit counter
	file *os.File  // m's, known to the poller
	conn syscall.RawConn

	pages [2][]byte // consumer's position; producer's position and twice the data
	read  *uint64   // position, which the kernel reads
	wrote *uint64   // position, which the kernel writes
	data  []byte
	mask  uint64

	stopped atomic.Bool
}

// Of a record's header: its length, with bits that say that it is not there yet
// (BPF_RINGBUF_BUSY_BIT) or to be passed over (BPF_RINGBUF_DISCARD_BIT), then
// padding. Records begin at multiples of 8. include/uapi/linux/bpf.h.
const (
	recordHeader  = 8
	recordBusy    = 1 << 31
	recordDiscard = 1 << 30
)

// newRing makes a ring buffer of that many bytes.
func newRing(name string, bytes int) (_ *ring, err error) {
	r := &ring{mask: uint64(bytes - 1)}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.m, err = ebpf.NewMap(&ebpf.MapSpec{Name: name + "_ring", Type: ebpf.RingBuf, MaxEntries: uint32(bytes)}); err != nil {
		return nil, needsPrivilege("make the event buffer", err)
	}
	if r.lost, err = ebpf.NewMap(&ebpf.MapSpec{Name: name + "_lost", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}); err != nil {
		return nil, needsPrivilege("make the counter of lost events", err)
	}
	if err := r.open(bytes); err != nil {
		return nil, fmt.Errorf("open the event buffer: %w", err)
	}
	return r, nil
}

// open maps the buffer and has the poller watch it.
func (r *ring) open(bytes int) (err error) {
	page := os.Getpagesize()
	if r.pages[0], err = unix.Mmap(r.m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the reader's position: %w", err)
	}
	// The data are there twice, so that none is cut in two at the end.
	if r.pages[1], err = unix.Mmap(r.m.FD(), int64(page), page+2*bytes, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the data: %w", err)
	}
	r.read = (*uint64)(unsafe.Pointer(unsafe.SliceData(r.pages[0])))
	r.wrote = (*uint64)(unsafe.Pointer(unsafe.SliceData(r.pages[1])))
	r.data = r.pages[1][page:]

	fd, err := unix.FcntlInt(uintptr(r.m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else the poller leaves it alone
		return errors.Join(err, unix.Close(fd))
	}
	r.file = os.NewFile(uintptr(fd), "event buffer")
	if r.conn, err = r.file.SyscallConn(); err != nil {
		return err
	}
	return r.file.SetReadDeadline(time.Time{}) // fails where it cannot be waited for
}

// waiting says whether there is something to read.
func (r *ring) waiting() bool { return atomic.LoadUint64(r.wrote) != atomic.LoadUint64(r.read) }

// each hands over what is in the buffer, oldest first. The bytes are the
// kernel's again once fn returns.
func (r *ring) each(fn func([]byte) error) error {
	at := atomic.LoadUint64(r.read)
	// What comes meanwhile is for the next call.
	for end := atomic.LoadUint64(r.wrote); at != end; {
		start := at & r.mask
		// Whoever writes it sets the length last.
		header := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[start])))
		if header&recordBusy != 0 {
			continue // for some nanoseconds
		}
		size := uint64(header &^ recordDiscard)
		at += (recordHeader + size + 7) &^ 7
		if header&recordDiscard == 0 {
			if err := fn(r.data[start+recordHeader:][:size]); err != nil {
				return err
			}
		}
		atomic.StoreUint64(r.read, at)
	}
	return nil
}

// wait returns once there is something to read, the deadline has passed (zero:
// never) or after stop. What is written meanwhile without a wake-up does not end
// it.
func (r *ring) wait(deadline time.Time) error {
	if err := r.file.SetReadDeadline(deadline); err != nil {
		return err
	}
	// After the deadline was set: stop sets another.
	if r.stopped.Load() {
		return nil
	}
	woken := false
	err := r.conn.Read(func(uintptr) bool {
		if woken {
			return true
		}
		woken = true
		return r.waiting()
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for kernel events: %w", err)
	}
	return nil
}

// stop ends a wait, and all later ones, from another goroutine.
func (r *ring) stop() {
	r.stopped.Store(true)
	r.file.SetReadDeadline(time.Unix(1, 0))
}

// Lost is how many records found the buffer full.
func (r *ring) Lost() (uint64, error) {
	var n uint64
	if err := r.lost.Lookup(uint32(0), &n); err != nil {
		return 0, fmt.Errorf("read the counter of lost events: %w", err)
	}
	return n, nil
}

// Close is called when nobody reads any more.
func (r *ring) Close() error {
	var errs []error
	if r.file != nil {
		errs = append(errs, r.file.Close())
	}
	for _, p := range r.pages {
		if p != nil {
			errs = append(errs, unix.Munmap(p))
		}
	}
	for _, m := range []*ebpf.Map{r.m, r.lost} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}
