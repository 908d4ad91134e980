package tracer

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"decaf/api/packet"
)

// BalancerConfig is an external load balancer that can be asked into which
// five-tuple it made a connection to one of its addresses.
//
// It is asked by GET URL?src=…&src_port=…&dst=…&dst_port=…&protocol=tcp and
// answers 200 with a JSON object of the same names, of which those left out are
// unchanged: {"dst":"10.0.3.7","dst_port":8443}. 404 means that it does not know
// the connection.
type BalancerConfig struct {
	URL string
	// Networks holds the addresses that it balances; flows to others it is not asked about.
	Networks []netip.Prefix
	// Timeout is for one question. A packet is missing meanwhile: little is enough.
	Timeout time.Duration
	// Keep is how long an answer is believed, also a bad one; MaxCached bounds
	// them, and MaxAsking the questions under way.
	Keep                 time.Duration
	MaxCached, MaxAsking int
	// Client is http.DefaultClient where nil.
	Client *http.Client
}

// DefaultBalancer waits for 200 ms at most and believes an answer for 30 s, an epoch.
func DefaultBalancer() BalancerConfig {
	return BalancerConfig{Timeout: 200 * time.Millisecond, Keep: 30 * time.Second, MaxCached: 8192, MaxAsking: 16}
}

// Validate says what is wrong with a configuration, if anything.
func (c *BalancerConfig) Validate() error {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("balancer URL %q: want http://HOST/… or https://HOST/…", c.URL)
	case len(c.Networks) == 0:
		return errors.New("balancer networks: name those whose addresses it balances")
	case c.Timeout <= 0 || c.Timeout > 10*time.Second:
		return fmt.Errorf("balancer timeout %s: want more than 0 and at most 10s", c.Timeout)
	case c.Keep < 0 || c.MaxCached < 1 || c.MaxAsking < 1:
		return fmt.Errorf("balancer limits: keep %s, cached %d, asking %d: want 0 or more, and at least 1 of the others", c.Keep, c.MaxCached, c.MaxAsking)
	}
	return nil
}

// ErrFixed is that of SetBalancer where Translation.Changeable is not set.
var ErrFixed = errors.New("the balancer of this tracer cannot be changed")

// balancerSlot holds the balancer in force, which may change while traces go on.
type balancerSlot struct{ now atomic.Pointer[balancer] }

// Translate asks the balancer in force; without one nothing changes the flow.
func (s *balancerSlot) Translate(ctx context.Context, f packet.Flow) (packet.Flow, error) {
	if b := s.now.Load(); b != nil {
		return b.Translate(ctx, f)
	}
	return f, nil
}

// untranslated is that of prompt.
func (s *balancerSlot) untranslated(f packet.Flow) bool {
	b := s.now.Load()
	return b == nil || !b.balances(f)
}

// SetBalancer has another external balancer asked from now on; nil asks none.
// Traces under way go on with the one before. Errors: a bad configuration, which
// changes nothing, or ErrFixed.
func (t *Tracer) SetBalancer(cfg *BalancerConfig) error {
	var b *balancer
	if cfg != nil {
		if err := cfg.Validate(); err != nil {
			return err
		}
		b = newBalancer(*cfg)
	}
	for _, one := range t.translate {
		if slot, ok := one.(*balancerSlot); ok {
			slot.now.Store(b)
			return nil
		}
	}
	return ErrFixed
}

// balancer asks it. Safe for concurrent use.
type balancer struct {
	cfg    BalancerConfig
	now    func() time.Time
	asking chan struct{}

	mu    sync.Mutex
	known map[packet.Flow]*list.Element
	order *list.List // of *balanced, oldest first
}

type balanced struct {
	flow, wire packet.Flow
	err        error
	until      time.Time
}

func newBalancer(cfg BalancerConfig) *balancer {
	if cfg.Client == nil {
		cfg.Client = http.DefaultClient
	}
	return &balancer{cfg: cfg, now: time.Now, asking: make(chan struct{}, cfg.MaxAsking),
		known: make(map[packet.Flow]*list.Element), order: list.New()}
}

// balances says whether a flow goes to one of its addresses.
func (b *balancer) balances(f packet.Flow) bool {
	return slices.ContainsFunc(b.cfg.Networks, func(p netip.Prefix) bool { return p.Contains(f.Dst.Addr()) })
}

// Translate asks, or remembers.
func (b *balancer) Translate(ctx context.Context, f packet.Flow) (packet.Flow, error) {
	if !b.balances(f) {
		return f, nil
	}
	if r := b.recall(f); r != nil {
		return r.wire, r.err
	}
	select {
	case b.asking <- struct{}{}:
		defer func() { <-b.asking }()
	default:
		return f, unresolved(ReasonTimeout, "%d questions to the balancer are under way already", cap(b.asking))
	}
	wire, err := b.ask(ctx, f)
	if ctx.Err() == nil { // else it says nothing of the balancer
		b.remember(&balanced{flow: f, wire: wire, err: err, until: b.now().Add(b.cfg.Keep)})
	}
	return wire, err
}

func (b *balancer) recall(f packet.Flow) *balanced {
	b.mu.Lock()
	defer b.mu.Unlock()
	el := b.known[f]
	if el == nil {
		return nil
	}
	if r := el.Value.(*balanced); b.now().Before(r.until) {
		return r
	}
	b.order.Remove(el)
	delete(b.known, f)
	return nil
}

func (b *balancer) remember(r *balanced) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if el := b.known[r.flow]; el != nil {
		b.order.Remove(el)
	}
	for b.order.Len() >= b.cfg.MaxCached {
		el := b.order.Front()
		delete(b.known, el.Value.(*balanced).flow)
		b.order.Remove(el)
	}
	b.known[r.flow] = b.order.PushBack(r)
}

// maxBalancerAnswer bounds an answer in bytes.
const maxBalancerAnswer = 4096

func (b *balancer) ask(ctx context.Context, f packet.Flow) (packet.Flow, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	u, err := url.Parse(b.cfg.URL)
	if err != nil {
		return f, fmt.Errorf("balancer: %w", err)
	}
	q := u.Query()
	q.Set("src", f.Src.Addr().String())
	q.Set("src_port", strconv.Itoa(int(f.Src.Port())))
	q.Set("dst", f.Dst.Addr().String())
	q.Set("dst_port", strconv.Itoa(int(f.Dst.Port())))
	q.Set("protocol", "tcp")
	u.RawQuery = q.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return f, fmt.Errorf("balancer: %w", err)
	}
	response, err := b.cfg.Client.Do(request)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return f, unresolved(ReasonTimeout, "the balancer did not answer within %s", b.cfg.Timeout)
	case err != nil:
		return f, unresolved(ReasonError, "ask the balancer: %w", err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return f, unresolved(ReasonUnknown, "the balancer does not know the connection")
	default:
		return f, unresolved(ReasonAnswer, "the balancer answered %s", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBalancerAnswer+1))
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return f, unresolved(ReasonTimeout, "the balancer did not answer within %s", b.cfg.Timeout)
	case err != nil:
		return f, unresolved(ReasonError, "read the balancer's answer: %w", err)
	case len(body) > maxBalancerAnswer:
		return f, unresolved(ReasonAnswer, "the balancer answered more than %d bytes", maxBalancerAnswer)
	}
	return readBalanced(body, f)
}

// readBalanced reads an answer about a flow.
func readBalanced(body []byte, f packet.Flow) (packet.Flow, error) {
	var a struct {
		Src, Dst netip.Addr
		SrcPort  *uint16 `json:"src_port"`
		DstPort  *uint16 `json:"dst_port"`
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return f, unresolved(ReasonAnswer, "the balancer's answer cannot be read: %w", err)
	}
	end := func(was netip.AddrPort, addr netip.Addr, port *uint16) netip.AddrPort {
		if !addr.IsValid() {
			addr = was.Addr()
		}
		if port == nil {
			return netip.AddrPortFrom(addr.Unmap(), was.Port())
		}
		return netip.AddrPortFrom(addr.Unmap(), *port)
	}
	wire := packet.Flow{Src: end(f.Src, a.Src, a.SrcPort), Dst: end(f.Dst, a.Dst, a.DstPort), Proto: f.Proto}
	if wire.Src.Port() == 0 || wire.Dst.Port() == 0 || wire.Src.Addr().Zone() != "" || wire.Dst.Addr().Zone() != "" {
		return f, unresolved(ReasonAnswer, "the balancer made %s of it: no flow", wire)
	}
	return wire, nil
}
