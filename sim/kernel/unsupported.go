//go:build !linux

package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"syscall"

	"decaf/sim/scenario"
	"decaf/topology"
)

// Fabric cannot be built on this system.
type Fabric struct{}

// Active is a fault at work; there is none on this system.
type Active struct{}

// Build fails with [ErrUnsupported].
func Build(context.Context, *topology.Topology, Options) (*Fabric, error) {
	return nil, ErrUnsupported
}

// Topology gives nil.
func (*Fabric) Topology() *topology.Topology { return nil }

// Node gives nil.
func (*Fabric) Node(string) *Node { return nil }

// ManagementAddr gives the zero address.
func (*Fabric) ManagementAddr(string) netip.Addr { return netip.Addr{} }

// Do fails with [ErrUnsupported].
func (*Fabric) Do(string, func() error) error { return ErrUnsupported }

// Start fails with [ErrUnsupported].
func (*Fabric) Start(string, *exec.Cmd) error { return ErrUnsupported }

// LinkCounters fails with [ErrUnsupported].
func (*Fabric) LinkCounters() (map[string]Counters, error) { return nil, ErrUnsupported }

// Apply fails with [ErrUnsupported].
func (*Fabric) Apply(scenario.Fault) (*Active, error) { return nil, ErrUnsupported }

// Close does nothing.
func (*Fabric) Close() error { return nil }

// Stop does nothing.
func (*Active) Stop() error { return nil }

// Truth gives none.
func (*Active) Truth() Truth { return Truth{Err: ErrUnsupported} }

func maxSegment(uintptr) (int, error) { return 1448, nil }

func backOff(_, _ string, _ syscall.RawConn) error { return nil }

func pinProcess(cpu int) error {
	return fmt.Errorf("processor %d: processes are pinned on Linux only; give -1", cpu)
}

// Check gives [ErrUnsupported].
func Check() error { return ErrUnsupported }

func preferProcess() error { return ErrUnsupported }
