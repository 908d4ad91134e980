package correlator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"decaf/api/bus"
	"decaf/api/decafpb"
	"decaf/api/service"
	"decaf/api/yang"
	"decaf/topology"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// counterBoot is the heartbeat counter in which the collector passes on a
// device's own boot id: the heartbeat's origin is the collector's numbering.
const counterBoot = "boot_id"

// sampleEvery is how often a device tells its state: its heartbeat.
const sampleEvery = 2 * time.Second

// Pauses between attempts to reach a device.
const (
	redialFirst = 250 * time.Millisecond
	redialMost  = 10 * time.Second
	silentFor   = 3 * sampleEvery // a stream that says nothing for this long is dead
)

// publisher is what a collector needs of bus.Publisher.
type publisher interface {
	Publish(proto.Message)
	Close(context.Context) error
}

// collector keeps one gNMI subscription per device of the topology and
// publishes what it hears as that device.
type collector struct {
	topo *topology.Topology
	open func(device string) publisher
	log  *slog.Logger
	now  func() time.Time
	// reached reports a device's state: nil when its stream lives.
	reached func(device string, err error)
}

func newCollector(t *topology.Topology, c *bus.Conn, log *slog.Logger, now func() time.Time, reached func(string, error)) *collector {
	return &collector{
		topo: t, log: log, now: now, reached: reached,
		open: func(device string) publisher { return bus.NewPublisher(c, device, bus.PublisherOptions{}) },
	}
}

// run collects until ctx is done, and returns when every stream is closed and
// what was heard is stored.
func (c *collector) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, d := range c.topo.Devices {
		if d.GNMI == nil || d.GNMI.Address == "" {
			c.reached(d.Name, errors.New("the topology names no gNMI address: it is not instrumented"))
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			c.keep(ctx, d)
		}()
	}
	wg.Wait()
}

// keep holds one device's subscription, through failures.
func (c *collector) keep(ctx context.Context, d *topology.Device) {
	p := c.open(d.Name)
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := p.Close(end); err != nil {
			c.log.Warn("drop events of a device were not stored before the stop", "device", d.Name, "err", err)
		}
	}()
	pause := redialFirst
	told := false // one line in the log per outage
	for ctx.Err() == nil {
		lived, err := c.subscribe(ctx, d, p)
		if ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("gNMI at %s: %w", d.GNMI.Address, explainStatus(err, d.GNMI))
		c.reached(d.Name, err)
		if lived {
			pause, told = redialFirst, false
		}
		if !told {
			told = true
			c.log.Warn("device is not reached; will try again", "device", d.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, redialMost)
	}
}

// subscribe runs one stream to its end; lived says whether it was any good.
func (c *collector) subscribe(ctx context.Context, d *topology.Device, p publisher) (lived bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	creds, err := dialCredentials(d)
	if err != nil {
		return false, err
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
	}
	if d.GNMI.Username != "" {
		l, err := readLogin(d.GNMI) // anew with each attempt: a password changes
		if err != nil {
			return false, err
		}
		opts = append(opts, grpc.WithPerRPCCredentials(l))
	}
	conn, err := grpc.NewClient("passthrough:///"+d.GNMI.Address, opts...)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stream, err := gnmipb.NewGNMIClient(conn).Subscribe(ctx)
	if err != nil {
		return false, err
	}
	if err := stream.Send(subscription()); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	} // on EOF, Recv has the reason
	dead := time.AfterFunc(silentFor, func() { cancel(fmt.Errorf("said nothing for %s", silentFor)) })
	defer dead.Stop()
	bad := uint64(0)
	for {
		m, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
				return lived, cause
			}
			return lived, err
		}
		dead.Reset(silentFor)
		if !lived {
			lived = true
			c.reached(d.Name, nil)
		}
		n := m.GetUpdate()
		if n == nil {
			continue // sync_response
		}
		if err := c.take(d, p, n, &bad); err != nil {
			bad++
			if bad == 1 { // once per stream; the heartbeat counts them all
				c.log.Warn("device sent what cannot be read", "device", d.Name, "err", err)
			}
		}
	}
}

// take publishes one notification.
func (c *collector) take(d *topology.Device, p publisher, n *gnmipb.Notification, bad *uint64) error {
	now := uint64(c.now().UnixNano())
	ev, is, err := yang.DecodeEvent(n)
	if err != nil {
		return err
	}
	if is {
		ev.Origin.Producer = d.Name
		ev.ReceivedNs = now
		p.Publish(ev)
		return nil
	}
	agg, is, err := yang.DecodeAggregate(n)
	if err != nil {
		return err
	}
	if is {
		p.Publish(lossAggregate(agg, d.Name, now))
		return nil
	}
	r, is, err := yang.DecodeRoute(n)
	if err != nil {
		return err
	}
	if is {
		r.Origin.Producer, r.ReceivedNs = d.Name, now
		p.Publish(r)
		return nil
	}
	a, is, err := yang.DecodeAgent(n)
	if err != nil || !is {
		return err
	}
	p.Publish(&decafpb.Heartbeat{
		TimeNs: now, ReceivedNs: now, Role: "device", Version: a.Version, Source: a.EventSource,
		IntervalNs: uint64(sampleEvery), Fuse: a.Fuse, Unreported: a.Unreported,
		Counters: map[string]uint64{
			counterBoot: a.BootID, "events": a.Events, "events_lost": a.EventsLost, "events_lost_queue": a.EventsLostQueue,
			"drops_ignored": a.DropsIgnored, "drops_unclassified": a.DropsUnclassified, counterUncounted: a.DropsUncounted,
			"aggregates": a.Aggregates, "aggregates_merged": a.AggregatesMerged, counterMissed: a.DropsMissed, "unreadable": *bad,
		},
	})
	return nil
}

// lossAggregate is a device's aggregate as it is published: in the device's own
// numbering, with what gNMI says beside the wire record in its fields.
func lossAggregate(a *yang.Aggregate, device string, now uint64) *decafpb.LossAggregate {
	w := a.LossAggregate
	w.Origin.Producer, w.ReceivedNs = device, now
	w.Events, w.Unattributed = a.Events, a.Unattributed
	return w
}

// subscription asks for every event, aggregate and change of a route as it comes,
// and for the agent's state.
func subscription() *gnmipb.SubscribeRequest {
	elems := func(names ...string) *gnmipb.Path {
		p := &gnmipb.Path{}
		for _, n := range names {
			p.Elem = append(p.Elem, &gnmipb.PathElem{Name: n})
		}
		return p
	}
	return &gnmipb.SubscribeRequest{Request: &gnmipb.SubscribeRequest_Subscribe{Subscribe: &gnmipb.SubscriptionList{
		Mode:     gnmipb.SubscriptionList_STREAM,
		Encoding: gnmipb.Encoding_PROTO,
		Subscription: []*gnmipb.Subscription{
			{Path: elems("loss", "events"), Mode: gnmipb.SubscriptionMode_ON_CHANGE},
			{Path: elems("loss", "aggregates"), Mode: gnmipb.SubscriptionMode_ON_CHANGE},
			{Path: elems("loss", "routes"), Mode: gnmipb.SubscriptionMode_ON_CHANGE},
			{Path: elems("loss", "agent"), Mode: gnmipb.SubscriptionMode_SAMPLE, SampleInterval: uint64(sampleEvery)},
		},
	}}}
}

// dialCredentials gives TLS as the topology says; without it only loopback is
// dialled, since what a device says names who is at fault.
func dialCredentials(d *topology.Device) (credentials.TransportCredentials, error) {
	if d.GNMI.TLS == nil {
		if !service.Loopback(d.GNMI.Address) {
			return nil, fmt.Errorf("no tls in the topology for an address off loopback: give device %s gnmi.tls", d.Name)
		}
		return insecure.NewCredentials(), nil
	}
	host, _, err := net.SplitHostPort(d.GNMI.Address)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", d.GNMI.Address, err)
	}
	files := service.TLSFiles{CA: d.GNMI.TLS.CA, Cert: d.GNMI.TLS.Cert, Key: d.GNMI.TLS.Key}
	cfg, err := files.Client(host)
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(cfg), nil
}

// login is the metadata of each call: who calls, as of the gNMI authentication
// specification.
type login struct {
	metadata map[string]string
	secure   bool // the device is dialled by TLS
}

func (l login) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return l.metadata, nil
}

// RequireTransportSecurity is false where [dialCredentials] gave plain text: on
// loopback, where nobody listens in.
func (l login) RequireTransportSecurity() bool { return l.secure }

// maxPassword bounds what is read of a password file.
const maxPassword = 1 << 10

// readLogin reads a device's password. gRPC carries printable ASCII only.
func readLogin(g *topology.GNMI) (login, error) {
	f, err := os.Open(g.PasswordFile)
	if err != nil {
		return login{}, fmt.Errorf("gnmi.password_file of user %s: %w", g.Username, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return login{}, fmt.Errorf("gnmi.password_file of user %s: %w", g.Username, err)
	}
	b = bytes.TrimRight(b, "\r\n")
	switch {
	case len(b) == 0:
		return login{}, fmt.Errorf("gnmi.password_file of user %s: %s is empty", g.Username, g.PasswordFile)
	case len(b) > maxPassword:
		return login{}, fmt.Errorf("gnmi.password_file of user %s: %s has more than %d bytes: is it the right file?", g.Username, g.PasswordFile, maxPassword)
	case bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' || r > '~' }):
		return login{}, fmt.Errorf("gnmi.password_file of user %s: %s holds what gRPC metadata cannot carry: use printable ASCII, on one line", g.Username, g.PasswordFile)
	}
	return login{map[string]string{"username": g.Username, "password": string(b)}, g.TLS != nil}, nil
}

// explainStatus adds what to do to the usual refusals.
func explainStatus(err error, g *topology.GNMI) error {
	switch status.Code(err) {
	case codes.Unauthenticated:
		if g.Username == "" {
			return fmt.Errorf("%w: the device asks for a login: give gnmi.username and gnmi.password_file in the topology", err)
		}
		return fmt.Errorf("%w: does the device know user %s, by the password in %s?", err, g.Username, g.PasswordFile)
	case codes.PermissionDenied:
		return fmt.Errorf("%w: is the certificate in the topology one that the device accepts, and may its user read?", err)
	case codes.Unavailable:
		return fmt.Errorf("%w: is the agent running there, and is it the right address?", err)
	case codes.ResourceExhausted:
		return fmt.Errorf("%w: too many subscribers or events for the device", err)
	}
	return err
}
