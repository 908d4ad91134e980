package hostagent

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// A flowReader is a source of flow samples, for one goroutine but for Stop and
// Lost.
type flowReader interface {
	// Dump hands over samples of sockets, in the network namespace of the calling
	// thread or in the one it was opened for; broken gets what cannot be read.
	// After one that failed some news may be lost: the next is to be dumpAll. A
	// sample is each's until that returns.
	Dump(of dumped, each func(*flowSample), broken func(error)) error
	// Lists says whether dumpListed is to be had.
	Lists() bool
	// Wait hands over the last samples of connections that ended until the
	// deadline.
	Wait(deadline time.Time, each func(*flowSample), broken func(error)) error
	// Stop ends a Wait, from another goroutine.
	Stop()
	// Lost is how many last samples found no room.
	Lost() (uint64, error)
}

// dumped says of which sockets there are samples.
type dumped int

const (
	// Those that listen, then all that are connected.
	dumpAll dumped = iota
	// Those that listen, then those of which there is news since the Dump that
	// showed them last.
	dumpChanged
	// Of the latter only those of which there is more news than that a process
	// read or wrote without a packet that came in; of all namespaces watched.
	dumpListed
)

// flowKernel is the first choice of a flowReader.
type flowKernel struct {
	maps    flowMaps
	decoder sampleDecoder
	links   []link.Link
	over    []*link.Iter // all sockets: dump
	news    []*link.Iter // the list of those with news: listed, then sweep; or none
	buf     []byte
	sample  flowSample
	all     bool // what maps.all says
	// missing names the tracepoints this kernel lacks, without which samples
	// say less.
	missing []string
}

// dumpBuffer is as much as the kernel gives an iterator's reader at once.
const dumpBuffer = 8 * 4096

// openFlows loads and attaches the flow programs of p; peaks is one of those of
// tablesettings.go. Last samples gather in a buffer of ringBytes from then on;
// Wait reads them.
func openFlows(p *programs, peaks string, ringBytes int, types *btf.Cache) (_ *flowKernel, err error) {
	k := &flowKernel{buf: make([]byte, dumpBuffer)}
	defer func() {
		if err != nil {
			k.Close()
		}
	}()
	if k.maps.ring, err = newRing("decaf_flow", ringBytes); err != nil {
		return nil, err
	}
	if k.maps.all, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_flow_all", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}); err != nil {
		return nil, needsPrivilege("make the word that asks for all sockets", err)
	}
	spec, err := types.Kernel()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's type information: %w", err)
	}
	l, err := readFlowLayout(spec)
	if err != nil {
		return nil, fmt.Errorf("this kernel's TCP structures are not as expected, please report it with its version: %w", err)
	}
	if k.decoder, err = newSampleDecoder(l.chronoType); err != nil {
		return nil, err
	}
	s := &sampler{programs: p, m: k.maps, flow: l}
	specs := map[string]*ebpf.ProgramSpec{}
	for _, one := range []*ebpf.ProgramSpec{s.dump(), s.ended(), s.aborted(), s.peaks(peaks != peaksReductions)} {
		if one.AttachType == ebpf.AttachTraceRawTp {
			// inet_sock_set_state and tcp_probe came with Linux 4.16,
			// tcp_cong_state_set with 5.18.
			if _, err := tracepointArgs(spec, one.AttachTo); errors.Is(err, btf.ErrNotFound) {
				k.missing = append(k.missing, one.AttachTo)
				continue
			}
		}
		specs[one.Name] = one
	}
	lists := specs["decaf_flow_peak"] != nil && peaks != peaksReductions
	if lists {
		again := s.again()
		specs[again.Name] = again
	}
	if k.links, k.over, err = load(specs, types, nil); err != nil {
		return nil, fmt.Errorf("count flows: %w", err)
	}
	if !lists {
		return k, nil
	}
	for _, one := range []*ebpf.ProgramSpec{s.listed(), s.sweep()} {
		_, its, err := load(map[string]*ebpf.ProgramSpec{one.Name: one}, types, p.news)
		k.news = append(k.news, its...)
		if err != nil {
			return nil, fmt.Errorf("count flows: %w", err)
		}
	}
	return k, nil
}

// Lists is flowReader's.
func (k *flowKernel) Lists() bool { return len(k.news) > 0 }

// Dump is flowReader's.
func (k *flowKernel) Dump(of dumped, each func(*flowSample), broken func(error)) error {
	if all := of == dumpAll; all != k.all {
		if err := k.maps.all.Put(uint32(0), uint32(btoi(all))); err != nil {
			return fmt.Errorf("ask for all sockets: %w", err)
		}
		k.all = all
	}
	if of != dumpListed {
		return k.read(k.over[0], each, broken)
	}
	return errors.Join(k.read(k.news[0], each, broken), k.read(k.news[1], each, broken))
}

// read reads what an iterator shows.
func (k *flowKernel) read(what *link.Iter, each func(*flowSample), broken func(error)) error {
	it, err := what.Open()
	if err != nil {
		return fmt.Errorf("list the sockets: %w", err)
	}
	defer it.Close()
	held := 0
	for {
		n, err := it.Read(k.buf[held:])
		held += n
		whole := held / fsBytes * fsBytes
		for at := 0; at < whole; at += fsBytes {
			if err := k.decoder.decode(k.buf[at:at+fsBytes], &k.sample); err != nil {
				broken(err)
				continue
			}
			each(&k.sample)
		}
		held = copy(k.buf, k.buf[whole:held])
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("list the sockets: %w", err)
		}
	}
}

// Wait hands over the last samples of sockets closed until the deadline; Stop
// ends it early. Many are read long after the fact, in time for the deadline.
func (k *flowKernel) Wait(deadline time.Time, each func(*flowSample), broken func(error)) error {
	for done := false; !done; {
		if err := k.maps.ring.wait(deadline); err != nil {
			return err
		}
		done = k.maps.ring.stopped.Load() || !time.Now().Before(deadline)
		err := k.maps.ring.each(func(b []byte) error {
			if err := k.decoder.decode(b, &k.sample); err != nil {
				broken(err)
				return nil
			}
			each(&k.sample)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Stop ends a Wait, from another goroutine, once it has read what is there.
func (k *flowKernel) Stop() { k.maps.ring.stop() }

// Lost is how many last samples found the buffer full.
func (k *flowKernel) Lost() (uint64, error) { return k.maps.ring.Lost() }

// Close detaches the programs.
func (k *flowKernel) Close() error {
	var errs []error
	for _, l := range k.links {
		errs = append(errs, l.Close())
	}
	for _, i := range append(k.over, k.news...) {
		errs = append(errs, i.Close())
	}
	if k.maps.ring != nil {
		errs = append(errs, k.maps.ring.Close())
	}
	if k.maps.all != nil {
		errs = append(errs, k.maps.all.Close())
	}
	return errors.Join(errs...)
}
