package kernel

import (
	"errors"
	"sync"
	"time"
)

// flapPeriod is how often a flapping route goes and comes back.
const flapPeriod = 2 * time.Second

// flapShare is the part of that time for which it is gone, where the fault's rate
// does not say.
const flapShare = 0.5

// routeFlap takes a device's routes away and puts them back, again and again; first
// they are gone. Each time the routes are gone the device says errors/l3/rx/no-route,
// each change is one of its routing table.
type routeFlap struct {
	*noRoute
	stop chan struct{}
	done chan struct{} // closed when the routes change no more

	mu  sync.Mutex
	err error
}

func (f *Fabric) routeFlap(g *target) (effect, error) {
	routes, err := f.withdrawable(g)
	if err != nil {
		return nil, err
	}
	if err := routes.withdraw(); err != nil {
		return nil, errors.Join(err, routes.undo())
	}
	share := g.rate
	if share == 1 {
		share = flapShare
	}
	e := &routeFlap{noRoute: routes, stop: make(chan struct{}), done: make(chan struct{})}
	go e.flap(time.Duration(share * float64(flapPeriod)))
	return e, nil
}

// flap changes the routes until stop is closed. They are gone for a part of each
// period.
func (e *routeFlap) flap(gone time.Duration) {
	defer close(e.done)
	timer := time.NewTimer(gone)
	defer timer.Stop()
	for back := true; ; back = !back {
		select {
		case <-e.stop:
			return
		case <-timer.C:
		}
		change, next := e.withdraw, gone
		if back {
			change, next = e.restore, flapPeriod-gone
		}
		if err := change(); err != nil {
			e.mu.Lock()
			e.err = err
			e.mu.Unlock()
			return
		}
		timer.Reset(next)
	}
}

func (e *routeFlap) read(t *Truth) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.err, e.noRoute.read(t))
}

func (e *routeFlap) undo() error {
	close(e.stop)
	<-e.done
	return e.noRoute.undo()
}
