package kernel

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"decaf/sim/scenario"
)

// effect is a fault at work: what is in the kernel and has to go again.
type effect interface {
	// read fills in the figures of the truth so far; after undo, the last ones.
	read(*Truth) error
	// undo restores what was there before.
	undo() error
}

// Active is a fault at work. Safe for concurrent use.
type Active struct {
	fabric *Fabric

	mu      sync.Mutex
	effect  effect // nil once stopped
	truth   Truth
	stopErr error
}

// Apply begins a fault. When it ends is the caller's affair, at the latest it
// ends with the fabric: At, For and Every of the fault are not looked at. A key
// that the kind cannot honour is an error.
func (f *Fabric) Apply(fault scenario.Fault) (*Active, error) {
	fail := func(err error) (*Active, error) {
		return nil, fmt.Errorf("fault %s on %q: %w", fault.Kind, fault.On, err)
	}
	g, err := resolve(f.topology, fault)
	if err != nil {
		return fail(err)
	}
	// Held throughout, so that the fabric is not closed under the fault.
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fail(errors.New("the fabric is closed"))
	}
	var e effect
	var source string
	switch fault.Kind {
	case "silent-loss":
		source = "xdp"
		e, err = f.silentLoss(g)
	case "acl":
		source = "nftables"
		e, err = f.acl(g)
	case "no-route":
		source = "IpExtInNoRoutes"
		e, err = f.noRoute(g)
	case "queue":
		source = "tbf"
		e, err = f.queue(g)
	default:
		err = errors.New("not built")
	}
	if err != nil {
		return fail(err)
	}
	a := &Active{fabric: f, effect: e, truth: Truth{
		Fault: fault, Component: fault.Component(), From: time.Now(), Source: source,
	}}
	f.active = append(f.active, a)
	return a, nil
}

// Stop ends the fault and restores exactly what was there before. More calls give
// the first one's result.
func (a *Active) Stop() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.effect == nil {
		return a.stopErr
	}
	undone := a.effect.undo()
	// undo ends the dropping but keeps the last figures for read.
	a.truth.Err = a.effect.read(&a.truth)
	a.truth.To = time.Now()
	a.effect = nil
	if undone != nil {
		a.stopErr = fmt.Errorf("end fault %s on %q: %w", a.truth.Fault.Kind, a.truth.Fault.On, undone)
	}
	f := a.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active = slices.DeleteFunc(f.active, func(b *Active) bool { return a == b })
	return a.stopErr
}

// Truth gives what the fault did so far; after Stop, all of it.
func (a *Active) Truth() Truth {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.truth
	if a.effect != nil {
		t.Err = a.effect.read(&t)
	}
	t.Drops = slices.Clone(t.Drops)
	return t
}
