package serve

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"decaf/api"
	"decaf/api/agentconfig"
	"decaf/api/bus"
	"decaf/api/service"
	"decaf/correlator"
	"decaf/topology"

	"github.com/VictoriaMetrics/metrics"
	"github.com/nats-io/nats.go/jetstream"
)

// Service is the process behind `decaf serve`.
type Service struct {
	cfg  Config
	log  *slog.Logger
	topo *topology.Topology // at the start

	learning *learning   // nil: a file tells of the network
	server   *bus.Server // nil with a URL
	conn     *bus.Conn
	told     jetstream.KeyValue     // what host agents are
	outdated bool                   // it does not fit the topology in use
	corr     *correlator.Correlator // that runs
	counts   atomic.Pointer[metrics.Set]
	live     live
	http     *api.Server
	health   *service.Health
	url      chan string // holds the API's address once it listens
}

// New checks the configuration and loads the topology; it starts nothing.
func New(cfg Config, log *slog.Logger) (s *Service, err error) {
	s = &Service{cfg: cfg, log: log, health: service.NewHealth(), url: make(chan string, 1)}
	if cfg.Topology != Learned {
		s.topo, err = topology.Load(cfg.Topology)
		return s, err
	}
	if s.learning, err = newLearning(cmp.Or(cfg.Site, "default"), cfg.Data, log); err != nil {
		return nil, err
	}
	s.topo = s.learning.inUse.Topology
	return s, nil
}

// Run serves until ctx is done.
func (s *Service) Run(ctx context.Context) error {
	return service.RunAll(ctx, s.log,
		service.Part{Name: "nats", Start: s.startServer, Stop: s.stopServer},
		service.Part{Name: "bus", Start: s.connect, Stop: s.disconnect},
		service.Part{Name: "correlator", Start: s.startCorrelator, Run: s.correlate},
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

// mayConnect lets in the hosts of the topology's file, or without one every host, and
// whoever collects or administers; all with a certificate of the site's authority.
func (s *Service) mayConnect(role, name string) bool {
	if role != bus.RoleHost || s.learning != nil {
		return true
	}
	_, ok := s.topo.Host(name)
	return ok
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
	if s.told, err = s.conn.KV(bus.BucketAgentConfig); err != nil {
		return err
	}
	// The topology may have changed since.
	s.instruct(ctx, s.topo)
	return nil
}

// instruct makes what host agents are told fit a topology. Where that cannot be stored
// they do without for now.
func (s *Service) instruct(ctx context.Context, t *topology.Topology) {
	settings := agentconfig.NewStore(s.told, t)
	s.live.settings.Store(settings)
	err := settings.Sync(ctx)
	if s.outdated = err != nil; s.outdated {
		s.log.Error("what host agents are told is not up to date", "err", err)
	}
}

func (s *Service) disconnect(context.Context) error {
	if s.conn != nil {
		s.conn.Close()
	}
	return nil
}

func (s *Service) startCorrelator(context.Context) error {
	if err := s.newCorrelator(s.topo); err != nil {
		return err
	}
	s.live.now.Store(s.corr)
	set := s.health.Metrics()
	s.conn.RegisterMetrics(set)
	set.RegisterMetricsWriter(func(w io.Writer) {
		s.counts.Load().WritePrometheus(w)
		writeMetrics(w, s.live.now.Load())
	})
	if s.learning != nil {
		s.tell()
		s.log.Info("no file tells of the network: surveys of hosts do", "what", s.learning.about)
	}
	return nil
}

// newCorrelator makes one with this topology, that does nothing yet. Its counters begin
// at 0.
func (s *Service) newCorrelator(t *topology.Topology) (err error) {
	cfg := correlator.DefaultConfig()
	cfg.Topology, cfg.Site, cfg.Method = t, t.Site, s.cfg.Method
	cfg.Engine.Limits.TableBytes = s.cfg.Tables.MaxBytes
	if s.corr, err = correlator.New(cfg, correlator.Deps{Conn: s.conn, Log: s.log}); err != nil {
		return err
	}
	if s.learning != nil {
		s.corr.Unfiled()
	}
	set := metrics.NewSet()
	s.corr.RegisterMetrics(set)
	s.counts.Store(set)
	return nil
}

// tell has the API say where the topology comes from.
func (s *Service) tell() {
	about := s.learning.about
	s.live.about.Store(&about)
}

// correlate runs a correlator until ctx is done; without a file one after the other,
// each with what was learned by then. They hand on by the buckets, as over a restart.
func (s *Service) correlate(ctx context.Context) error {
	if s.learning == nil {
		return s.corr.Run(ctx)
	}
	for {
		run, stop := context.WithCancel(ctx)
		var taken bool
		var watching sync.WaitGroup
		watching.Go(func() {
			if taken = s.watch(run); taken {
				s.live.shutReports()
				stop()
			}
		})
		err := s.corr.Run(run)
		stop()
		watching.Wait()
		if err != nil || ctx.Err() != nil || !taken {
			return err
		}
		if err := s.succeed(ctx); err != nil {
			return err
		}
	}
}

// watch waits until another topology is to be used, or ctx is done. As soon as the
// correlator has read what the one before left, it is the one to ask.
func (s *Service) watch(ctx context.Context) (taken bool) {
	tick := time.NewTicker(s.learning.every)
	defer tick.Stop()
	for ready := false; ; {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if s.corr.Ready() != nil {
			continue
		}
		if !ready {
			ready = true
			s.live.now.Store(s.corr)
			s.live.openReports()
		}
		if s.outdated {
			s.instruct(ctx, s.learning.inUse.Topology)
		}
		taken = s.learning.look(ctx, s.corr)
		if s.tell(); taken {
			return true
		}
	}
}

// succeed makes the correlator that follows the one that has ended, once all that one
// found is stored.
func (s *Service) succeed(ctx context.Context) error {
	s.corr.Flush(ctx)
	t := s.learning.inUse.Topology
	s.instruct(ctx, t)
	s.learning.anew()
	return s.newCorrelator(t)
}

func (s *Service) startAPI(context.Context) (err error) {
	cfg := api.Config{Listen: s.cfg.API.Listen, TLS: s.cfg.API.TLS, Settings: &s.live}
	if cfg.Listener, err = inherited(s.cfg.API.Listen); err != nil {
		return err
	}
	if s.http, err = api.NewServer(cfg, &s.live, s.health, s.log); err != nil {
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
