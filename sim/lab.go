package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"decaf/api"
	"decaf/api/service"
	"decaf/sim/kernel"
	"decaf/sim/scenario"
	"decaf/topology"
)

// Ports on the management network.
const (
	natsPort = 4222
	gnmiPort = 9339
)

// readyTime is how long everything may take to come up.
const readyTime = 30 * time.Second

// stopTime is how long a process may take to stop in order before it is killed.
const stopTime = 5 * time.Second

// Lab is a fabric on the kernel with all of decaf running on it: a service
// process (NATS, correlator, API) in the management namespace, one device agent
// per switch, one host agent and one traffic process per host. They speak over
// the management network only, with mutual TLS from an authority made for this
// lab. The API's socket is opened in the namespace of the caller and handed
// down, so that a browser there can reach it and nothing else has to change.
type Lab struct {
	Fabric   *kernel.Fabric
	Topology *topology.Topology
	URL      string // of the API and the page

	client *client

	dir   string // configurations, keys, logs, the service's data
	keep  bool
	exe   string
	log   *slog.Logger
	procs []*process // in the order started
	died  chan error
}

type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when Wait has returned
	err  error
	log  string

	mu       sync.Mutex
	stopping bool
}

// LabOptions says what to bring up.
type LabOptions struct {
	Topology *topology.Topology
	Seed     uint64
	// TraceBudget is what each host may trace, in traces per second; 0 leaves
	// the agent's own default.
	TraceBudget float64
	Listen      string // address of the API and page; ":0" forms choose a port
	Keep        bool   // leave the run's directory behind
	Log         *slog.Logger
	Progress    func(format string, args ...any)
}

// NewLab builds the fabric and starts everything but the traffic; it returns
// once every agent is heard by the service. Needs root.
func NewLab(ctx context.Context, o LabOptions) (lab *Lab, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's file, to start the agents: %w", err)
	}
	t := o.Topology
	dir, err := newRunDir()
	if err != nil {
		return nil, err
	}
	lab = &Lab{Topology: t, dir: dir, keep: o.Keep, exe: exe, log: o.Log, died: make(chan error, 64)}
	defer func() {
		if err != nil {
			lab.Close()
		}
	}()

	began := time.Now()
	lab.Fabric, err = kernel.Build(ctx, t, kernel.Options{Seed: o.Seed, Log: o.Log})
	if err != nil {
		return nil, fmt.Errorf("build the fabric: %w", err)
	}
	o.Progress("fabric of %d devices and %d hosts, %d directed links, built in %d ms",
		len(t.Devices), len(t.Hosts), len(t.Links), time.Since(began).Milliseconds())

	if err := lab.startService(o.Listen, o.TraceBudget); err != nil {
		return nil, err
	}
	if err := lab.startAgents(); err != nil {
		return nil, err
	}
	if err := lab.waitReady(ctx); err != nil {
		return nil, err
	}
	o.Progress("%d agents heard, page at %s", len(t.Devices)+len(t.Hosts), lab.URL)
	return lab, nil
}

// newRunDir makes the directory of one run and sweeps those of runs that were
// killed: a directory is named for the process that owns it.
func newRunDir() (string, error) {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), "decaf-run-*"))
	for _, dir := range old {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), "decaf-run-%d-", &pid); err != nil || pid <= 0 {
			continue
		}
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			os.RemoveAll(dir)
		}
	}
	dir, err := os.MkdirTemp("", "decaf-run-"+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", fmt.Errorf("make a directory for the run: %w", err)
	}
	return dir, nil
}

func (l *Lab) startService(listen string, traceBudget float64) error {
	ca, err := service.NewCA(filepath.Join(l.dir, "tls"))
	if err != nil {
		return err
	}
	mgmt := l.Fabric.ManagementAddr("")
	for _, d := range l.Topology.Devices {
		files, err := ca.Issue("device."+d.Name, d.Name, l.Fabric.ManagementAddr(d.Name).String())
		if err != nil {
			return err
		}
		collector, err := ca.Issue("collector.decaf")
		if err != nil {
			return err
		}
		d.GNMI = &topology.GNMI{
			Address: net.JoinHostPort(l.Fabric.ManagementAddr(d.Name).String(), strconv.Itoa(gnmiPort)),
			TLS:     &topology.TLS{CA: collector.CA, Cert: collector.Cert, Key: collector.Key},
		}
		if err := l.writeConfig("device-"+d.Name, map[string]any{
			"name": d.Name, "listen": d.GNMI.Address, "tls": files, "ignore_interfaces": []string{kernel.ManagementInterface},
		}); err != nil {
			return err
		}
	}
	data, err := l.Topology.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.topologyFile(), data, 0o600); err != nil {
		return fmt.Errorf("write the run's topology: %w", err)
	}
	nats := net.JoinHostPort(mgmt.String(), strconv.Itoa(natsPort))
	for _, h := range l.Topology.Hosts {
		files, err := ca.Issue("host." + h.Name)
		if err != nil {
			return err
		}
		config := map[string]any{
			"name": h.Name, "site": l.Topology.Site, "topology": l.topologyFile(),
			"nats":              map[string]any{"url": "tls://" + nats, "tls": files},
			"ignore_interfaces": []string{kernel.ManagementInterface},
			// Half a minute is all that a run may last.
			"tables": map[string]any{"interval": "5s"},
		}
		if traceBudget > 0 {
			config["trace"] = map[string]any{"rate": traceBudget}
		}
		if err := l.writeConfig("host-"+h.Name, config); err != nil {
			return err
		}
	}
	server, err := ca.Issue("decaf", "decaf", mgmt.String())
	if err != nil {
		return err
	}
	if err := l.writeConfig("serve", map[string]any{
		"topology": l.topologyFile(),
		"data":     filepath.Join(l.dir, "data"),
		"nats":     map[string]any{"listen": nats, "tls": server},
		"api":      map[string]any{"listen": "fd://3"},
	}); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("open the page's address: %w (choose another with --listen)", err)
	}
	defer ln.Close() // the service holds its own copy
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer file.Close()
	l.URL = "http://" + ln.Addr().String()
	if l.client, err = newClient(l.URL); err != nil {
		return err
	}
	return l.start("serve", "", []*os.File{file}, "serve", "--config", l.configFile("serve"))
}

func (l *Lab) startAgents() error {
	for _, d := range l.Topology.Devices {
		if err := l.start("device-"+d.Name, d.Name, nil, "device", "--config", l.configFile("device-"+d.Name)); err != nil {
			return err
		}
	}
	for _, h := range l.Topology.Hosts {
		if err := l.start("host-"+h.Name, h.Name, nil, "host", "--config", l.configFile("host-"+h.Name)); err != nil {
			return err
		}
	}
	return nil
}

// StartTraffic starts the scenario's traffic on every host, which draws its own
// stream from the seed.
func (l *Lab) StartTraffic(s *scenario.Scenario, seed uint64) error {
	for _, h := range l.Topology.Hosts {
		args, err := kernel.TrafficArgs(l.Topology, s.Traffic, h.Name, seed)
		if err != nil {
			return err
		}
		if err := l.start("traffic-"+h.Name, h.Name, nil, append([]string{"sim", "traffic"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) topologyFile() string          { return filepath.Join(l.dir, "topology.yaml") }
func (l *Lab) configFile(name string) string { return filepath.Join(l.dir, name+".yaml") }
func (l *Lab) processLog(name string) string { return filepath.Join(l.dir, name+".log") }

func (l *Lab) writeConfig(name string, v any) error {
	data, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("write the configuration of %s: %w", name, err)
	}
	return os.WriteFile(l.configFile(name), data, 0o600)
}

// start runs this program with args in the namespace of node; "" is the
// management namespace.
func (l *Lab) start(name, node string, files []*os.File, args ...string) error {
	out, err := os.Create(l.processLog(name))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(l.exe, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = files
	// A process group of its own: Ctrl-C reaches the lab alone, which then
	// stops its processes in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := l.Fabric.Start(node, cmd); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, done: make(chan struct{}), log: l.processLog(name)}
	l.procs = append(l.procs, p)
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
		p.mu.Lock()
		stopping := p.stopping
		p.mu.Unlock()
		if !stopping {
			l.died <- fmt.Errorf("%s ended by itself (%v); it said: %s", name, p.err, lastLines(p.log, 5))
		}
	}()
	return nil
}

// Died delivers an error for each process that ended unasked.
func (l *Lab) Died() <-chan error { return l.died }

// stop ends processes: a SIGTERM each, then a kill for those that stay.
func (l *Lab) stop(procs []*process) {
	for _, p := range procs {
		p.mu.Lock()
		p.stopping = true
		p.mu.Unlock()
		p.cmd.Process.Signal(syscall.SIGTERM)
	}
	deadline := time.NewTimer(stopTime)
	defer deadline.Stop()
	for _, p := range procs {
		select {
		case <-p.done:
		case <-deadline.C:
			for _, p := range procs {
				p.cmd.Process.Kill()
			}
			<-p.done
			deadline.Reset(0)
		}
	}
}

// Close stops traffic, agents and service, takes the fabric down and removes
// the run's directory. It may be called more than once.
func (l *Lab) Close() error {
	// The service last: what the agents say on the way out still arrives.
	if len(l.procs) > 0 {
		l.stop(l.procs[1:])
		l.stop(l.procs[:1])
		l.procs = nil
	}
	var err error
	if l.Fabric != nil {
		err = l.Fabric.Close()
		l.Fabric = nil
	}
	if !l.keep {
		err = errors.Join(err, os.RemoveAll(l.dir))
	}
	return err
}

// waitReady returns once the service is ready and hears every agent.
func (l *Lab) waitReady(ctx context.Context) error {
	err := l.client.waitHeard(ctx, len(l.Topology.Devices)+len(l.Topology.Hosts), l.died)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w; logs are in %s (keep them with --keep)", err, l.dir)
	}
	return err
}

// silent names the agents that are not heard yet, "" if all are.
func silent(agents []api.AgentView, want int, err error) string {
	if err != nil {
		return "the service: " + err.Error()
	}
	var names []string
	for _, a := range agents {
		if !a.Fresh {
			names = append(names, a.Name)
		}
	}
	if len(names) == 0 && len(agents) < want {
		return fmt.Sprintf("%d agents", want-len(agents))
	}
	return strings.Join(names, ", ")
}

// lastLines gives the end of a log file, for an error message.
func lastLines(file string, n int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], " | ")
}
