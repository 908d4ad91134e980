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
	// Dump hands over a sample of every connected TCP socket, and of those that
	// listen before, in the network namespace of the calling thread or in the
	// one it was opened for; broken gets what cannot be read.
	Dump(each func(*flowSample), broken func(error)) error
	// Wait hands over the last samples of connections that ended until the
	// deadline.
	Wait(deadline time.Time, each func(*flowSample), broken func(error)) error
	// Stop ends a Wait, from another goroutine.
	Stop()
	// Lost is how many last samples found no room.
	Lost() (uint64, error)
}

// flowKernel is the first choice of a flowReader.
type flowKernel struct {
	maps    flowMaps
	decoder sampleDecoder
	links   []link.Link
	iters   []*link.Iter // one
	buf     []byte
	// missing names the tracepoints this kernel lacks, without which samples
	// say less.
	missing []string
}

// dumpBuffer is as much as the kernel gives an iterator's reader at once.
const dumpBuffer = 8 * 4096

// openFlows loads and attaches the flow programs of p. Last samples gather in a
// buffer of ringBytes from then on; Wait reads them.
func openFlows(p *programs, ringBytes int, types *btf.Cache) (_ *flowKernel, err error) {
	k := &flowKernel{buf: make([]byte, dumpBuffer)}
	defer func() {
		if err != nil {
			k.Close()
		}
	}()
	if k.maps.ring, err = newRing("decaf_flow", ringBytes); err != nil {
		return nil, err
	}
	if k.maps.peak, err = ebpf.NewMap(peakSpec()); err != nil {
		return nil, needsPrivilege("make the map of sockets", err)
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
	for _, one := range []*ebpf.ProgramSpec{s.dump(), s.ended(), s.aborted(), s.peaks()} {
		if one.AttachType == ebpf.AttachTraceRawTp {
			// inet_sock_set_state came with Linux 4.16, tcp_cong_state_set with
			// 5.18, and all TCP does without the latter.
			if _, err := tracepointArgs(spec, one.AttachTo); errors.Is(err, btf.ErrNotFound) {
				k.missing = append(k.missing, one.AttachTo)
				continue
			}
		}
		specs[one.Name] = one
	}
	if k.links, k.iters, err = load(specs, types, nil); err != nil {
		return nil, fmt.Errorf("count flows: %w", err)
	}
	return k, nil
}

// Dump hands over a sample of every connected TCP socket in the network
// namespace of the calling thread, if that is the one watched; broken gets what
// cannot be read.
func (k *flowKernel) Dump(each func(*flowSample), broken func(error)) error {
	it, err := k.iters[0].Open()
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
			s, err := k.decoder.decode(k.buf[at : at+fsBytes])
			if err != nil {
				broken(err)
				continue
			}
			each(&s)
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
			s, err := k.decoder.decode(b)
			if err != nil {
				broken(err)
				return nil
			}
			each(&s)
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
	for _, i := range k.iters {
		errs = append(errs, i.Close())
	}
	if k.maps.ring != nil {
		errs = append(errs, k.maps.ring.Close())
	}
	if k.maps.peak != nil {
		errs = append(errs, k.maps.peak.Close())
	}
	return errors.Join(errs...)
}
