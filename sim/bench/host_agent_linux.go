package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"decaf/api/bus"
)

// Where a host agent answers and finds NATS, on the loopback of its namespace.
const (
	hostListen = "127.0.0.1:9340"
	hostNATS   = "127.0.0.1:4222"
)

// benchSite is the site that the agents are of.
const benchSite = "bench"

// inside calls a function in a network namespace.
type inside func(func() error) error

// natsBeside is a NATS server outside of the namespaces that packets go through, and a
// relay to it from the loopback of one.
type natsBeside struct {
	dir    string // what the server keeps
	server *bus.Server
	relay  net.Listener
	sent   atomic.Uint64 // bytes to the server
}

// newNATS starts the server, and the relay inside of a namespace.
func newNATS(ctx context.Context, at inside) (_ *natsBeside, err error) {
	n := &natsBeside{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if n.dir, err = os.MkdirTemp("", "decaf-bench-"); err != nil {
		return nil, err
	}
	n.server, err = bus.StartServer(bus.ServerConfig{Listen: "127.0.0.1:0", Dir: n.dir, Site: benchSite}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	conn, err := n.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.EnsureStreams(ctx); err != nil {
		return nil, err
	}
	err = at(func() (err error) {
		n.relay, err = net.Listen("tcp", hostNATS)
		return err
	})
	if err != nil {
		return nil, err
	}
	go n.forward()
	return n, nil
}

// connect is an admin's connection to the server.
func (n *natsBeside) connect(ctx context.Context) (*bus.Conn, error) {
	conn, err := bus.Connect(ctx, bus.ConnConfig{Server: n.server, Name: "admin.bench", Site: benchSite}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	if err := conn.WaitReady(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// forward joins who connects to the relay with the server, and counts.
func (n *natsBeside) forward() {
	for {
		c, err := n.relay.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", strings.TrimPrefix(n.server.URL(), "nats://"))
		if err != nil {
			c.Close()
			continue
		}
		go func() {
			defer up.Close()
			buf := make([]byte, 64<<10)
			for {
				k, err := c.Read(buf)
				n.sent.Add(uint64(k))
				if _, werr := up.Write(buf[:k]); err != nil || werr != nil {
					return
				}
			}
		}()
		go func() {
			defer c.Close()
			io.Copy(c, up)
		}()
	}
}

func (n *natsBeside) close() error {
	if n.relay != nil {
		n.relay.Close()
	}
	if n.server != nil {
		n.server.Stop()
	}
	return os.RemoveAll(n.dir)
}

// hostAgent is a process of `decaf host` in a namespace.
type hostAgent struct {
	*process
	at  inside
	dir string
}

// startHost runs `decaf host` with a configuration, beside where it is and what it
// reaches, and waits until it watches.
func startHost(ctx context.Context, at inside, start func(io.Writer, ...string) (*process, error), name string, topology []byte, config string) (_ *hostAgent, err error) {
	a := &hostAgent{at: at}
	defer func() {
		if err != nil {
			a.stop()
		}
	}()
	if a.dir, err = os.MkdirTemp("", "decaf-bench-"); err != nil {
		return nil, err
	}
	file, topo := filepath.Join(a.dir, "host.yaml"), filepath.Join(a.dir, "topology.yaml")
	if err := os.WriteFile(topo, topology, 0o600); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("name: %s\nsite: %s\ntopology: %q\nlisten: %s\nlog: {level: warn}\nnats: {url: %q}\n%s", name, benchSite, topo, hostListen, "nats://"+hostNATS, config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if a.process, err = start(nil, "host", "--config", file); err != nil {
		return nil, err
	}
	return a, a.serves(ctx, func(context.Context) error { _, err := a.ask("/readyz"); return err })
}

// stop ends the agent, which sends what it has left.
func (a *hostAgent) stop() {
	if a.process != nil {
		a.process.stop()
	}
	os.RemoveAll(a.dir)
}

// ask gets a page of the agent.
func (a *hostAgent) ask(path string) (string, error) {
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, addr string) (c net.Conn, err error) {
		err = a.at(func() (err error) { c, err = (&net.Dialer{}).DialContext(ctx, "tcp", addr); return err })
		return c, err
	}}
	client := &http.Client{Transport: t, Timeout: 5 * time.Second}
	r, err := client.Get("http://" + hostListen + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, r.Status)
	}
	return string(b), err
}

// counters are what the agent counts, by the names of its heartbeat.
func (a *hostAgent) counters() (map[string]float64, error) {
	page, err := a.ask("/metrics")
	if err != nil {
		return nil, err
	}
	counts := map[string]float64{}
	for _, m := range hostCounter.FindAllStringSubmatch(page, -1) {
		if counts[m[1]], err = strconv.ParseFloat(m[2], 64); err != nil {
			return nil, fmt.Errorf("/metrics: %s: %w", m[1], err)
		}
	}
	for _, name := range []string{"probes", "segments", "events_lost_ring", "events_missed", "records_merged", "traces", "traces_refused", "table_connections_ended"} {
		if _, ok := counts[name]; !ok {
			return nil, errors.New("/metrics: the agent does not tell of " + name)
		}
	}
	return counts, nil
}

var hostCounter = regexp.MustCompile(`(?m)^decaf_host_(\w+) (\S+)$`)
