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

// effects is how each kind begins, and the counter that tells what it took.
var effects = map[string]struct {
	source string
	begin  func(*Fabric, *target) (effect, error)
}{
	"silent-loss":   {"xdp", (*Fabric).silentLoss},
	"corrupt":       {"xdp", (*Fabric).corrupt},
	"queue":         {"tbf", (*Fabric).queue},
	"acl":           {"nftables", (*Fabric).acl},
	"no-route":      {"IpExtInNoRoutes", (*Fabric).noRoute},
	"route-flap":    {"IpExtInNoRoutes", (*Fabric).routeFlap},
	"blackhole":     {"nftables", (*Fabric).blackhole},
	"ttl-loop":      {"nftables", (*Fabric).ttlLoop},
	"mtu":           {"nftables", (*Fabric).mtu},
	"device-down":   {"nftables", (*Fabric).deviceDown},
	"device-loss":   {"xdp", (*Fabric).deviceLoss},
	"syn-blackhole": {"xdp", (*Fabric).synBlackhole},
	"host-slow":     {"TcpActiveOpens", (*Fabric).hostSlow},
	"server-slow":   {"TcpPassiveOpens", (*Fabric).serverSlow},
	"server-reset":  {"nftables", (*Fabric).serverReset},
}

// apart refuses what would not come apart again: a device that goes down takes its
// routes along, those of another fault too.
func (f *Fabric) apart(g *target) error {
	const down = "device-down"
	for _, a := range f.active {
		other := a.truth.Fault
		if a.truth.Component == g.fault.Component() && (g.fault.Kind == down || other.Kind == down) {
			return fmt.Errorf("the device has a fault of kind %s already, and %s goes with no other", other.Kind, down)
		}
	}
	return nil
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
	if err := f.apart(g); err != nil {
		return fail(err)
	}
	how := effects[fault.Kind]
	e, err := how.begin(f, g)
	if err != nil {
		return fail(err)
	}
	a := &Active{fabric: f, effect: e, truth: Truth{
		Fault: fault, Component: fault.Component(), From: time.Now(), Source: how.source,
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
