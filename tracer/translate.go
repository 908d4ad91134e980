package tracer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"decaf/api/packet"
)

// Translator knows what a flow's packets look like once they have left this
// host, or what stands right behind it.
type Translator interface {
	// Translate gives the five-tuple on the wire of a flow as the socket has it:
	// the flow itself where nothing changes it. An error means that it is changed
	// and that into what cannot be told: the flow is not traced then. It is an
	// [Unresolved] where the reason has a name.
	Translate(ctx context.Context, f packet.Flow) (packet.Flow, error)
}

// Unresolved is why a flow's five-tuple on the wire is not known.
type Unresolved struct {
	Reason string // one of Reasons
	Err    error
}

// The reasons counted apart.
const (
	ReasonUnknown = "unknown" // the balancer does not know the connection
	ReasonTimeout = "timeout" // it did not answer in time
	ReasonAnswer  = "answer"  // it answered, but nothing that can be used
	ReasonTunnel  = "tunnel"  // packets are sent on inside others
	ReasonError   = "error"   // anything else
)

// Reasons are all reasons, in a fixed order.
var Reasons = []string{ReasonUnknown, ReasonTimeout, ReasonAnswer, ReasonTunnel, ReasonError}

func (u *Unresolved) Error() string { return u.Err.Error() }
func (u *Unresolved) Unwrap() error { return u.Err }

func unresolved(reason, format string, args ...any) error {
	return &Unresolved{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// Translation says where five-tuples may change. The zero value: nowhere.
type Translation struct {
	// Conntrack asks the kernel's connection tracking (NAT on this host); IPVS
	// reads its load balancer's connections. Both ask nothing where the kernel has
	// neither.
	Conntrack, IPVS bool
	// Balancer is asked about flows to its addresses; nil for none. Changeable
	// lets [Tracer.SetBalancer] put another in its place.
	Balancer   *BalancerConfig
	Changeable bool
	// Others come last, in order.
	Others []Translator
}

func (c *Translation) validate() error {
	if c.Balancer == nil {
		return nil
	}
	return c.Balancer.Validate()
}

// open gives the translators in the order that packets meet them.
func (c *Translation) open(log *slog.Logger) (translators, error) {
	var list translators
	if c.Conntrack {
		t, err := openConntrack()
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			log.Info("flows are traced as their sockets see them: this kernel's connection tracking cannot be asked", "err", err)
		case err != nil:
			return nil, err
		default:
			list = append(list, t)
		}
	}
	if c.IPVS {
		if t := openIPVS(); t != nil {
			list = append(list, t)
		}
	}
	if c.Balancer != nil || c.Changeable {
		slot := new(balancerSlot)
		if c.Balancer != nil {
			slot.now.Store(newBalancer(*c.Balancer))
		}
		list = append(list, slot)
	}
	return append(list, c.Others...), nil
}

// translators are asked one after the other, each about what the one before
// made of the flow.
type translators []Translator

func (list translators) resolve(ctx context.Context, f packet.Flow) (packet.Flow, error) {
	wire := f
	for _, t := range list {
		next, err := t.Translate(ctx, wire)
		if err != nil {
			return f, fmt.Errorf("what %s is on the wire is not known: %w", f, err)
		}
		if next.Proto != packet.TCP || !next.Src.IsValid() || !next.Dst.IsValid() || next.Src.Addr().Is4() != next.Dst.Addr().Is4() ||
			next.Src.Addr().Is4() != f.Src.Addr().Is4() {
			return f, unresolved(ReasonAnswer, "%s is said to be %s on the wire: want a TCP flow of the same address family", f, next)
		}
		wire = next
	}
	return wire, nil
}

func (list translators) close() error {
	var err error
	for _, t := range list {
		if c, ok := t.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// resolve gives what a flow is once its packets have left this host, and who
// sends such packets, below the translation that made them of it.
func (t *Tracer) resolve(ctx context.Context, f packet.Flow) (packet.Flow, *wire, error) {
	out, err := t.translate.resolve(ctx, f)
	if err != nil || t.cfg.Host == nil {
		return out, t.wire, err
	}
	beyond, by, err := t.cfg.Host.resolve(ctx, out)
	if err == nil && beyond == out {
		by = t.wire
	}
	return beyond, by, err
}

// prompt is a Translator that knows at once what becomes of some flows.
type prompt interface {
	// untranslated says that a flow is on the wire what it is here; false where
	// that is not so, or takes a while to learn.
	untranslated(packet.Flow) bool
}

// untranslated says whether a flow is known at once to leave this host as it is.
func (t *Tracer) untranslated(f packet.Flow) bool {
	for _, one := range t.translate {
		if p, ok := one.(prompt); !ok || !p.untranslated(f) {
			return false
		}
	}
	return t.cfg.Host == nil || t.cfg.Host.untranslated(f)
}

// reasonOf is under which name an error is counted.
func reasonOf(err error) string {
	var u *Unresolved
	switch {
	case errors.As(err, &u):
		return u.Reason
	case errors.Is(err, context.DeadlineExceeded):
		return ReasonTimeout
	}
	return ReasonError
}
