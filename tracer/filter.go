package tracer

import (
	"golang.org/x/net/bpf"
)

// The socket filters let through only ICMP errors about TCP packets, in the
// kernel, so that pings and neighbour discovery cost this process nothing.

// filter4 sees the IPv4 header first (raw(7) delivers with it).
func filter4() ([]bpf.RawInstruction, error) {
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadMemShift{Off: 0},                              // X = length of the IP header
		bpf.LoadIndirect{Off: 0, Size: 1},                     // ICMP type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 11, SkipTrue: 2}, // time exceeded
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 3, SkipTrue: 1},  // destination unreachable
		bpf.RetConstant{Val: 0},
		bpf.LoadIndirect{Off: 8 + 9, Size: 1}, // protocol of the quoted packet
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 16},
	})
}

// filter6 sees the ICMPv6 header first (RFC 3542 section 3). Our probes carry
// no extension headers, so the quoted next header is the transport.
func filter6() ([]bpf.RawInstruction, error) {
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},                    // ICMPv6 type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 3, SkipTrue: 2}, // time exceeded
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipTrue: 1}, // destination unreachable
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: 8 + 6, Size: 1}, // next header of the quoted packet
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 16},
	})
}
