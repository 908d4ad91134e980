package bus

import (
	"net"
	"strings"
	"testing"
	"time"

	"decaf/api/service"
)

func TestServerRefusesWhatItCannotDoSafely(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	used := t.TempDir()
	startServer(t, ServerConfig{Dir: used})
	f := func(cfg ServerConfig, says ...string) {
		t.Helper()
		s, err := StartServer(cfg, quiet())
		if err == nil {
			s.Stop()
			t.Errorf("started; want an error that says %q", says)
			return
		}
		for _, w := range says {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q does not say %q", err, w)
			}
		}
	}
	ok := func(listen string) ServerConfig {
		return ServerConfig{Site: "east", Dir: t.TempDir(), Listen: listen, MaxBytes: mib}
	}
	f(ok("0.0.0.0:0"), "without tls", "127.0.0.1")
	f(ok(":0"), "without tls")
	f(ok("[::]:0"), "without tls")
	f(ok("192.0.2.1:4222"), "without tls")
	f(ok("127.0.0.1"), "host:port")
	f(ok("127.0.0.1:port"), "no number")
	f(ok(busy.Addr().String()), "in use", "choose another address")
	f(ServerConfig{Site: "east"}, "data directory")
	f(ServerConfig{Site: "east", Dir: t.TempDir(), MaxBytes: -1}, "max_bytes: -1", "0 for 1073741824")
	f(ServerConfig{Site: "east", Dir: t.TempDir(), MaxAge: -time.Hour}, "max_age: -1h0m0s", "0 for 168h0m0s")
	f(ServerConfig{Site: "a.b", Dir: t.TempDir()}, `site "a.b"`)
	f(ServerConfig{Site: "east", Dir: used}, "in use by another process")
	f(ServerConfig{Site: "east", Dir: t.TempDir(), Listen: "127.0.0.1:0", TLS: &service.TLSFiles{CA: "a", Cert: "b", Key: "c"}}, "load tls certificate b")
	// A failed start leaves the directory free.
	cfg := ok(busy.Addr().String())
	f(cfg, "in use")
	cfg.Listen = ""
	startServer(t, cfg)
}

func TestServerStopsTwice(t *testing.T) {
	s := startServer(t, ServerConfig{})
	s.Stop()
	s.Stop()
	if _, err := Connect(t.Context(), ConnConfig{Server: s, Site: "east"}, quiet()); err == nil {
		t.Error("connected in process to a server that has stopped")
	}
}

func TestConnectRefusesWhatTryingAgainCannotMend(t *testing.T) {
	f := func(cfg ConnConfig, says string) {
		t.Helper()
		c, err := Connect(t.Context(), cfg, quiet())
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want one that says %q", err, says)
		}
	}
	f(ConnConfig{Site: "east"}, "it is empty")
	f(ConnConfig{Site: "", URL: "nats://127.0.0.1:1", Name: "host.a"}, "site")
	f(ConnConfig{Site: "east", URL: "nats://127.0.0.1:1", Name: "host.a", MaxBytes: -1}, "max_bytes: -1")
	f(ConnConfig{Site: "east", URL: "nats://127.0.0.1:1", Name: "host.a", MaxAge: -1}, "max_age: -1ns")
	f(ConnConfig{Site: "east", URL: "nats://127.0.0.1:1", Name: "a"}, "no name of a client")
	f(ConnConfig{Site: "east", URL: "nats://bad host:1", Name: "host.a"}, "bad host")
	f(ConnConfig{Site: "east", URL: "tls://127.0.0.1:1", Name: "host.a", TLS: &service.TLSFiles{CA: "nosuch.pem"}}, "nosuch.pem")
}
