package bus

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"decaf/api/service"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"
)

const (
	// syncInterval is how often JetStream puts evidence on disk; its own
	// default is two minutes.
	syncInterval = 2 * time.Second
	startLimit   = 10 * time.Second
	mib          = 1 << 20
)

// ServerConfig describes an embedded NATS server with JetStream. Zero MaxBytes
// and MaxAge mean the defaults.
type ServerConfig struct {
	// Listen is host:port; port 0 draws one; empty serves this process only.
	Listen string
	// Dir holds JetStream's store. One server at a time.
	Dir string
	// TLS is required off loopback. Clients then need certificates signed by
	// its CA, named host.<name>, collector.<name> or admin.<name>.
	TLS  *service.TLSFiles
	Site string
	// MaxBytes and MaxAge bound the evidence stream: the oldest goes first.
	MaxBytes int64
	MaxAge   time.Duration
	// MayConnect narrows who is let in beyond a valid certificate, say to the
	// hosts of the topology. nil lets in every name. role is RoleHost,
	// RoleCollector or RoleAdmin. It must be safe for concurrent use.
	MayConnect func(role, name string) bool
}

// DefaultServerConfig serves this process only and keeps evidence for a week
// or 1 GiB. Site and Dir are still to be given.
func DefaultServerConfig() ServerConfig {
	return ServerConfig{MaxBytes: 1 << 30, MaxAge: 7 * 24 * time.Hour}
}

// checkBounds says what is wrong with the bounds of the evidence stream: NATS takes
// less than nothing for no bound.
func checkBounds(bytes int64, age time.Duration) error {
	switch {
	case bytes < 0:
		return fmt.Errorf("nats: max_bytes: %d: give how much evidence to keep at most, or 0 for %d", bytes, DefaultServerConfig().MaxBytes)
	case age < 0:
		return fmt.Errorf("nats: max_age: %s: give how long to keep evidence at most, or 0 for %s", age, DefaultServerConfig().MaxAge)
	}
	return nil
}

// Server is an embedded NATS server.
type Server struct {
	cfg   ServerConfig
	ns    *server.Server
	token string
	url   string
	lock  *os.File
	stop  sync.Once
}

// StartServer returns when the server takes connections. An address off
// loopback without TLS, a directory in use by another server, or a port in use
// are errors.
func StartServer(cfg ServerConfig, log *slog.Logger) (*Server, error) {
	def := DefaultServerConfig()
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = def.MaxBytes
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = def.MaxAge
	}
	if err := checkSite(cfg.Site); err != nil {
		return nil, err
	}
	if err := checkBounds(cfg.MaxBytes, cfg.MaxAge); err != nil {
		return nil, err
	}
	if cfg.Dir == "" {
		return nil, errors.New("nats server: no data directory given: name one to keep evidence in")
	}
	s := &Server{cfg: cfg}
	opts, err := s.options(log)
	if err != nil {
		return nil, err
	}
	if s.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	if s.ns, err = server.NewServer(opts); err != nil {
		s.lock.Close()
		return nil, fmt.Errorf("nats server: %w", err)
	}
	l := &serverLog{log: log.With("part", "nats"), fatal: make(chan string, 1)}
	s.ns.SetLoggerV2(l, false, false, false)
	s.ns.Start() // returns once all listeners are up, or have failed
	select {
	case why := <-l.fatal:
		s.Stop()
		return nil, fmt.Errorf("nats server at %q: %s: choose another address or end what uses it", cfg.Listen, why)
	default:
	}
	if !s.ns.ReadyForConnections(startLimit) {
		s.Stop()
		return nil, fmt.Errorf("nats server at %q: not ready after %s: see the log for why", cfg.Listen, startLimit)
	}
	if !s.ns.JetStreamEnabled() {
		s.Stop()
		return nil, fmt.Errorf("nats server: JetStream did not start with its store in %s: see the log for why", cfg.Dir)
	}
	s.url = s.address()
	return s, nil
}

func (s *Server) options(log *slog.Logger) (*server.Options, error) {
	var secret [32]byte
	rand.Read(secret[:]) // never fails since Go 1.24
	s.token = hex.EncodeToString(secret[:])
	opts := &server.Options{
		ServerName:             "decaf-" + s.cfg.Site,
		NoSigs:                 true,
		NoLog:                  true, // ours is set by hand
		JetStream:              true,
		StoreDir:               s.cfg.Dir,
		JetStreamMaxMemory:     64 * mib, // consumers keep their state in memory
		JetStreamMaxStore:      s.cfg.MaxBytes + bucketsBytes() + 64*mib,
		DisableJetStreamBanner: true,
		// SyncAlways is for the KV buckets; the evidence stream opts out of
		// it with its persist mode and is synced every SyncInterval
		// (nats-server v2.15.2, server/stream.go:1106-1118).
		SyncAlways:   true,
		SyncInterval: syncInterval,
		PingInterval: 20 * time.Second,
		MaxPingsOut:  2,
	}
	if s.cfg.Listen == "" {
		opts.DontListen = true
	} else {
		host, port, err := net.SplitHostPort(s.cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("nats server: address %q: %w: write host:port", s.cfg.Listen, err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("nats server: address %q: port %q is no number from 0 to 65535", s.cfg.Listen, port)
		}
		opts.Host, opts.Port = host, int(n)
		if host == "" {
			opts.Host = "0.0.0.0"
		}
		if n == 0 {
			opts.Port = server.RANDOM_PORT
		}
		if s.cfg.TLS == nil && !service.Loopback(s.cfg.Listen) {
			return nil, fmt.Errorf("nats server: refusing to listen on %s without tls: give tls ca, cert and key, or listen on 127.0.0.1", s.cfg.Listen)
		}
	}
	if s.cfg.TLS != nil {
		c, err := s.cfg.TLS.Server(true)
		if err != nil {
			return nil, fmt.Errorf("nats server: %w", err)
		}
		opts.TLS, opts.TLSVerify, opts.TLSConfig, opts.TLSTimeout = true, true, c, 5
		opts.AuthTimeout = 6
	}
	opts.CustomClientAuthentication = &auth{
		site: s.cfg.Site, token: s.token, tls: s.cfg.TLS != nil, may: s.cfg.MayConnect, log: log,
	}
	return opts, nil
}

// URL is where clients connect: "tls://host:port", "nats://host:port", or ""
// when the server serves this process only.
func (s *Server) URL() string { return s.url }

func (s *Server) address() string {
	if s.cfg.Listen == "" {
		return ""
	}
	addr, ok := s.ns.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	scheme := "nats"
	if s.cfg.TLS != nil {
		scheme = "tls"
	}
	host, _, _ := net.SplitHostPort(s.cfg.Listen)
	if host == "" {
		host = addr.IP.String()
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(addr.Port))
}

// Stop ends the server in order, everything it acknowledged on disk, and waits
// for it. It may be called more than once.
func (s *Server) Stop() {
	s.stop.Do(func() {
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
		s.lock.Close() // gives the lock up
	})
}

func checkSite(site string) error {
	if !token.MatchString(site) {
		return fmt.Errorf("site %q is no usable name: use letters, digits, dash and underscore", site)
	}
	return nil
}

// lockDir keeps a second server out of a store, which JetStream itself does
// not. The kernel gives the lock up when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("nats server: data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("nats server: data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("nats server: data directory %s is in use by another process: end that one or name another directory", dir)
		}
		return nil, fmt.Errorf("nats server: lock data directory %s: %w", dir, err)
	}
	return f, nil
}

// serverLog hands the server's log lines to ours. Its notices are about its
// own start and stop, so they are debug to us.
type serverLog struct {
	log   *slog.Logger
	fatal chan string
}

func (l *serverLog) Noticef(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l *serverLog) Warnf(f string, v ...any)   { l.log.Warn(fmt.Sprintf(f, v...)) }
func (l *serverLog) Errorf(f string, v ...any)  { l.log.Error(fmt.Sprintf(f, v...)) }
func (l *serverLog) Debugf(f string, v ...any)  {}
func (l *serverLog) Tracef(f string, v ...any)  {}

// Fatalf is followed by the end of the process in a server of its own; here
// it is the error of StartServer.
func (l *serverLog) Fatalf(f string, v ...any) {
	s := fmt.Sprintf(f, v...)
	l.log.Error(s)
	select {
	case l.fatal <- s:
	default:
	}
}
