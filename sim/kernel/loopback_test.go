package kernel

import (
	"context"
	"net"
	"net/netip"
	"testing"
)

func parseAddr(s string) (netip.AddrPort, error) { return netip.ParseAddrPort(s) }

// freePort gives a port of the loopback that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// run starts a generator; stop ends it and waits.
func run(t *testing.T, g *Generator) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
