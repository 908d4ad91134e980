package bus

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"decaf/api/service"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	requestLimit = 5 * time.Second
	dialLimit    = 2 * time.Second
	// Between attempts to reconnect: short, since evidence is late
	// meanwhile, and never more than two seconds.
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 2 * time.Second
	// A peer that is gone without a word is noticed after three of these.
	pingInterval = 10 * time.Second
)

// ConnConfig describes a connection to NATS: to URL, or to Server.
type ConnConfig struct {
	// URL is nats://host:port or tls://host:port, several with commas.
	URL string
	TLS *service.TLSFiles
	// Name is host.<name>, collector.<name> or admin.<name>; with TLS it must
	// be the common name of the certificate. Not needed with Server.
	Name string
	Site string
	// Server connects in process and with every right, instead of URL.
	Server *Server
	// MaxBytes and MaxAge bound the evidence stream when EnsureStreams makes
	// it. Zero: the Server's, else those of DefaultServerConfig.
	MaxBytes int64
	MaxAge   time.Duration
}

// Conn is a connection that outlives the server's going away. Safe for
// concurrent use.
type Conn struct {
	cfg      ConnConfig
	log      *slog.Logger
	nc       *nats.Conn
	js       jetstream.JetStream
	codec    *codec
	maxBytes int64
	maxAge   time.Duration
	closed   chan struct{} // closed when the connection is, for good

	mu      sync.Mutex
	up      chan struct{} // closed and replaced at every (re)connect
	isUp    bool          // what nats.go last said; asking it can block for a dial
	lastErr error         // of the last attempt to connect, nil when connected

	consumed consumeCounters
}

// Connect returns after the first attempt to connect, whether it succeeded or
// not: an agent that starts before its server collects evidence meanwhile and
// sends it once the server is there. [Conn.Ready] says how it went. Errors are
// those that trying again cannot mend: a bad URL or name, unreadable
// certificates, a Server that has stopped.
//
// ctx bounds Connect alone; Close ends the connection.
func Connect(ctx context.Context, cfg ConnConfig, log *slog.Logger) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkSite(cfg.Site); err != nil {
		return nil, err
	}
	if err := checkBounds(cfg.MaxBytes, cfg.MaxAge); err != nil {
		return nil, err
	}
	def := DefaultServerConfig()
	if cfg.Server != nil {
		def = cfg.Server.cfg
	}
	c := &Conn{
		cfg: cfg, log: log, maxBytes: cfg.MaxBytes, maxAge: cfg.MaxAge,
		closed: make(chan struct{}), up: make(chan struct{}),
	}
	if c.maxBytes == 0 {
		c.maxBytes = def.MaxBytes
	}
	if c.maxAge == 0 {
		c.maxAge = def.MaxAge
	}
	opts, err := c.options()
	if err != nil {
		return nil, err
	}
	if c.codec, err = newCodec(); err != nil {
		return nil, err
	}
	url := cfg.URL
	if cfg.Server != nil {
		url = ""
	}
	if c.nc, err = nats.Connect(url, opts...); err != nil {
		c.codec.close()
		return nil, fmt.Errorf("connect to nats at %s: %w", c.where(), err)
	}
	if c.js, err = jetstream.New(c.nc, jetstream.WithDefaultTimeout(requestLimit)); err != nil {
		c.Close()
		return nil, fmt.Errorf("use jetstream at %s: %w", c.where(), err)
	}
	if c.nc.IsConnected() {
		// The handler that says so runs on a goroutine of nats.go's; Ready
		// must hold when we return.
		c.mu.Lock()
		c.isUp = true
		c.mu.Unlock()
	} else {
		err := c.Ready()
		if cfg.Server != nil { // it cannot come back
			c.Close()
			return nil, err
		}
		log.Warn("nats cannot be reached yet: trying on, evidence waits in the spool", "url", c.where(), "error", err)
	}
	return c, nil
}

func (c *Conn) options() ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Timeout(dialLimit),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(reconnectDelay),
		// A certificate may be renewed, a host added to the topology: being
		// refused now is no reason to give up for good.
		nats.IgnoreAuthErrorAbort(),
		// Nothing is buffered below us: the spool knows what was sent.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(*nats.Conn) { c.connected() }),
		nats.ReconnectHandler(func(*nats.Conn) {
			c.log.Info("nats is back", "url", c.where())
			c.connected()
		}),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if nc.IsClosed() {
				return
			}
			c.log.Warn("nats went away: trying to reconnect, evidence waits in the spool", "url", c.where(), "error", err)
			c.disconnected(err)
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			c.log.Debug("nats still cannot be reached", "url", c.where(), "error", err)
			c.disconnected(err)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				c.log.Error("nats refuses what this connection tries: is its name the one in the topology, and its certificate's?", "name", c.cfg.Name, "error", err)
				return
			}
			c.log.Warn("nats", "error", err)
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
	if c.cfg.Server != nil {
		var id [8]byte
		rand.Read(id[:])
		return append(opts,
			nats.Name("in-process"),
			nats.InProcessServer(c.cfg.Server.ns),
			nats.Token(c.cfg.Server.token),
			nats.CustomInboxPrefix(inboxPrefix(RoleAdmin, hex.EncodeToString(id[:]))),
		), nil
	}
	if err := ValidURL(c.cfg.URL); err != nil {
		return nil, err
	}
	role, id, err := parseName(c.cfg.Name)
	if err != nil {
		return nil, err
	}
	opts = append(opts, nats.Name(c.cfg.Name), nats.CustomInboxPrefix(inboxPrefix(role, id)))
	if c.cfg.TLS == nil {
		return append(opts, nats.UserInfo(c.cfg.Name, "")), nil
	}
	t, err := c.cfg.TLS.Client("")
	if err != nil {
		return nil, fmt.Errorf("connect to nats at %s: %w", c.cfg.URL, err)
	}
	return append(opts, nats.Secure(t)), nil
}

func reconnectDelay(attempts int) time.Duration {
	d := reconnectMost
	if attempts < 6 {
		d = min(d, reconnectFirst<<attempts)
	}
	// Half of it at random, so that a site's agents do not come back as one.
	var b [1]byte
	rand.Read(b[:])
	return d/2 + d/2*time.Duration(b[0])/255
}

// Close ends the connection. Close publishers first: what they have not sent
// is lost with them, not with the connection.
func (c *Conn) Close() {
	c.nc.Close()
	<-c.closed
	c.codec.close()
}

// Ready is nil while the server can be reached; else it says why not.
func (c *Conn) Ready() error {
	select {
	case <-c.closed:
		return fmt.Errorf("connection to nats at %s is closed", c.where())
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isUp {
		return nil
	}
	if c.lastErr != nil {
		return fmt.Errorf("nats at %s cannot be reached: %w", c.where(), c.lastErr)
	}
	return fmt.Errorf("nats at %s cannot be reached: is it running there?", c.where())
}

// WaitReady blocks until Ready, or ctx is done: then it says why it is not.
func (c *Conn) WaitReady(ctx context.Context) error {
	for {
		up := c.nextUp()
		if c.Ready() == nil {
			return nil
		}
		select {
		case <-up:
		case <-c.closed:
			return c.Ready()
		case <-ctx.Done():
			return errors.Join(c.Ready(), ctx.Err())
		}
	}
}

// Site is the site the connection was made for.
func (c *Conn) Site() string { return c.cfg.Site }

// AgentConfig returns the settings stored for an agent in BucketAgentConfig
// and their revision; revision 0 if there are none. A host may ask for its own.
func (c *Conn) AgentConfig(ctx context.Context, name string) (value []byte, revision uint64, err error) {
	if !token.MatchString(name) {
		return nil, 0, fmt.Errorf("agent %q is no usable name", name)
	}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET.KV_"+BucketAgentConfig+"."+configSubject(name), nil)
	if err != nil {
		return nil, 0, fmt.Errorf("read settings of agent %s: %w", name, explain(err))
	}
	if m.Header.Get("Status") == "404" || m.Header.Get("KV-Operation") != "" { // none, or deleted
		return nil, 0, nil
	}
	if s := m.Header.Get("Status"); s != "" {
		return nil, 0, fmt.Errorf("read settings of agent %s: status %s %s", name, s, m.Header.Get("Description"))
	}
	if _, err := fmt.Sscan(m.Header.Get(jetstream.SequenceHeader), &revision); err != nil {
		return nil, 0, fmt.Errorf("read settings of agent %s: answer without a sequence number", name)
	}
	return m.Data, revision, nil
}

// WatchAgentConfig calls changed whenever the settings of an agent are written,
// until stop; AgentConfig has the new ones at once or some milliseconds later.
// What is written while NATS is away goes unheard. A host may listen to its own.
func (c *Conn) WatchAgentConfig(name string, changed func()) (stop func(), err error) {
	if !token.MatchString(name) {
		return nil, fmt.Errorf("agent %q is no usable name", name)
	}
	sub, err := c.nc.Subscribe(configSubject(name), func(*nats.Msg) { changed() })
	if err != nil {
		return nil, fmt.Errorf("listen for settings of agent %s: %w", name, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

func (c *Conn) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isUp, c.lastErr = true, nil
	close(c.up)
	c.up = make(chan struct{})
}

func (c *Conn) disconnected(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isUp, c.lastErr = false, err
}

// nextUp is closed at the next (re)connect.
func (c *Conn) nextUp() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up
}

// generation counts connections; it has changed before anything is sent on a
// new one.
func (c *Conn) generation() uint64 { return c.nc.Stats().Reconnects }

func (c *Conn) where() string {
	if c.cfg.Server != nil {
		return "this process"
	}
	return c.cfg.URL
}
