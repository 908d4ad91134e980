package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"decaf/api/service"
)

// Config says where and how the API listens.
type Config struct {
	// Listen is host:port; port 0 takes a free one, see Server.URL.
	Listen string
	// TLS is needed for any address that other machines can reach.
	TLS *service.TLSFiles
	// ClientCerts asks every client for a certificate of TLS.CA.
	ClientCerts bool
	// Listener, if not nil, is used in place of Listen; the server closes it.
	Listener net.Listener
	// Names are host names by which browsers may reach the server when it has
	// no TLS, besides localhost and plain addresses: that of a proxy on this
	// machine, for one. Any other is refused, so that no web site can make its
	// own name lead here and read on (DNS rebinding).
	Names []string
	// Settings keeps what host agents are told; nil keeps nothing.
	Settings AgentSettings
	// RequestTimeout bounds the work on one request.
	RequestTimeout time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// DefaultConfig listens on loopback without TLS.
func DefaultConfig() Config {
	return Config{Listen: "127.0.0.1:8080", RequestTimeout: 20 * time.Second}
}

// Server is the HTTP API and the page. Make it with NewServer, then Listen
// and Run, or Run alone.
type Server struct {
	cfg     Config
	backend Backend
	health  *service.Health
	log     *slog.Logger
	page    *page

	listener net.Listener
}

// NewServer makes a server that does nothing until Listen or Run. It adds the
// backend to what /readyz asks.
func NewServer(cfg Config, backend Backend, health *service.Health, log *slog.Logger) (*Server, error) {
	def := DefaultConfig()
	if cfg.Listen == "" {
		cfg.Listen = def.Listen
	}
	if cfg.RequestTimeout <= 0 {
		cfg.RequestTimeout = def.RequestTimeout
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if health == nil {
		health = service.NewHealth()
	}
	p, err := newPage()
	if err != nil {
		return nil, err
	}
	health.Ready("correlator", backend.Ready)
	return &Server{cfg: cfg, backend: backend, health: health, log: log, page: p}, nil
}

// Listen opens the listening socket, so that URL is known before Run. It
// refuses an address that other machines can reach when there is no TLS.
func (s *Server) Listen() error {
	if s.listener != nil {
		return nil
	}
	l := s.cfg.Listener
	where := s.cfg.Listen
	if l != nil {
		where = l.Addr().String()
	}
	if s.cfg.TLS == nil && !service.Loopback(where) {
		if l != nil {
			l.Close()
		}
		return fmt.Errorf("api: refusing to listen on %s without TLS: other machines could read and forge reports; set tls with ca, cert and key, or listen on 127.0.0.1", where)
	}
	var tlsConfig *tls.Config
	if s.cfg.TLS != nil {
		var err error
		// A certificate that a client has says who it is (agentsettings.go).
		if tlsConfig, err = s.cfg.TLS.Server(s.cfg.ClientCerts || s.cfg.TLS.CA != ""); err != nil {
			if l != nil {
				l.Close()
			}
			return fmt.Errorf("api: tls: %w", err)
		}
		if !s.cfg.ClientCerts && s.cfg.TLS.CA != "" {
			tlsConfig.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", s.cfg.Listen); err != nil {
			return fmt.Errorf("api: cannot listen on %s: %w; choose another address with listen", s.cfg.Listen, err)
		}
	}
	if tlsConfig != nil {
		// HTTP/2 needs its name offered when the listener is wrapped by hand.
		tlsConfig.NextProtos = []string{"h2", "http/1.1"}
		l = tls.NewListener(l, tlsConfig)
	}
	s.listener = l
	return nil
}

// URL is where the server listens, "http://127.0.0.1:8080"; empty before Listen.
func (s *Server) URL() string {
	if s.listener == nil {
		return ""
	}
	scheme := "http"
	if s.cfg.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + s.listener.Addr().String()
}

// Run serves until ctx is done, then lets requests under way end for a few
// seconds. It returns nil when it was asked to stop.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      s.cfg.RequestTimeout + 15*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.log.Info("api listens", "url", s.URL())
	stopped := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
		case <-done:
		}
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err := srv.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close()
		}
		stopped <- err
	}()
	err := srv.Serve(s.listener)
	close(done)
	if stopErr := <-stopped; errors.Is(err, http.ErrServerClosed) {
		err = stopErr
	}
	if err != nil {
		return fmt.Errorf("api: serve %s: %w", s.URL(), err)
	}
	return nil
}
