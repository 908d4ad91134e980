package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"

	"decaf/api/bus"
	"decaf/api/decafpb"
)

// tracerAgent is the `decaf host` at h1 whose traces are timed, with its tables and its
// NATS as in earnest, and what it published.
type tracerAgent struct {
	*hostAgent
	nats *bus.Conn
	stop func() error // the reading of what it publishes
	read recorder
}

// recorder keeps the retransmits that a host agent publishes.
type recorder struct {
	mu   sync.Mutex
	seen []*decafpb.Retransmit
	told map[string]uint64 // counters of the last heartbeat
}

func (r *recorder) take(b *decafpb.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, b.GetRetransmits()...)
	for _, h := range b.GetHeartbeats() {
		r.told = h.GetCounters()
	}
}

// startAgent starts it and waits until it watches. NATS is reached over the loopback
// of h1, beside the network that is measured.
func (b *tracing) startAgent(ctx context.Context, of budget) (*tracerAgent, error) {
	topo, err := b.f.Topology().Marshal()
	if err != nil {
		return nil, err
	}
	a := &tracerAgent{}
	if a.nats, err = b.nats.connect(ctx); err != nil {
		return nil, err
	}
	reading, cancel := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan error, 1)
	since := time.Now()
	go func() { over <- a.nats.Consume(reading, since, a.read.take) }()
	a.stop = func() error {
		cancel()
		defer a.nats.Close()
		return <-over
	}
	start := func(out io.Writer, args ...string) (*process, error) {
		return newProcess(out, func(cmd *exec.Cmd) error { return b.f.Start("h1", cmd) }, args...)
	}
	config := fmt.Sprintf("trace: {rate: %g, burst: %d}\n", of.rate, of.burst)
	a.hostAgent, err = startHost(ctx, func(fn func() error) error { return b.f.Do("h1", fn) }, start, "h1", topo, config)
	if err != nil {
		return nil, errors.Join(err, a.stop())
	}
	return a, nil
}

// end ends the agent, once, and gives what it published, and its last counters.
func (a *tracerAgent) end(ctx context.Context) (seen []*decafpb.Retransmit, told map[string]uint64, err error) {
	if a.stop == nil {
		return nil, nil, nil
	}
	var records uint64
	counts, err := a.counters()
	// What it has left it sends before it ends, and a heartbeat after all of it.
	a.hostAgent.stop()
	if err == nil {
		var all bool
		all, err = until(ctx, 10*time.Second, func() (bool, error) {
			a.read.mu.Lock()
			defer a.read.mu.Unlock()
			told, records = a.read.told, uint64(len(a.read.seen))
			return float64(told["retransmits"]) >= counts["retransmits"] && records+told["records_merged"]+told["records_left_out"] >= told["retransmits"], nil
		})
		if !all && err == nil {
			err = fmt.Errorf("of %v retransmits that the agent tells of, %d came", counts["retransmits"], records)
		}
	}
	err = errors.Join(err, a.stop())
	a.stop = nil
	return a.read.seen, a.read.told, err
}
