package hostagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// perfHints reads classic tracepoints as perf events, without a program: one
// event and one buffer for each tracepoint and CPU. Tracepoints are system-wide,
// so it needs CAP_PERFMON, or a kernel.perf_event_paranoid below 0. A program of
// somebody else's on the same tracepoint that returns 0 keeps its events from all
// perf events (perf_trace_run_bpf_submit), and on CPUs that idle some events were
// seen to be counted and never written to the buffer (Linux 6.18). What is counted
// and not written is told of as lost; the look each second finds what it did.
type perfHints struct {
	rings []*perfRing
	wake  int // eventfd that ends run
	ended atomic.Bool
}

type perfRing struct {
	of   *classic
	fd   int
	mem  []byte
	meta *unix.PerfEventMmapPage
	data []byte
	told uint64 // events, of those that the kernel counts: read or lost
}

// perfCheck is how often what was read is held against what the kernel counted.
const perfCheck = time.Second

// perfPages is the size of each buffer, in pages: some 3,000 records.
const perfPages = 64

func openPerf() (_ hinter, err error) {
	classics, err := readClassics()
	if err != nil {
		return nil, err
	}
	p := &perfHints{wake: -1}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	// All that there may be, not those that this process may run on.
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the CPUs: %w", err)
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	for _, c := range classics {
		for cpu := range cpus {
			ring, err := openPerfRing(c, cpu)
			if errors.Is(err, unix.ENODEV) {
				continue // not online
			}
			if err != nil {
				return nil, needsPrivilege("watch a tracepoint", err)
			}
			p.rings = append(p.rings, ring)
		}
	}
	return p, nil
}

func openPerfRing(c *classic, cpu int) (*perfRing, error) {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_TRACEPOINT,
		Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Config:      c.id,
		Sample:      1,
		Sample_type: unix.PERF_SAMPLE_TIME | unix.PERF_SAMPLE_RAW,
		Bits:        unix.PerfBitUseClockID,
		Clockid:     unix.CLOCK_MONOTONIC,
		Wakeup:      1,
	}, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
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
		of: c, fd: fd, mem: mem,
		meta: (*unix.PerfEventMmapPage)(unsafe.Pointer(&mem[0])),
		data: mem[page:],
	}, nil
}

func (p *perfHints) run(each func(hint), lost func(uint64), broken func(error)) error {
	fds := []unix.PollFd{{Fd: int32(p.wake), Events: unix.POLLIN}}
	for _, r := range p.rings {
		fds = append(fds, unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN})
	}
	for {
		ended := p.ended.Load()
		for _, r := range p.rings {
			counted, err := r.counted()
			if err != nil {
				return err
			}
			r.drain(each, lost, broken)
			if counted > r.told {
				lost(counted - r.told)
				r.told = counted
			}
		}
		if ended {
			return nil
		}
		if _, err := unix.Poll(fds, int(perfCheck.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for tracepoints: %w", err)
		}
	}
}

func (p *perfHints) stop() {
	p.ended.Store(true)
	unix.Write(p.wake, binary.NativeEndian.AppendUint64(nil, 1))
}

func (p *perfHints) Close() error {
	var errs []error
	for _, r := range p.rings {
		errs = append(errs, unix.Munmap(r.mem), unix.Close(r.fd))
	}
	if p.wake >= 0 {
		errs = append(errs, unix.Close(p.wake))
	}
	return errors.Join(errs...)
}

// Records of a perf buffer, include/uapi/linux/perf_event.h.
const (
	perfRecordLost   = 2
	perfRecordSample = 9
)

// counted is how many events the kernel counted.
func (r *perfRing) counted() (uint64, error) {
	var b [8]byte
	if _, err := unix.Read(r.fd, b[:]); err != nil {
		return 0, fmt.Errorf("read the count of a tracepoint's events: %w", err)
	}
	return binary.NativeEndian.Uint64(b[:]), nil
}

// drain reads what waits in the buffer.
func (r *perfRing) drain(each func(hint), lost func(uint64), broken func(error)) {
	head := atomic.LoadUint64(&r.meta.Data_head)
	tail := r.meta.Data_tail
	ne := binary.NativeEndian
	var buf []byte
	for tail < head {
		header := r.bytes(tail, 8, &buf)
		kind, n := ne.Uint32(header), uint64(ne.Uint16(header[6:]))
		if n < 8 || n > head-tail {
			broken(fmt.Errorf("record of %d bytes in the buffer of a perf event, %d are left", n, head-tail))
			tail = head
			break
		}
		body := r.bytes(tail+8, n-8, &buf)
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
			h, err := r.of.hint(at, body[12:12+size])
			if err != nil {
				broken(err)
				continue
			}
			each(h)
		}
	}
	atomic.StoreUint64(&r.meta.Data_tail, tail)
}

// bytes are n of the buffer's from a position on; it wraps.
func (r *perfRing) bytes(at, n uint64, buf *[]byte) []byte {
	from := at % uint64(len(r.data))
	if from+n <= uint64(len(r.data)) {
		return r.data[from : from+n]
	}
	*buf = append((*buf)[:0], r.data[from:]...)
	*buf = append(*buf, r.data[:n-uint64(len(r.data))+from]...)
	return *buf
}
