package hostagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

// kernel is the source of events: programs on the tracepoints of TCP, for the
// sockets of one network namespace.
type kernel struct {
	layout *layout
	ring   *ebpf.Map
	lost   *ebpf.Map
	links  []link.Link
	reader *ringbuf.Reader
	detach sync.Once
	// missing names the tracepoints this kernel lacks, without which the
	// agent still works.
	missing []string
}

// ownNetNS returns the inode number of the calling thread's network namespace.
func ownNetNS() (uint32, error) {
	fi, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return 0, fmt.Errorf("find own network namespace (is /proc mounted?): %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("find own network namespace: no inode number")
	}
	return uint32(st.Ino), nil
}

// openKernel loads and attaches the programs. Events gather in a buffer of
// ringBytes from then on; Run reads them.
func openKernel(netns uint32, ringBytes int, log *slog.Logger) (_ *kernel, err error) {
	// Before Linux 5.11 maps counted against the limit of locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		log.Debug("cannot raise the limit of locked memory", "err", err)
	}
	// The kernel's types are decoded once for layout and programs alike, and
	// forgotten afterwards: they take some megabytes.
	types := btf.NewCache()
	spec, err := types.Kernel()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's type information: %w: decaf host needs Linux 5.12 or later with CONFIG_DEBUG_INFO_BTF, so that /sys/kernel/btf/vmlinux is there and readable", err)
	}
	l, err := readLayout(spec)
	if err != nil {
		return nil, fmt.Errorf("this kernel's TCP structures are not as expected, please report it with its version: %w", err)
	}
	k := &kernel{layout: l}
	defer func() {
		if err != nil {
			k.Close()
		}
	}()

	k.ring, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_host_ring", Type: ebpf.RingBuf, MaxEntries: uint32(ringBytes)})
	if err != nil {
		return nil, needsPrivilege("make the event buffer", err)
	}
	k.lost, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_host_lost", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, needsPrivilege("make the counter of lost events", err)
	}
	k.reader, err = ringbuf.NewReader(k.ring)
	if err != nil {
		return nil, fmt.Errorf("open the event buffer: %w", err)
	}

	p := &programs{layout: l, netns: netns, ring: k.ring, lost: k.lost}
	specs := map[string]*ebpf.ProgramSpec{}
	for _, one := range []*ebpf.ProgramSpec{p.retransmit(), p.closed(), p.synAck()} {
		// readLayout has insisted on the first; the others came with Linux 4.16.
		if _, err := tracepointArgs(spec, one.AttachTo); err != nil {
			k.missing = append(k.missing, one.AttachTo)
			log.Warn("this kernel lacks a tracepoint; going on without", "tracepoint", one.AttachTo, "err", err)
			continue
		}
		specs[one.AttachTo] = one
	}
	loaded, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{Programs: specs}, ebpf.CollectionOptions{Cache: types})
	if err != nil {
		return nil, needsPrivilege("load the programs", err)
	}
	defer loaded.Close() // the links hold the programs
	for name, prog := range loaded.Programs {
		at, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			return nil, needsPrivilege("attach the program to "+name, err)
		}
		k.links = append(k.links, at)
	}
	return k, nil
}

// needsPrivilege says what to do about a refusal by the kernel.
func needsPrivilege(doing string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s: %w: run decaf host as root, or give it the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_RAW", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Run hands every event to handle until ctx is done, and then what is left in
// the buffer; broken gets what cannot be read. It must return before Close is
// called.
func (k *kernel) Run(ctx context.Context, handle func(event), broken func(error)) error {
	stop := context.AfterFunc(ctx, k.wake)
	defer stop()

	var rec ringbuf.Record
	for {
		if err := k.reader.ReadInto(&rec); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read kernel events: %w", err)
		}
		e, err := decodeEvent(rec.RawSample, k.layout.caState)
		if err != nil {
			broken(err)
			continue
		}
		handle(e)
	}
}

// wake ends a waiting Run once it has read what is there. Detaching first, so
// that nothing more comes.
func (k *kernel) wake() {
	k.unlink()
	if err := k.reader.Flush(); err != nil {
		k.reader.Close()
	}
}

// unlink detaches the programs, once.
func (k *kernel) unlink() error {
	var errs []error
	k.detach.Do(func() {
		for _, l := range k.links {
			errs = append(errs, l.Close())
		}
	})
	return errors.Join(errs...)
}

// Lost is how many events found the buffer full, since openKernel.
func (k *kernel) Lost() (uint64, error) {
	var n uint64
	if err := k.lost.Lookup(uint32(0), &n); err != nil {
		return 0, fmt.Errorf("read the counter of lost events: %w", err)
	}
	return n, nil
}

// Close detaches the programs.
func (k *kernel) Close() error {
	var errs []error
	errs = append(errs, k.unlink())
	if k.reader != nil {
		errs = append(errs, k.reader.Close())
	}
	if k.ring != nil {
		errs = append(errs, k.ring.Close())
	}
	if k.lost != nil {
		errs = append(errs, k.lost.Close())
	}
	return errors.Join(errs...)
}
