package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"decaf/api/bus"
	"decaf/api/decafpb"
	"decaf/api/gnmi"
	"decaf/api/service"
	"decaf/api/yang"
	"decaf/correlator/serve"
	"decaf/sim/flow"
	"decaf/sim/scenario"
	"decaf/topology"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/proto"
)

// live is the flow-level fabric in real time, all behind the agents being the real
// thing: every host has a NATS connection of its own, by mutual TLS and as itself
// only, and publishes its records on it; every device is a gNMI target, which the
// service's collector subscribes to. What devices' gNMI model has no place for yet
// (loss aggregates, route events) comes from a collector of its own. All of it is one
// process and listens on loopback only.
type live struct {
	*client
	url      string
	topo     *topology.Topology
	scenario *scenario.Scenario
	seed     uint64
	began    time.Time

	dir  string // keys, the service's topology and data
	keep bool
	log  *slog.Logger

	mu   sync.Mutex
	flow *flow.Fabric

	devices map[string]*liveDevice
	senders map[string]*bus.Publisher // by host; and by device, what gNMI does not carry
	failed  chan error
	// stops end the parts, the last started first.
	stops []func() error
}

// liveDevice is a device's gNMI target.
type liveDevice struct {
	target *gnmi.Target
	ring   uint64

	mu    sync.Mutex
	state yang.AgentState
	beat  time.Time // of the last sign of life
}

const loopback = "127.0.0.1"

// stopLive bounds how long what was sent may take to be stored at the end.
const stopLive = 2 * time.Second

// newLive starts the service and every agent's end, silent as yet.
func newLive(ctx context.Context, t *topology.Topology, s *scenario.Scenario, o LabOptions) (_ *live, err error) {
	dir, err := newRunDir()
	if err != nil {
		return nil, err
	}
	l := &live{
		topo: t, scenario: s, seed: o.Seed, dir: dir, keep: o.Keep, log: discard(o.Log), failed: make(chan error, 1),
		devices: make(map[string]*liveDevice), senders: make(map[string]*bus.Publisher),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	ca, err := service.NewCA(filepath.Join(dir, "tls"))
	if err != nil {
		return nil, err
	}
	for _, d := range t.Devices {
		if err := l.startDevice(d); err != nil {
			return nil, err
		}
	}
	url, err := l.startNATS(ca)
	if err != nil {
		return nil, err
	}
	if err := l.startService(ctx, ca, url, o.Listen); err != nil {
		return nil, err
	}
	for _, h := range t.Hosts {
		if err := l.connect(ctx, ca, url, bus.RoleHost+"."+h.Name, h.Name); err != nil {
			return nil, err
		}
	}
	var devices []string
	for _, d := range t.Devices {
		devices = append(devices, d.Name)
	}
	if err := l.connect(ctx, ca, url, bus.RoleCollector+".flow", devices...); err != nil {
		return nil, err
	}
	o.Progress("fabric of %d devices and %d hosts, %d directed links", len(t.Devices), len(t.Hosts), len(t.Links))
	return l, nil
}

// run starts a part that ends with its context.
func (l *live) run(name string, part func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := part(ctx)
		done <- err
		if ctx.Err() == nil {
			l.fail(fmt.Errorf("%s ended by itself: %w", name, err))
		}
	}()
	l.stops = append(l.stops, func() error { cancel(); return <-done })
}

// fail tells whoever waits; the first failure counts.
func (l *live) fail(err error) {
	select {
	case l.failed <- err:
	default:
	}
}

func (l *live) startDevice(d *topology.Device) error {
	dev := &liveDevice{}
	cfg := gnmi.DefaultConfig()
	cfg.Listen, dev.ring = net.JoinHostPort(loopback, "0"), uint64(cfg.Ring)
	var err error
	dev.target, err = gnmi.New(cfg, gnmi.Deps{
		Schema: yang.Schema(), Models: []*gnmipb.ModelData{yang.Model()}, State: dev.present, Log: l.log.With("device", d.Name),
	})
	if err != nil {
		return err
	}
	addr, err := dev.target.Listen(context.Background())
	if err != nil {
		return err
	}
	l.devices[d.Name] = dev
	d.GNMI = &topology.GNMI{Address: addr.String()}
	l.run("the gNMI target of "+d.Name, dev.target.Run)
	return nil
}

// present is what a device says of itself when asked: nothing when it is down.
func (d *liveDevice) present(now time.Time) []*gnmipb.Notification {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.beat) > freshFor/2 {
		return nil
	}
	s := d.state
	st := d.target.Stats()
	s.EventsLostQueue, s.Subscribers = st.Lost, st.Subscribers
	return []*gnmipb.Notification{yang.AgentUpdates(s, now)}
}

func (l *live) startNATS(ca *service.CA) (url string, err error) {
	files, err := ca.Issue("decaf", loopback)
	if err != nil {
		return "", err
	}
	cfg := bus.DefaultServerConfig()
	cfg.Listen, cfg.Dir, cfg.TLS, cfg.Site = net.JoinHostPort(loopback, "0"), filepath.Join(l.dir, "nats"), &files, l.topo.Site
	cfg.MayConnect = func(role, name string) bool {
		_, host := l.topo.Host(name)
		return role != bus.RoleHost || host
	}
	server, err := bus.StartServer(cfg, l.log)
	if err != nil {
		return "", err
	}
	l.stops = append(l.stops, func() error { server.Stop(); return nil })
	return server.URL(), nil
}

func (l *live) startService(ctx context.Context, ca *service.CA, nats, listen string) error {
	data, err := l.topo.Marshal()
	if err != nil {
		return err
	}
	file := filepath.Join(l.dir, "topology.yaml")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return fmt.Errorf("write the run's topology: %w", err)
	}
	files, err := ca.Issue(bus.RoleAdmin + ".decaf")
	if err != nil {
		return err
	}
	cfg := serve.DefaultConfig()
	cfg.Topology, cfg.Data, cfg.API.Listen = file, filepath.Join(l.dir, "data"), listen
	cfg.NATS.URL, cfg.NATS.TLS = nats, &files
	s, err := serve.New(cfg, l.log)
	if err != nil {
		return err
	}
	l.run("the service", s.Run)
	listening, giveUp := context.WithTimeout(ctx, readyTime)
	defer giveUp()
	go func() { // a service that fails never listens
		select {
		case err := <-l.failed:
			l.fail(err)
			giveUp()
		case <-listening.Done():
		}
	}()
	if l.url, err = s.URL(listening); err != nil {
		select {
		case err = <-l.failed:
		default:
		}
		return fmt.Errorf("start the service: %w", err)
	}
	l.client, err = newClient(l.url)
	return err
}

// connect opens a connection of that name for producers.
func (l *live) connect(ctx context.Context, ca *service.CA, url, name string, producers ...string) error {
	files, err := ca.Issue(name)
	if err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, bus.ConnConfig{URL: url, TLS: &files, Name: name, Site: l.topo.Site}, l.log)
	if err != nil {
		return err
	}
	for _, p := range producers {
		l.senders[p] = bus.NewPublisher(conn, p, bus.PublisherOptions{})
	}
	l.stops = append(l.stops, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopLive)
		defer cancel()
		var all error
		for _, p := range producers {
			all = errors.Join(all, l.senders[p].Close(ctx))
		}
		conn.Close()
		return all
	})
	return nil
}

func (l *live) fabric() string     { return FabricFlow }
func (l *live) now() time.Duration { return time.Since(l.began) }

// start lets the agents speak, and returns when the service has heard each.
func (l *live) start(ctx context.Context) (time.Time, error) {
	l.began = time.Now()
	var err error
	// Losses are counted, not listed: the demo has no end.
	if l.flow, err = flow.New(l.scenario, l.seed, flow.Options{Start: l.began, MaxLosses: 1}); err != nil {
		return l.began, err
	}
	l.run("the fabric", l.feed)
	if err := l.waitHeard(ctx, len(l.topo.Devices)+len(l.topo.Hosts), l.failed); err != nil {
		return l.began, err
	}
	return l.began, nil
}

// feed sends every record when its time has come.
func (l *live) feed(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.mu.Lock()
		at, b, ok := l.flow.Next()
		l.mu.Unlock()
		if !ok {
			return errors.New("the scenario is over")
		}
		timer.Reset(time.Until(l.began.Add(at)))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			l.send(b)
		}
	}
}

// send hands records to those who tell them: drops and the life of a device to its
// gNMI target, all else to its producer's connection.
func (l *live) send(b *decafpb.Batch) {
	for _, e := range b.GetDrops() {
		if d := l.devices[e.GetOrigin().GetProducer()]; d != nil {
			d.target.Publish(yang.EventUpdates(e, e.GetOrigin().GetSeq()%d.ring, e.GetOrigin().GetBootId()))
		}
	}
	for _, h := range b.GetHeartbeats() {
		if d := l.devices[h.GetOrigin().GetProducer()]; d != nil {
			d.alive(h)
		} else {
			publish(l, h)
		}
	}
	for _, r := range b.GetAggregates() {
		publish(l, r)
	}
	for _, r := range b.GetRoutes() {
		publish(l, r)
	}
	for _, r := range b.GetRetransmits() {
		publish(l, r)
	}
	for _, r := range b.GetFlows() {
		publish(l, r)
	}
	for _, x := range b.GetExchanges() {
		publish(l, x)
	}
}

// publish sends a record as its producer.
func publish[T interface {
	proto.Message
	GetOrigin() *decafpb.Origin
}](l *live, record T) {
	if p := l.senders[record.GetOrigin().GetProducer()]; p != nil {
		p.Publish(record)
	}
}

// alive takes a device's sign of life.
func (d *liveDevice) alive(h *decafpb.Heartbeat) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.beat = time.Now()
	if d.state.StartedNs == 0 {
		d.state.StartedNs = h.GetTimeNs()
	}
	c := h.GetCounters()
	d.state.Name, d.state.BootID, d.state.Version = h.GetOrigin().GetProducer(), c["boot_id"], h.GetVersion()
	d.state.EventSource, d.state.Slots, d.state.Events = h.GetSource(), d.ring, c["events"]
}

func (l *live) wait(ctx context.Context, until time.Duration, each func()) error {
	return waitReal(ctx, l.began.Add(until), l.failed, each)
}

func (l *live) faultOn(int, faultWindow) error { return nil }

func (l *live) faultOff(_ int, w faultWindow) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if took := l.flow.Truth().Faults[w.fault].Windows; w.nth < len(took) {
		return took[w.nth], nil
	}
	return 0, nil
}

// close ends the agents first, so that what they said last still arrives, and then
// all else in turn.
func (l *live) close() error {
	var all error
	for len(l.stops) > 0 {
		last := len(l.stops) - 1
		all = errors.Join(all, l.stops[last]())
		l.stops = l.stops[:last]
	}
	if !l.keep {
		all = errors.Join(all, os.RemoveAll(l.dir))
	}
	return all
}
