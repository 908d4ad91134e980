package kernel

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// corrupt flips a bit of packets on a link, so that their checksum no longer fits. A
// cable of two veths has no frame check, so the damage goes unseen to the end of the
// path: no device and no interface counter tells, the host that gets the packet drops
// it and counts TcpInCsumErrors or UdpInCsumErrors.
//
// Between veths a packet has no checksum at all before it leaves the machine, and is
// trusted. So for the time of the fault the sending end of the link fills it in.
type corrupt struct {
	*wire
	space *space // of the sending end
	name  string
	was   bool // the sending end left checksums open
}

func (f *Fabric) corrupt(g *target) (_ effect, err error) {
	n, err := f.node(g.link.From.Node)
	if err != nil {
		return nil, err
	}
	e := &corrupt{space: n.space, name: g.link.From.Name}
	if e.was, err = e.open(); err != nil {
		return nil, err
	}
	if err := e.leaveOpen(false); err != nil {
		return nil, err
	}
	if e.wire, err = f.wire(g, g.link, harm{corrupt: true}); err != nil {
		return nil, errors.Join(err, e.leaveOpen(e.was))
	}
	return e, nil
}

func (e *corrupt) undo() error { return errors.Join(e.wire.undo(), e.leaveOpen(e.was)) }

// Commands of include/uapi/linux/ethtool.h.
const (
	getSendChecksum = 0x16 // ETHTOOL_GTXCSUM
	setSendChecksum = 0x17 // ETHTOOL_STXCSUM
)

// open says whether the sending end leaves checksums to hardware that it has not.
func (e *corrupt) open() (bool, error) {
	value := struct{ command, data uint32 }{command: getSendChecksum}
	err := e.ethtool(unsafe.Pointer(&value))
	if err != nil {
		return false, fmt.Errorf("read checksum offload of %s: %w", e.name, err)
	}
	return value.data != 0, nil
}

func (e *corrupt) leaveOpen(open bool) error {
	value := struct{ command, data uint32 }{command: setSendChecksum}
	if open {
		value.data = 1
	}
	if err := e.ethtool(unsafe.Pointer(&value)); err != nil {
		return fmt.Errorf("set checksum offload of %s: %w", e.name, err)
	}
	return nil
}

func (e *corrupt) ethtool(value unsafe.Pointer) error {
	return e.space.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return offloadCommand(fd, e.name, value)
	})
}
