package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/VictoriaMetrics/metrics"
)

// handler answers a request or says why it cannot.
type handler func(w http.ResponseWriter, r *http.Request) error

// methods are the handlers of one path; HEAD is answered by GET's.
type methods map[string]handler

// Handler is the whole API as one http.Handler: what Run serves.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, by := range map[string]methods{
		"/api/v1/reports":          {"GET": s.listReports, "POST": s.fileReport},
		"/api/v1/reports/{id}":     {"GET": s.getReport},
		"/api/v1/findings":         {"GET": s.listFindings},
		"/api/v1/findings/{id}":    {"GET": s.getFinding},
		"/api/v1/links":            {"GET": s.listLinks},
		"/api/v1/drops":            {"GET": s.listDrops},
		"/api/v1/paths":            {"GET": s.listPaths},
		"/api/v1/flows":            {"GET": s.listConnections},
		"/api/v1/services":         {"GET": s.listServices},
		"/api/v1/agents":           {"GET": s.listAgents},
		"/api/v1/agents/{name}":    {"GET": s.getAgent},
		"/api/v1/agents/config":    {"GET": s.getSettings, "PATCH": s.setSettings},
		"/api/v1/topology":         {"GET": s.getTopology},
		"/api/v1/topology/learned": {"GET": s.getLearned},
	} {
		mux.Handle(path, s.route(path, by, writeProblemOf(s)))
	}
	for path, by := range map[string]methods{
		"/{$}":           {"GET": s.pageOverview},
		"/reports":       {"POST": s.pageFile},
		"/reports/{id}":  {"GET": s.pageReport},
		"/findings/{id}": {"GET": s.pageFinding},
		"/flows":         {"GET": s.pageConnections},
		"/services":      {"GET": s.pageServices},
	} {
		mux.Handle(path, s.route(path, by, s.pageError))
	}
	for _, name := range []string{"page.css", "page.js", "icon.svg"} {
		path := "/" + name
		mux.Handle(path, s.route(path, methods{"GET": s.page.asset(name)}, writeProblemOf(s)))
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, s.health)
	}
	mux.Handle("/", s.route("/", methods{"GET": s.lost, "POST": s.lost, "PUT": s.lost, "PATCH": s.lost, "DELETE": s.lost}, writeProblemOf(s)))

	// A page of another site must not file reports in the name of whoever
	// reads it.
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, r, s.log, &Error{Status: http.StatusForbidden, Title: "cross-origin request",
			Detail: "a page of another site sent this; open decaf itself and send it from there"})
	}))
	return s.safely(s.named(guard.Handler(mux)))
}

// named refuses requests to a name that is not this server's: see Config.Names.
// With TLS the certificate sees to that.
func (s *Server) named(next http.Handler) http.Handler {
	if s.cfg.TLS != nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.Host
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			name = host
		}
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		_, notAddress := netip.ParseAddr(strings.Trim(name, "[]"))
		if notAddress != nil && name != "localhost" && !strings.HasSuffix(name, ".localhost") && !slices.Contains(s.cfg.Names, name) {
			writeProblem(w, r, s.log, &Error{Status: http.StatusMisdirectedRequest, Title: "misdirected request",
				Detail: fmt.Sprintf("%q is not a name of this server; open it at localhost, or configure the name", clip(r.Host))})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func writeProblemOf(s *Server) func(http.ResponseWriter, *http.Request, error) {
	return func(w http.ResponseWriter, r *http.Request, err error) { writeProblem(w, r, s.log, err) }
}

// lost answers every path that is not there.
func (s *Server) lost(_ http.ResponseWriter, r *http.Request) error {
	return NotFound("there is nothing at %s; the API is /api/v1/reports, findings, links, drops, paths, flows, services, agents and topology", clip(r.URL.Path))
}

// route picks the handler by method, counts the request and tells its error.
func (s *Server) route(path string, by methods, tell func(http.ResponseWriter, *http.Request, error)) http.Handler {
	allowed := []string{"HEAD", "OPTIONS"}
	for m := range by {
		allowed = append(allowed, m)
	}
	slices.Sort(allowed)
	allow := strings.Join(allowed, ", ")
	seconds := s.histogram(path)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := s.cfg.Now()
		counted := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		h, ok := by[method]
		switch {
		case r.Method == http.MethodOptions:
			w.Header().Set("Allow", allow)
			counted.WriteHeader(http.StatusNoContent)
		case !ok:
			w.Header().Set("Allow", allow)
			tell(counted, r, &Error{Status: http.StatusMethodNotAllowed, Title: "method not allowed",
				Detail: fmt.Sprintf("%s does not take %s; it takes %s", r.URL.Path, clip(r.Method), allow)})
		default:
			if err := h(counted, r); err != nil {
				tell(counted, r, err)
			}
		}
		s.count(path, counted.status)
		if seconds != nil {
			seconds.Update(s.cfg.Now().Sub(begin).Seconds())
		}
	})
}

func (s *Server) histogram(path string) *metrics.Histogram {
	if set := s.health.Metrics(); set != nil {
		return set.GetOrCreateHistogram(fmt.Sprintf(`decaf_api_request_seconds{path=%q}`, path))
	}
	return nil
}

func (s *Server) count(path string, status int) {
	if set := s.health.Metrics(); set != nil {
		set.GetOrCreateCounter(fmt.Sprintf(`decaf_api_requests_total{path=%q,status="%d"}`, path, status)).Inc()
	}
}

// statusWriter remembers the status for the metrics.
type statusWriter struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (w *statusWriter) WriteHeader(status int) {
	if !w.wrote {
		w.status, w.wrote = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// contentSecurityPolicy lets the page load only what the server itself
// embeds: no inline script or style runs, whatever a report says.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// safely sets the headers of every answer, bounds its time, and turns a panic
// into an error that shows the user no stack trace.
func (s *Server) safely(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.RequestTimeout)
		defer cancel()
		r = r.WithContext(ctx)
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		tracked := &statusWriter{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if !tracked.wrote {
				writeProblem(w, r, s.log, fmt.Errorf("panic: %v", p))
			}
		}()
		next.ServeHTTP(tracked, r)
	})
}
