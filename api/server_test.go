package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"decaf/api/service"
)

func newServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := NewServer(cfg, newFake(t), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a server and returns a function that stops it and gives Run's error.
func start(t *testing.T, s *Server) (stop func() error) {
	t.Helper()
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("run did not end")
		}
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

func TestRefusesOtherMachinesWithoutTLS(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0"} {
		s := newServer(t, Config{Listen: listen})
		err := s.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "refusing to listen on "+listen+" without TLS") {
			t.Errorf("%s: %v", listen, err)
		}
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := newServer(t, Config{Listener: l}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("a given listener: %v", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the refused listener is still open")
	}
}

func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = newServer(t, Config{Listen: l.Addr().String()}).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "choose another address") {
		t.Error(err)
	}
}

func TestRunServesAndStops(t *testing.T) {
	s := newServer(t, Config{Listen: "127.0.0.1:0"})
	stop := start(t, s)
	if got := request(t, "GET", s.URL()+"/api/v1/links", "", ""); got.status != 200 {
		t.Fatal(got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	c, err := NewClient(s.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Get(t.Context(), "links", nil, &List[LinkView]{}); err == nil || !strings.Contains(err.Error(), "start one with `decaf serve`") {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ca.Issue("api", "127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	user, err := ca.Issue("admin.noc")
	if err != nil {
		t.Fatal(err)
	}
	for _, demand := range []bool{false, true} {
		s := newServer(t, Config{Listen: "0.0.0.0:0", TLS: &server, ClientCerts: demand})
		start(t, s)
		_, port, err := net.SplitHostPort(s.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		url := "https://127.0.0.1:" + port
		out, _, err := run(t, "links", "--server", url, "--ca", user.CA, "--cert", user.Cert, "--key", user.Key)
		if err != nil || !strings.Contains(out, "p0-t1-0>t2-1") {
			t.Errorf("demand %v: %v %s", demand, err, out)
		}
		if _, _, err = run(t, "links", "--server", url); err == nil || !strings.Contains(err.Error(), "give its authority with --ca") {
			t.Errorf("unknown authority: %v", err)
		}
		_, _, err = run(t, "links", "--server", url, "--ca", user.CA)
		if (err != nil) != demand {
			t.Errorf("no client certificate, demand %v: %v", demand, err)
		}
		if _, _, err = run(t, "links", "--server", "http://127.0.0.1:"+port); err == nil {
			t.Error("plain HTTP to a TLS port")
		}
	}
}

func TestTLSFilesMissing(t *testing.T) {
	s := newServer(t, Config{Listen: "127.0.0.1:0", TLS: &service.TLSFiles{CA: "no-ca.pem", Cert: "no.pem", Key: "no.key"}})
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "api: tls:") {
		t.Error(err)
	}
}

// A client that stops half way through a request holds nothing up.
func TestStopsWithASlowClient(t *testing.T) {
	s := newServer(t, Config{Listen: "127.0.0.1:0"})
	stop := start(t, s)
	conn, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("POST /api/v1/reports HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

var _ http.Handler = (*service.Health)(nil)
