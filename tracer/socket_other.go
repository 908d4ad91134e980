//go:build !linux

package tracer

import (
	"errors"
	"net/netip"
	"time"

	"decaf/api/packet"
)

// endpoint is not there on systems whose raw sockets we have not tried.
type endpoint struct{ v6 bool }

func openEndpoint(bool, int) (*endpoint, error) {
	return nil, errors.New("tracing needs Linux raw sockets: run the agent on Linux")
}

func (*endpoint) send([]byte, netip.Addr) error { return errors.ErrUnsupported }
func (*endpoint) read([]byte) ([]byte, netip.Addr, error) {
	return nil, netip.Addr{}, errors.ErrUnsupported
}
func (*endpoint) glance(time.Duration, func() bool, func([]byte, netip.Addr)) {}

func (*endpoint) lost() uint64 { return 0 }
func (*endpoint) close() error { return nil }

type watch struct{ sampled bool }

func openWatch(watchFor) (*watch, error)   { return nil, errors.ErrUnsupported }
func (*watch) read([]byte) ([]byte, error) { return nil, errors.ErrUnsupported }
func (*watch) drain(func([]byte)) error    { return errors.ErrUnsupported }
func (*watch) attend(packet.Flow) error    { return errors.ErrUnsupported }
func (*watch) lost() uint64                { return 0 }
func (*watch) close() error                { return nil }

type (
	wire struct{}
	way  struct{}
)

func openWire() (*wire, error)              { return nil, errors.ErrUnsupported }
func (*wire) way(packet.Flow) (*way, error) { return nil, errors.ErrUnsupported }
func (*wire) send([]byte, *way) error       { return errors.ErrUnsupported }
func (*wire) close() error                  { return nil }
func (*wire) hear(packet.Flow, *trace) (func(), error) {
	return nil, errors.ErrUnsupported
}

func openConntrack() (Translator, error) { return nil, errors.ErrUnsupported }

func connected(packet.Flow) bool { return false }
