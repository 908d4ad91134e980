package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Health answers /healthz (is every loop of the process alive), /readyz (can
// it do its work now) and /metrics (its own metric set, in Prometheus text
// format). It is an http.Handler for these three paths and any other is 404.
// Safe for concurrent use.
type Health struct {
	set *metrics.Set
	mux *http.ServeMux

	mu    sync.Mutex
	ready []check
	live  []check
}

type check struct {
	name string
	fn   func() error
}

// NewHealth returns a Health with no checks (alive and ready) and an empty
// metric set.
func NewHealth() *Health {
	h := &Health{set: metrics.NewSet(), mux: http.NewServeMux()}
	h.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { h.answer(w, h.liveChecks()) })
	h.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { h.answer(w, h.readyChecks()) })
	h.mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		h.set.WritePrometheus(w)
		metrics.WriteProcessMetrics(w)
	})
	return h
}

// Metrics is the process's own metric set: parts register theirs in it.
func (h *Health) Metrics() *metrics.Set { return h.set }

// Ready adds a check to /readyz; check returns nil when the part can do its
// work, else what is missing. It must not block.
func (h *Health) Ready(name string, fn func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = append(h.ready, check{name, fn})
}

// Live adds a check to /healthz; it returns an error when only a restart of
// the process can help. It must not block.
func (h *Health) Live(name string, fn func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live = append(h.live, check{name, fn})
}

// Loop adds a check to /healthz that fails when the returned Pulse has not
// beaten for longer than limit. The loop itself beats it, so that a stuck
// loop shows although the process still answers.
func (h *Health) Loop(name string, limit time.Duration) *Pulse {
	p := &Pulse{}
	p.Beat()
	h.Live(name, func() error {
		if d := time.Since(p.last.Load().(time.Time)); d > limit {
			return fmt.Errorf("loop has not gone round for %s, limit %s", d.Round(time.Millisecond), limit)
		}
		return nil
	})
	return p
}

// Pulse is the sign of life of one loop.
type Pulse struct{ last atomic.Value } // time.Time

// Beat says that the loop went round. Cheap; safe for concurrent use.
func (p *Pulse) Beat() { p.last.Store(time.Now()) }

// ServeHTTP answers the three paths.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Health) liveChecks() []check {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]check(nil), h.live...)
}

// readyChecks holds the live ones too: what is stuck is not ready.
func (h *Health) readyChecks() []check {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append(append([]check(nil), h.live...), h.ready...)
}

func (h *Health) answer(w http.ResponseWriter, checks []check) {
	type row struct {
		Name  string `json:"name"`
		Error string `json:"error,omitempty"`
	}
	out := struct {
		Status string `json:"status"`
		Checks []row  `json:"checks"`
	}{Status: "ok", Checks: []row{}}
	status := http.StatusOK
	for _, c := range checks {
		r := row{Name: c.name}
		if err := c.fn(); err != nil {
			r.Error = err.Error()
			out.Status = "failing"
			status = http.StatusServiceUnavailable
		}
		out.Checks = append(out.Checks, r)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(out)
}

// Serve answers at listen until ctx is done; for processes with no HTTP
// server of their own. The endpoints say what a process does and take no
// credentials, so listen must be loopback. An empty listen waits for ctx.
func (h *Health) Serve(ctx context.Context, listen string, log *slog.Logger) error {
	if listen == "" {
		<-ctx.Done()
		return nil
	}
	if !Loopback(listen) {
		return fmt.Errorf("health endpoints at %s: they are served without TLS, listen on a loopback address", listen)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("health endpoints: %w", err)
	}
	log.Info("health endpoints", "url", "http://"+l.Addr().String()+"/healthz")
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(stop) != nil {
			srv.Close()
		}
		err = <-failed
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("health endpoints: %w", err)
}
