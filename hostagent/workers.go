package hostagent

import (
	"context"
	"sync"
	"sync/atomic"

	"decaf/api/decafpb"
	"decaf/tracer"
)

// job is one trace to make, and the record that asked for it.
type job struct {
	flow    flowIn
	request tracer.Request
	record  *decafpb.Retransmit
	// doubt is why the path may not be the one on which packets were lost; "":
	// it is.
	doubt string
	// wait gives the path of a trace that was started.
	wait func(context.Context) *decafpb.Path
}

// workers trace beside the event loop, so that a slow trace never keeps events
// from being read. Only the first probes leave in its own step: a path is worth
// most when it is asked for at once.
type workers struct {
	tracer  PathTracer
	starter starter // tracer, where it is one
	done    func(job, *decafpb.Path)
	queue   chan job
	free    atomic.Int64 // workers without a job, less the jobs in the queue
	wg      sync.WaitGroup
}

// starter is a PathTracer that can send the probes of a trace at once, without
// waiting for anything. wait gives the path as Do does; it must be called soon.
// tracer.Tracer is one.
type starter interface {
	Start(tracer.Request) (wait func(context.Context) *decafpb.Path)
}

// startWorkers starts n workers that hand their results to done. ctx bounds the
// traces; stop ends the workers.
func startWorkers(ctx context.Context, n, queue int, t PathTracer, done func(job, *decafpb.Path)) *workers {
	w := &workers{tracer: t, done: done, queue: make(chan job, queue)}
	w.starter, _ = t.(starter)
	w.free.Store(int64(n))
	for range n {
		w.wg.Go(func() {
			for j := range w.queue {
				w.done(j, j.doubted(w.trace(ctx, j)))
				w.free.Add(1)
			}
		})
	}
	return w
}

// trace traces from where the flow is.
func (w *workers) trace(ctx context.Context, j job) *decafpb.Path {
	if j.wait != nil {
		return j.wait(ctx)
	}
	if t, ok := w.tracer.(SpaceTracer); ok && j.flow.netns != 0 {
		return t.DoIn(ctx, j.flow.netns, j.request)
	}
	return w.tracer.Do(ctx, j.request)
}

// doubted says of a path what is in doubt about it.
func (j *job) doubted(p *decafpb.Path) *decafpb.Path {
	if j.doubt != "" && p.GetStatus() == decafpb.PathStatus_PATH_STATUS_COMPLETE {
		p.Status, p.Why = decafpb.PathStatus_PATH_STATUS_PARTIAL, j.doubt
	}
	return p
}

// submit queues a job; false when the queue is full. Where a worker is free to see
// to what follows, the first probes leave before submit returns. It has one caller
// at a time.
func (w *workers) submit(j job) bool {
	if len(w.queue) == cap(w.queue) {
		return false
	}
	if w.free.Add(-1) >= 0 && w.starter != nil && j.flow.netns == 0 {
		j.wait = w.starter.Start(j.request)
	}
	w.queue <- j
	return true
}

// stop waits until every job queued is done. No submit may follow.
func (w *workers) stop() {
	close(w.queue)
	w.wg.Wait()
}
