package tracer

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/bpf"

	"decaf/api/packet"
)

// tap hears ICMP errors below this host's own address translation. Where that
// gave a flow another destination, it makes every error about the flow one from
// the address that the flow was opened to, so that above it all switches look
// like that (nf_nat_icmp_reply_translation). Its sockets are opened when first
// needed, and stay.
type tap struct {
	mu      sync.Mutex
	watches [2]*watch // IPv4, IPv6
	of      map[packet.Flow]*trace
	closed  bool
	reading sync.WaitGroup
}

// hear hands to a trace the errors about a flow on the wire, until stop.
func (w *wire) hear(f packet.Flow, tr *trace) (stop func(), err error) {
	t := &w.tap
	t.mu.Lock()
	defer t.mu.Unlock()
	i := 0
	if f.Is6() {
		i = 1
	}
	switch {
	case t.closed:
		return nil, errors.New("the tracer was closed")
	case t.watches[i] == nil:
		err := w.inside(func() (err error) {
			t.watches[i], err = openWatch(watchFor{v6: f.Is6(), filter: tapFilter})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("hear ICMP below this host's address translation: %w", err)
		}
		t.reading.Go(func() { t.read(t.watches[i]) })
	}
	if t.of == nil {
		t.of = make(map[packet.Flow]*trace)
	}
	t.of[f] = tr
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.of[f] == tr {
			delete(t.of, f)
		}
	}, nil
}

// read reads a watch until it is closed.
func (t *tap) read(w *watch) {
	buf := make([]byte, 2048)
	for broken := 0; ; {
		b, err := w.read(buf)
		now := time.Now()
		if err != nil {
			// An interface that went down, say, is told once.
			if broken++; broken == 100 || t.isClosed() {
				return
			}
			continue
		}
		broken = 0
		from, b := tapped(b)
		e, err := packet.ParseICMPError(from, b, w.v6)
		if err != nil {
			continue // the receiver above counts it
		}
		t.mu.Lock()
		tr := t.of[e.Quoted.Flow]
		t.mu.Unlock()
		if tr != nil {
			tr.hear(e, now, true)
		}
	}
}

// tapped gives the source of a packet that the filter let through, and what
// follows its IP header.
func tapped(b []byte) (netip.Addr, []byte) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[12:16])), b[min(int(b[0]&0xf)*4, len(b)):]
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[8:24])), b[40:]
	}
	return netip.Addr{}, nil
}

func (t *tap) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

func (t *tap) close() error {
	t.mu.Lock()
	t.closed = true
	var err error
	for _, w := range t.watches {
		if w != nil {
			err = errors.Join(err, w.close())
		}
	}
	t.mu.Unlock()
	t.reading.Wait()
	return err
}

// tapFilter lets through what the receivers' filters do, whole packets with their
// IP header; no fragments and no IPv6 extension headers.
func tapFilter(v6 bool) ([]bpf.RawInstruction, error) {
	protocol, unfragmented, header, kinds, quoted := bpf.LoadAbsolute{Off: 9, Size: 1}, []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 0x1fff, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}, bpf.Instruction(bpf.LoadMemShift{Off: 0}), [2]uint32{11, 3}, uint32(8+9)
	icmp := uint32(1)
	if v6 {
		protocol, unfragmented, header = bpf.LoadAbsolute{Off: 6, Size: 1}, nil, bpf.LoadConstant{Dst: bpf.RegX, Val: 40}
		kinds, quoted, icmp = [2]uint32{3, 1}, 8+6, 58
	}
	list := []bpf.Instruction{
		protocol,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmp, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}
	list = append(append(list, unfragmented...),
		header,
		bpf.LoadIndirect{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: kinds[0], SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: kinds[1], SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.LoadIndirect{Off: quoted, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(packet.TCP), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 16},
	)
	return bpf.Assemble(list)
}
