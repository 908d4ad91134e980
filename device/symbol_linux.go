package device

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

const symbolSize = 128

// maxSymbols bounds the names kept; there are a few hundred places that drop.
const maxSymbols = 4096

// symbols names kernel functions by address. It asks the kernel to print the
// address (bpf_snprintf "%ps") instead of reading /proc/kallsyms: that takes no
// time at start, nothing of memory, and works where kptr_restrict hides the
// addresses and after privileges are gone.
type symbols struct {
	mu sync.Mutex

	program *ebpf.Program
	format  *ebpf.Map
	slot    *ebpf.Map // one entry: address, then its name
	known   map[uint64]string
}

func newSymbols() (_ *symbols, err error) {
	s := &symbols{known: map[uint64]string{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	// The verifier takes a format only from a map that nobody can change.
	s.format, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "decaf_format", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1,
		Flags:    unix.BPF_F_RDONLY_PROG,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: []byte("%ps\x00\x00\x00\x00\x00")}},
	})
	if err != nil {
		return s, fmt.Errorf("create format map: %w", err)
	}
	if err = s.format.Freeze(); err != nil {
		return s, fmt.Errorf("freeze format map: %w", err)
	}
	s.slot, err = ebpf.NewMap(&ebpf.MapSpec{Name: "decaf_symbol", Type: ebpf.Array, KeySize: 4, ValueSize: 8 + symbolSize, MaxEntries: 1})
	if err != nil {
		return s, fmt.Errorf("create symbol map: %w", err)
	}
	s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "decaf_symbol", Type: ebpf.Syscall, License: "GPL", Flags: unix.BPF_F_SLEEPABLE,
		Instructions: asm.Instructions{
			asm.LoadMapValue(asm.R6, s.slot.FD(), 0),
			asm.LoadMem(asm.R1, asm.R6, 0, asm.DWord),
			asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Add.Imm(asm.R1, 8),
			asm.Mov.Imm(asm.R2, symbolSize),
			asm.LoadMapValue(asm.R3, s.format.FD(), 0),
			asm.Mov.Reg(asm.R4, asm.RFP),
			asm.Add.Imm(asm.R4, -8),
			asm.Mov.Imm(asm.R5, 8),
			asm.FnSnprintf.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		return s, fmt.Errorf("load symbol program: %w", err)
	}
	return s, nil
}

// name returns the function that an address returns into, without the suffixes
// that compilers add; "" when the kernel does not know it.
func (s *symbols) name(location uint64) (string, error) {
	s.mu.Lock() // of known, and of the one slot
	defer s.mu.Unlock()
	if n, ok := s.known[location]; ok {
		return n, nil
	}
	value := make([]byte, 8+symbolSize)
	// The address is the one returned to: the call is before it, and may be
	// the last instruction of its function.
	binary.NativeEndian.PutUint64(value, location-1)
	if err := s.slot.Put(uint32(0), value); err != nil {
		return "", fmt.Errorf("name kernel function: %w", err)
	}
	if _, err := s.program.Run(&ebpf.RunOptions{}); err != nil {
		return "", fmt.Errorf("name kernel function: %w", err)
	}
	if err := s.slot.Lookup(uint32(0), &value); err != nil {
		return "", fmt.Errorf("name kernel function: %w", err)
	}
	text, _, _ := bytes.Cut(value[8:], []byte{0})
	n := functionName(string(text))
	if len(s.known) < maxSymbols {
		s.known[location] = n
	}
	return n, nil
}

func (s *symbols) close() {
	if s.program != nil {
		s.program.Close()
	}
	if s.format != nil {
		s.format.Close()
	}
	if s.slot != nil {
		s.slot.Close()
	}
}
