//go:build !linux

package tracer

import (
	"errors"
	"net/netip"
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
func (*endpoint) lost() uint64 { return 0 }
func (*endpoint) close() error { return nil }
