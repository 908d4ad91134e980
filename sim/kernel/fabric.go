package kernel

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"log/slog"
	"net/netip"
)

// ManagementInterface is the name of the out-of-band interface of every node.
// Its packets never meet those of the fabric; agents leave it out of what they
// account for.
const ManagementInterface = "mgmt0"

// MaxNodes bounds the devices and hosts of one fabric; the management namespace
// comes on top.
const MaxNodes = 40

// ErrUnsupported says that this system has no kernel to build a fabric on.
var ErrUnsupported = errors.New("the kernel fabric needs Linux: run on Linux as root, or use the flow-level fabric")

// Options of a fabric.
type Options struct {
	// Seed draws the switches' multipath hash seeds: the same seed gives the same
	// flow the same path.
	Seed uint64
	// Log receives what could not be set but is not fatal; nil discards it.
	Log *slog.Logger
}

// Node is one namespace of the fabric.
type Node struct {
	// Name is the device's or host's; "" is the management namespace.
	Name string
	// NetNS is the open file of the namespace, good for setns(2) for as long as
	// the fabric is open. It is closed on exec.
	NetNS int
	// Inode is the namespace's number, as kernel events carry it.
	Inode uint64
	// ManagementAddr is the node's address on the management network.
	ManagementAddr netip.Addr
}

// Counters are what the kernel counted at the sending end of a directed link.
type Counters struct {
	Packets, Bytes uint64
}

// hashSeed draws a switch's own multipath seed, never 0, which would mean that of
// the whole machine.
func hashSeed(seed uint64, name string) uint32 {
	h := fnv.New64a()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], seed)
	h.Write(b[:])
	h.Write([]byte(name))
	sum := h.Sum64()
	return uint32(sum^sum>>32) | 1
}
