package serve

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"decaf/api"
	"decaf/api/agentconfig"
	"decaf/api/bus"
	"decaf/api/service"
	"decaf/correlator"
	"decaf/topology"
)

// Service is the process behind `decaf serve`.
type Service struct {
	cfg  Config
	log  *slog.Logger
	topo *topology.Topology

	server   *bus.Server // nil with a URL
	conn     *bus.Conn
	settings *agentconfig.Store
	corr     *correlator.Correlator
	http     *api.Server
	health   *service.Health
	url      chan string // holds the API's address once it listens
}

// New checks the configuration and loads the topology; it starts nothing.
func New(cfg Config, log *slog.Logger) (*Service, error) {
	t, err := topology.Load(cfg.Topology)
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, log: log, topo: t, health: service.NewHealth(), url: make(chan string, 1)}, nil
}

// Run serves until ctx is done.
func (s *Service) Run(ctx context.Context) error {
	return service.RunAll(ctx, s.log,
		service.Part{Name: "nats", Start: s.startServer, Stop: s.stopServer},
		service.Part{Name: "bus", Start: s.connect, Stop: s.disconnect},
		service.Part{Name: "correlator", Start: s.startCorrelator, Run: func(ctx context.Context) error { return s.corr.Run(ctx) }},
		service.Part{Name: "api", Start: s.startAPI, Run: func(ctx context.Context) error { return s.http.Run(ctx) }},
	)
}

func (s *Service) startServer(context.Context) (err error) {
	if s.cfg.NATS.URL != "" {
		return nil
	}
	s.server, err = bus.StartServer(bus.ServerConfig{
		Listen: s.cfg.NATS.Listen, Dir: filepath.Join(s.cfg.Data, "nats"), TLS: s.cfg.NATS.TLS, Site: s.topo.Site,
		MaxBytes: s.cfg.NATS.MaxBytes, MaxAge: s.cfg.NATS.MaxAge, MayConnect: s.mayConnect,
	}, s.log)
	return err
}

// mayConnect lets in the hosts of the topology, and whoever collects or
// administers with a certificate of the site's authority.
func (s *Service) mayConnect(role, name string) bool {
	if role == "host" {
		_, ok := s.topo.Host(name)
		return ok
	}
	return true
}

func (s *Service) stopServer(context.Context) error {
	if s.server != nil {
		s.server.Stop()
	}
	return nil
}

func (s *Service) connect(ctx context.Context) (err error) {
	s.conn, err = bus.Connect(ctx, bus.ConnConfig{
		URL: s.cfg.NATS.URL, TLS: s.cfg.NATS.TLS, Name: bus.RoleAdmin + ".decaf", Site: s.topo.Site, Server: s.server,
		MaxBytes: s.cfg.NATS.MaxBytes, MaxAge: s.cfg.NATS.MaxAge,
	}, s.log)
	if err != nil {
		return err
	}
	if err := s.conn.WaitReady(ctx); err != nil {
		return err
	}
	if err := s.conn.EnsureStreams(ctx); err != nil {
		return err
	}
	kv, err := s.conn.KV(bus.BucketAgentConfig)
	if err != nil {
		return err
	}
	s.settings = agentconfig.NewStore(kv, s.topo)
	// The topology may have changed since. Agents do without for now.
	if err := s.settings.Sync(ctx); err != nil {
		s.log.Error("what host agents are told is not up to date", "err", err)
	}
	return nil
}

func (s *Service) disconnect(context.Context) error {
	if s.conn != nil {
		s.conn.Close()
	}
	return nil
}

func (s *Service) startCorrelator(context.Context) (err error) {
	cfg := correlator.DefaultConfig()
	cfg.Topology, cfg.Site, cfg.Method = s.topo, s.topo.Site, s.cfg.Method
	cfg.Engine.Limits.TableBytes = s.cfg.Tables.MaxBytes
	if s.corr, err = correlator.New(cfg, correlator.Deps{Conn: s.conn, Log: s.log}); err != nil {
		return err
	}
	s.conn.RegisterMetrics(s.health.Metrics())
	s.corr.RegisterMetrics(s.health.Metrics())
	return nil
}

func (s *Service) startAPI(context.Context) (err error) {
	cfg := api.Config{Listen: s.cfg.API.Listen, TLS: s.cfg.API.TLS, Settings: s.settings}
	if cfg.Listener, err = inherited(s.cfg.API.Listen); err != nil {
		return err
	}
	if s.http, err = api.NewServer(cfg, s.corr, s.health, s.log); err != nil {
		return err
	}
	if err := s.http.Listen(); err != nil {
		return err
	}
	s.url <- s.http.URL()
	return nil
}

// URL waits until the API listens, and says where.
func (s *Service) URL(ctx context.Context) (string, error) {
	select {
	case url := <-s.url:
		s.url <- url
		return url, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// inherited gives the listener behind fd://N, nil for an ordinary address.
func inherited(listen string) (net.Listener, error) {
	text, ok := strings.CutPrefix(listen, "fd://")
	if !ok {
		return nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 3 {
		return nil, fmt.Errorf("api.listen %s: the number of an open socket from 3 on is meant", listen)
	}
	f := os.NewFile(uintptr(n), listen)
	defer f.Close() // the listener has its own copy
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("api.listen %s: %w; the parent process has to open the socket and hand it down", listen, err)
	}
	return ln, nil
}
