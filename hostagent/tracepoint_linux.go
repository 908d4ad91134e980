package hostagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/perf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// classicByBPF reads classic tracepoints through programs that copy the record:
// they need neither the kernel's types nor a recent kernel (4.7).
var classicByBPF = classicWay{again: openTracepoints, ends: openTracepointEnds}

// hintPrograms are the programs on some classic tracepoints, and where they write.
type hintPrograms struct {
	classics []*classic
	events   *ebpf.Map
	programs []*ebpf.Program
	fds      []int
}

// tracepointHints wakes its reader for each record.
type tracepointHints struct {
	hintPrograms
	reader *perf.Reader
}

// A copied record's bytes: when, which tracepoint, and what it said.
const (
	tpTime   = 0 // u64, CLOCK_MONOTONIC
	tpWhich  = 8 // u64, index in classics
	tpRecord = 16
)

func openTracepoints() (hinter, error) {
	classics, err := readAgain()
	if err != nil {
		return nil, err
	}
	return newTracepointHints(classics)
}

func newTracepointHints(classics []*classic) (_ hinter, err error) {
	t := new(tracepointHints)
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if err := t.makeEvents(classics); err != nil {
		return nil, err
	}
	if t.reader, err = perf.NewReader(t.events, perfPages*os.Getpagesize()); err != nil {
		return nil, needsPrivilege("open the event buffer", err)
	}
	if err := t.start(); err != nil {
		return nil, err
	}
	return t, nil
}

// makeEvents makes the map of what the programs write to.
func (t *hintPrograms) makeEvents(classics []*classic) (err error) {
	// Before Linux 5.11 maps counted against the limit of locked memory.
	rlimit.RemoveMemlock()
	t.classics = classics
	if t.events, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_hints", Type: ebpf.PerfEventArray}); err != nil {
		return needsPrivilege("make the event buffer", err)
	}
	return nil
}

// start loads and attaches the programs.
func (t *hintPrograms) start() error {
	for i, c := range t.classics {
		prog, err := ebpf.NewProgram(c.program(i, t.events))
		if err != nil {
			return needsPrivilege("load a program", err)
		}
		t.programs = append(t.programs, prog)
		if err := t.attach(c, prog); err != nil {
			return needsPrivilege("attach a program to a tracepoint", err)
		}
	}
	return nil
}

// attach runs a program at a tracepoint, on all CPUs.
func (t *hintPrograms) attach(c *classic, prog *ebpf.Program) error {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
		Type: unix.PERF_TYPE_TRACEPOINT, Config: c.id, Sample: 1, Wakeup: 1,
		Sample_type: unix.PERF_SAMPLE_RAW, Size: unix.PERF_ATTR_SIZE_VER1,
	}, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("perf_event_open: %w", err)
	}
	t.fds = append(t.fds, fd)
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, prog.FD()); err != nil {
		return fmt.Errorf("PERF_EVENT_IOC_SET_BPF: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return fmt.Errorf("PERF_EVENT_IOC_ENABLE: %w", err)
	}
	return nil
}

// program copies the record of a tracepoint into events.
func (c *classic) program(index int, events *ebpf.Map) *ebpf.ProgramSpec {
	size := (tpRecord + c.size + 7) &^ 7
	at := func(offset int) int16 { return int16(offset - size) }
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
	}
	// Most connections are established, most errors are not TCP's.
	if c.newState.size == 4 {
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.R6, int16(c.newState.at), asm.Word),
			asm.JNE.Imm(asm.R1, tcpClose, leave))
	}
	if c.protocol.size == 2 {
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.R6, int16(c.protocol.at), asm.Half),
			asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, leave))
	}
	ins = append(ins,
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.RFP, at(tpTime), asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R1, int32(index)),
		asm.StoreMem(asm.RFP, at(tpWhich), asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord))
	// A record's first 8 bytes are not for programs.
	for i := 8; i < c.size; {
		n, width := 8, asm.DWord
		for i%n != 0 || i+n > c.size {
			n /= 2
		}
		switch n {
		case 4:
			width = asm.Word
		case 2:
			width = asm.Half
		case 1:
			width = asm.Byte
		}
		ins = append(ins,
			asm.LoadMem(asm.R1, asm.R6, int16(i), width),
			asm.StoreMem(asm.RFP, at(tpRecord+i), asm.R1, width))
		i += n
	}
	// And have to be set.
	ins = append(ins,
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, at(tpRecord), asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, events.FD()),
		asm.LoadImm(asm.R3, 0xffffffff, asm.DWord), // BPF_F_CURRENT_CPU
		asm.Mov.Reg(asm.R4, asm.RFP),
		asm.Add.Imm(asm.R4, int32(-size)),
		asm.Mov.Imm(asm.R5, int32(size)),
		asm.FnPerfEventOutput.Call(),
		// 0 would keep the event from everybody's perf events on the tracepoint
		// (perf_trace_run_bpf_submit).
		asm.Mov.Imm(asm.R0, 1).WithSymbol(leave),
		asm.Return())
	return &ebpf.ProgramSpec{Name: "decaf_hint", Type: ebpf.TracePoint, Instructions: ins, License: "Dual MIT/GPL"}
}

func (t *tracepointHints) run(each func(hint), lost func(uint64), broken func(error)) error {
	var rec perf.Record
	for {
		switch err := t.reader.ReadInto(&rec); {
		case errors.Is(err, os.ErrClosed), errors.Is(err, perf.ErrFlushed):
			return nil
		case err != nil:
			return fmt.Errorf("read tracepoints: %w", err)
		}
		if rec.LostSamples > 0 {
			lost(rec.LostSamples)
			continue
		}
		t.take(rec.RawSample, each, broken)
	}
}

// take hands on what a copied record says.
func (t *hintPrograms) take(b []byte, each func(hint), broken func(error)) {
	if len(b) < tpRecord || binary.NativeEndian.Uint64(b[tpWhich:]) >= uint64(len(t.classics)) {
		broken(fmt.Errorf("event of %d bytes from no known tracepoint", len(b)))
		return
	}
	take(t.classics[binary.NativeEndian.Uint64(b[tpWhich:])], binary.NativeEndian.Uint64(b[tpTime:]), b[tpRecord:], each, broken)
}

func (t *tracepointHints) stop() {
	for _, fd := range t.fds {
		unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_DISABLE, 0)
	}
	if err := t.reader.Flush(); err != nil {
		t.reader.Close()
	}
}

func (t *tracepointHints) Close() error {
	err := t.hintPrograms.Close()
	if t.reader != nil {
		err = errors.Join(err, t.reader.Close())
	}
	return err
}

// Close detaches the programs.
func (t *hintPrograms) Close() error {
	var errs []error
	for _, fd := range t.fds {
		errs = append(errs, unix.Close(fd))
	}
	for _, p := range t.programs {
		errs = append(errs, p.Close())
	}
	if t.events != nil {
		errs = append(errs, t.events.Close())
	}
	return errors.Join(errs...)
}

// tracepointEnds has one buffer for each CPU.
type tracepointEnds struct {
	hintPrograms
	endRings
	missed uint64
}

func openTracepointEnds() (endsReader, []string, error) { return openEnds(newTracepointEnds) }

func newTracepointEnds(classics []*classic) (_ endsReader, err error) {
	t := new(tracepointEnds)
	t.endRings = endRings{now: monotonic, take: func(_ uint64, b []byte, each func(hint), broken func(error)) {
		t.hintPrograms.take(b, each, broken) // the program says when
	}}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if err := t.makeEvents(classics); err != nil {
		return nil, err
	}
	if err := eachCPU(func(cpu int) error {
		ring, err := openPerfRing(unix.PerfEventAttr{
			Type:        unix.PERF_TYPE_SOFTWARE,
			Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
			Config:      unix.PERF_COUNT_SW_BPF_OUTPUT,
			Sample:      1,
			Sample_type: unix.PERF_SAMPLE_TIME | unix.PERF_SAMPLE_RAW,
			Bits:        unix.PerfBitWatermark,
			Wakeup:      uint32(perfPages * os.Getpagesize() / 2), // of nobody
		}, cpu)
		if err != nil {
			return err
		}
		t.perfRings = append(t.perfRings, ring)
		if err := t.events.Put(uint32(cpu), uint32(ring.fds[0])); err != nil {
			return fmt.Errorf("have programs write to a buffer: %w", err)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if err := t.start(); err != nil {
		return nil, err
	}
	return t, nil
}

// check is drain, and counts what the programs missed: the kernel runs one of a kind
// at a time on a processor. What finds no room is told of in the buffer.
func (t *tracepointEnds) check(each func(hint), lost func(uint64), broken func(error)) error {
	t.drain(each, lost, broken)
	var missed uint64
	for _, p := range t.programs {
		stats, err := p.Stats()
		if err != nil {
			return fmt.Errorf("count what the programs missed: %w", err)
		}
		missed += stats.RecursionMisses
	}
	lost(missed - t.missed)
	t.missed = missed
	return nil
}

// Close detaches the programs and ends the buffers.
func (t *tracepointEnds) Close() error {
	return errors.Join(t.hintPrograms.Close(), t.endRings.Close())
}
