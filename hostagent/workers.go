package hostagent

import (
	"context"
	"sync"

	"decaf/api/decafpb"
)

// job is one trace to make, and the record that asked for it.
type job struct {
	flow   flowIn
	epoch  int64
	record *decafpb.Retransmit
}

// workers trace beside the event loop, so that a slow trace never keeps events
// from being read.
type workers struct {
	tracer PathTracer
	done   func(job, *decafpb.Path)
	queue  chan job
	wg     sync.WaitGroup
}

// startWorkers starts n workers that hand their results to done. ctx bounds the
// traces; stop ends the workers.
func startWorkers(ctx context.Context, n, queue int, t PathTracer, done func(job, *decafpb.Path)) *workers {
	w := &workers{tracer: t, done: done, queue: make(chan job, queue)}
	for range n {
		w.wg.Go(func() {
			for j := range w.queue {
				w.done(j, w.trace(ctx, j))
			}
		})
	}
	return w
}

// trace traces from where the flow is.
func (w *workers) trace(ctx context.Context, j job) *decafpb.Path {
	if t, ok := w.tracer.(SpaceTracer); ok && j.flow.netns != 0 {
		return t.TraceIn(ctx, j.flow.netns, j.flow.Flow, j.epoch)
	}
	return w.tracer.Trace(ctx, j.flow.Flow, j.epoch)
}

// submit queues a job; false when the queue is full.
func (w *workers) submit(j job) bool {
	select {
	case w.queue <- j:
		return true
	default:
		return false
	}
}

// stop waits until every job queued is done. No submit may follow.
func (w *workers) stop() {
	close(w.queue)
	w.wg.Wait()
}
