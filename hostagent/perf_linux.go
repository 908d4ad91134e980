package hostagent

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// classicByPerf reads classic tracepoints as perf events, without a program.
// Tracepoints are system-wide, so it needs CAP_PERFMON, or a
// kernel.perf_event_paranoid below 0. A program of somebody else's on the same
// tracepoint that returns 0 keeps its events from all perf events
// (perf_trace_run_bpf_submit), and on CPUs that idle some events were seen to be
// counted and never written to the buffer (Linux 6.18). What is counted and not
// written is told of as lost; of retransmits the look each second finds what it did.
var classicByPerf = classicWay{again: openPerf, ends: openPerfEnds}

// perfHints has one event and one buffer for each tracepoint and CPU.
type perfHints struct {
	rings perfRings
	of    []*classic // whose each of rings is
	wake  int        // eventfd that ends run
	ended atomic.Bool
}

// perfRing is a buffer of one CPU that the kernel writes perf events into.
type perfRing struct {
	fds  []int // the buffer's own first, then those of events that share it
	mem  []byte
	meta *unix.PerfEventMmapPage
	data []byte
	told uint64 // events, of those that the kernel counts: read or lost
	wrap []byte
}

// perfCheck is how often what was read is held against what the kernel counted.
const perfCheck = time.Second

// perfPages is the size of each buffer, in pages: some 3,000 records.
const perfPages = 64

// eachCPU calls do for each CPU that there may be, not only those that this process
// may run on, but those that are not online.
func eachCPU(do func(cpu int) error) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the CPUs: %w", err)
	}
	for cpu := range cpus {
		if err := do(cpu); err != nil && !errors.Is(err, unix.ENODEV) {
			return needsPrivilege("watch a tracepoint", err)
		}
	}
	return nil
}

func openPerf() (_ hinter, err error) {
	classics, err := readAgain()
	if err != nil {
		return nil, err
	}
	p := &perfHints{wake: -1}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	for _, c := range classics {
		if err := eachCPU(func(cpu int) error {
			ring, err := openPerfRing(c.attr(), cpu)
			if err != nil {
				return err
			}
			p.rings, p.of = append(p.rings, ring), append(p.of, c)
			return c.start(ring.fds[0])
		}); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// attr is the perf event of a tracepoint, not yet enabled.
func (c *classic) attr() unix.PerfEventAttr {
	return unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_TRACEPOINT,
		Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Config:      c.id,
		Sample:      1,
		Sample_type: unix.PERF_SAMPLE_TIME | unix.PERF_SAMPLE_RAW,
		Bits:        unix.PerfBitUseClockID | unix.PerfBitDisabled,
		Clockid:     unix.CLOCK_MONOTONIC,
		Wakeup:      1,
	}
}

// start enables a perf event of the tracepoint, of the records that are wanted.
func (c *classic) start(fd int) error {
	if filter := c.filter(); filter != "" {
		text, err := unix.BytePtrFromString(filter)
		if err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PERF_EVENT_IOC_SET_FILTER, uintptr(unsafe.Pointer(text))); errno != 0 {
			return fmt.Errorf("PERF_EVENT_IOC_SET_FILTER %q: %w", filter, errno)
		}
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return fmt.Errorf("PERF_EVENT_IOC_ENABLE: %w", err)
	}
	return nil
}

func openPerfRing(attr unix.PerfEventAttr, cpu int) (*perfRing, error) {
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("perf_event_open: %w", err)
	}
	page := os.Getpagesize()
	mem, err := unix.Mmap(fd, 0, (1+perfPages)*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map the buffer of a perf event: %w", err)
	}
	return &perfRing{
		fds: []int{fd}, mem: mem,
		meta: (*unix.PerfEventMmapPage)(unsafe.Pointer(&mem[0])),
		data: mem[page:],
	}, nil
}

// share has one more event of the ring's CPU written into it.
func (r *perfRing) share(attr unix.PerfEventAttr, cpu int) (fd int, err error) {
	if fd, err = unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC); err != nil {
		return 0, fmt.Errorf("perf_event_open: %w", err)
	}
	r.fds = append(r.fds, fd)
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_OUTPUT, r.fds[0]); err != nil {
		return 0, fmt.Errorf("PERF_EVENT_IOC_SET_OUTPUT: %w", err)
	}
	return fd, nil
}

// Close ends its events.
func (r *perfRing) Close() error {
	errs := []error{unix.Munmap(r.mem)}
	for _, fd := range r.fds {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

func (p *perfHints) run(each func(hint), lost func(uint64), broken func(error)) error {
	fds := []unix.PollFd{{Fd: int32(p.wake), Events: unix.POLLIN}}
	for _, r := range p.rings {
		fds = append(fds, unix.PollFd{Fd: int32(r.fds[0]), Events: unix.POLLIN})
	}
	for {
		ended := p.ended.Load()
		for i, r := range p.rings {
			counted, err := r.counted()
			if err != nil {
				return err
			}
			r.drain(func(at uint64, b []byte) { take(p.of[i], at, b, each, broken) }, lost, broken)
			r.miss(counted, lost)
		}
		if ended {
			return nil
		}
		if _, err := unix.Poll(fds, int(perfCheck.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for tracepoints: %w", err)
		}
	}
}

// take hands on what a record says.
func take(c *classic, at uint64, b []byte, each func(hint), broken func(error)) {
	switch h, none, err := c.hint(at, b); {
	case err != nil:
		broken(err)
	case !none:
		each(h)
	}
}

func (p *perfHints) stop() {
	p.ended.Store(true)
	unix.Write(p.wake, binary.NativeEndian.AppendUint64(nil, 1))
}

func (p *perfHints) Close() error {
	err := p.rings.Close()
	if p.wake >= 0 {
		err = errors.Join(err, unix.Close(p.wake))
	}
	return err
}

// Records of a perf buffer, include/uapi/linux/perf_event.h.
const (
	perfRecordLost   = 2
	perfRecordSample = 9
)

// counted is how many events the kernel counted.
func (r *perfRing) counted() (sum uint64, err error) {
	for _, fd := range r.fds {
		var b [8]byte
		if _, err := unix.Read(fd, b[:]); err != nil {
			return 0, fmt.Errorf("read the count of a tracepoint's events: %w", err)
		}
		sum += binary.NativeEndian.Uint64(b[:])
	}
	return sum, nil
}

// miss tells of events that were counted before the buffer was drained and were not
// there.
func (r *perfRing) miss(counted uint64, lost func(uint64)) {
	if counted > r.told {
		lost(counted - r.told)
		r.told = counted
	}
}

// drain reads what waits in the buffer. A record is each's until that returns.
func (r *perfRing) drain(each func(at uint64, record []byte), lost func(uint64), broken func(error)) {
	head := atomic.LoadUint64(&r.meta.Data_head)
	tail := r.meta.Data_tail
	if tail == head {
		return
	}
	ne := binary.NativeEndian
	for tail < head {
		header := r.bytes(tail, 8)
		kind, n := ne.Uint32(header), uint64(ne.Uint16(header[6:]))
		if n < 8 || n > head-tail {
			broken(fmt.Errorf("record of %d bytes in the buffer of a perf event, %d are left", n, head-tail))
			tail = head
			break
		}
		body := r.bytes(tail+8, n-8)
		tail += n
		switch {
		case kind == perfRecordLost && len(body) >= 16:
			r.told += ne.Uint64(body[8:])
			lost(ne.Uint64(body[8:]))
		case kind == perfRecordSample && len(body) >= 12:
			r.told++
			at, size := ne.Uint64(body), int(ne.Uint32(body[8:]))
			if size > len(body)-12 {
				broken(fmt.Errorf("record of a tracepoint of %d bytes, %d are there", size, len(body)-12))
				continue
			}
			each(at, body[12:12+size])
		}
	}
	atomic.StoreUint64(&r.meta.Data_tail, tail)
}

// bytes are n of the buffer's from a position on; it wraps.
func (r *perfRing) bytes(at, n uint64) []byte {
	from := at % uint64(len(r.data))
	if from+n <= uint64(len(r.data)) {
		return r.data[from : from+n]
	}
	r.wrap = append(r.wrap[:0], r.data[from:]...)
	r.wrap = append(r.wrap, r.data[:n-uint64(len(r.data))+from]...)
	return r.wrap
}

// perfRings are the buffers of several CPUs.
type perfRings []*perfRing

// Close ends their events.
func (p perfRings) Close() error {
	var errs []error
	for _, r := range p {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}

// endRings are buffers whose hints are wanted in order of time: what happens to a
// socket is written by the CPU that it happens on, and its end may lie in an earlier
// buffer than what it ended of.
type endRings struct {
	perfRings
	take    func(at uint64, record []byte, each func(hint), broken func(error))
	now     func() (uint64, error) // ns, on the clock of hints
	waiting []hint                 // read, and handed on by the next drain
}

// spareHints is how much room for hints is kept from one drain to the next.
const spareHints = 1024

// drain hands on what was written before it began. What is written while it goes on
// waits for the next one: what went before it may be in a buffer that was read
// already.
func (e *endRings) drain(each func(hint), lost func(uint64), broken func(error)) {
	began, err := e.now()
	if err != nil {
		broken(err)
		began = math.MaxUint64 // so that nothing waits for ever
	}
	for _, r := range e.perfRings {
		r.drain(func(at uint64, b []byte) {
			e.take(at, b, func(h hint) { e.waiting = append(e.waiting, h) }, broken)
		}, lost, broken)
	}
	slices.SortStableFunc(e.waiting, func(a, b hint) int { return cmp.Compare(a.at, b.at) })
	n := 0
	for ; n < len(e.waiting) && e.waiting[n].at <= began; n++ {
		each(e.waiting[n])
	}
	rest := e.waiting[n:]
	if cap(e.waiting) > spareHints {
		e.waiting = nil
	}
	e.waiting = append(e.waiting[:0], rest...)
}

// An endsReader reads what tracepoints say of how connections end. Nobody is woken
// up for it: it is read when the last sample of a connection comes, which the kernel
// gives after, and now and then. It is for one goroutine.
type endsReader interface {
	// drain hands over what was told up to now, in order of time; lost is told how
	// much found no room.
	drain(each func(hint), lost func(uint64), broken func(error))
	// check drains, and tells of what was lost in other ways.
	check(each func(hint), lost func(uint64), broken func(error)) error
	Close() error
}

// perfEnds has one buffer for each CPU, which all tracepoints share.
type perfEnds struct {
	endRings
	byID map[uint64]*classic
}

func openPerfEnds() (endsReader, []string, error) { return openEnds(newPerfEnds) }

// openEnds opens those of the tracepoints on how connections end that this kernel has;
// nil where it has none.
func openEnds(open func([]*classic) (endsReader, error)) (_ endsReader, missing []string, err error) {
	classics, missing, err := readEnds()
	if err != nil || len(classics) == 0 {
		return nil, missing, err
	}
	ends, err := open(classics)
	return ends, missing, err
}

func newPerfEnds(classics []*classic) (_ endsReader, err error) {
	p := &perfEnds{byID: map[uint64]*classic{}}
	p.endRings = endRings{take: p.take, now: monotonic}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	for _, c := range classics {
		p.byID[c.id] = c
	}
	if err := eachCPU(func(cpu int) (err error) {
		first := true
		var ring *perfRing
		for _, c := range classics {
			attr := c.attr()
			attr.Bits |= unix.PerfBitWatermark
			attr.Wakeup = uint32(perfPages * os.Getpagesize() / 2) // of nobody
			var fd int
			if first {
				if ring, err = openPerfRing(attr, cpu); err != nil {
					return err
				}
				first, fd = false, ring.fds[0]
				p.perfRings = append(p.perfRings, ring)
			} else if fd, err = ring.share(attr, cpu); err != nil {
				return err
			}
			if err := c.start(fd); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *perfEnds) take(at uint64, b []byte, each func(hint), broken func(error)) {
	if len(b) < 2 || p.byID[uint64(binary.NativeEndian.Uint16(b))] == nil {
		broken(fmt.Errorf("record of %d bytes from no known tracepoint", len(b)))
		return
	}
	take(p.byID[uint64(binary.NativeEndian.Uint16(b))], at, b, each, broken)
}

// check is drain, and tells of events that the kernel counted and did not write.
func (p *perfEnds) check(each func(hint), lost func(uint64), broken func(error)) error {
	counted := make([]uint64, len(p.perfRings))
	for i, r := range p.perfRings {
		var err error
		if counted[i], err = r.counted(); err != nil {
			return err
		}
	}
	p.drain(each, lost, broken)
	for i, r := range p.perfRings {
		r.miss(counted[i], lost)
	}
	return nil
}
