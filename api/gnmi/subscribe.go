package gnmi

import (
	"context"
	"errors"
	"io"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Subscribe implements gnmi.GNMI.
func (t *Target) Subscribe(rpc gnmipb.GNMI_SubscribeServer) error {
	if ended(t.stopping) {
		return errStopping
	}
	t.calls.Add(1)
	defer t.calls.Done()
	if n := t.subscribers.Add(1); n > int64(t.cfg.MaxSubscribers) {
		t.subscribers.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "%d subscribers already: close one first", t.cfg.MaxSubscribers)
	}
	defer t.subscribers.Add(-1)

	// The first message in its own goroutine too: the target may end before a
	// client that dialled has said what it wants.
	ctx, cancel := context.WithCancel(rpc.Context())
	defer cancel()
	requests := make(chan request)
	t.calls.Add(1)
	go func() {
		defer t.calls.Done()
		receive(ctx, rpc, requests)
	}()
	first, err := t.next(ctx, requests)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	list := first.GetSubscribe()
	if list == nil {
		return status.Error(codes.InvalidArgument, "the first message of a Subscribe call must hold a subscription list")
	}
	ext, err := readExtensions(first.GetExtension(), callSubscribe)
	if err != nil {
		return err
	}
	p, err := t.newPlan(list, ext, time.Now())
	if err != nil {
		return err
	}
	if err := mark(ctx, list.GetQos()); err != nil {
		return err
	}
	switch p.mode {
	case gnmipb.SubscriptionList_ONCE:
		return t.once(ctx, requests, rpc, p)
	case gnmipb.SubscriptionList_POLL:
		return t.poll(ctx, requests, rpc, p)
	default:
		return t.serveStream(ctx, requests, rpc, p)
	}
}

type request struct {
	msg *gnmipb.SubscribeRequest
	err error
}

// receive hands on what the client sends until it ends.
func receive(ctx context.Context, rpc gnmipb.GNMI_SubscribeServer, out chan<- request) {
	for {
		m, err := rpc.Recv()
		select {
		case out <- request{m, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// next waits for the next message; io.EOF when the client will send no more.
func (t *Target) next(ctx context.Context, requests <-chan request) (*gnmipb.SubscribeRequest, error) {
	select {
	case r := <-requests:
		return r.msg, r.err
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-t.stopping:
		return nil, errStopping
	}
}

// serve runs work, which sends, in a goroutine of its own, and ends the call
// when work does, when the client misbehaves or goes away, or when the target
// stops. gRPC fails a Send that hangs on a client's flow control only once the
// call's handler has returned; so the handler does not wait for work, the
// target does (Target.calls). q ends the call when the subscriber lost too much.
func (t *Target) serve(ctx context.Context, requests <-chan request, p *plan, q *queue, work func() error) error {
	done := make(chan error, 1)
	t.calls.Add(1)
	go func() {
		defer t.calls.Done()
		done <- work()
	}()
	for {
		select {
		case err := <-done:
			return err
		case <-q.failed:
			return status.Errorf(codes.ResourceExhausted, "subscriber too slow: more than %d events lost since it last caught up: read faster, or subscribe to less", q.maxLost)
		case r := <-requests:
			if errors.Is(r.err, io.EOF) {
				requests = nil // the client has said all, and listens on
				continue
			}
			if r.err != nil {
				return r.err
			}
			return unexpected(r.msg, p.mode)
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-t.stopped: // work, which ends by itself once the target is stopping, takes too long
			return errStopping
		}
	}
}

func unexpected(m *gnmipb.SubscribeRequest, mode gnmipb.SubscriptionList_Mode) error {
	switch m.GetRequest().(type) {
	case *gnmipb.SubscribeRequest_Subscribe:
		return status.Error(codes.InvalidArgument, "a second subscription list: use a call of its own for it")
	case *gnmipb.SubscribeRequest_Poll:
		return status.Errorf(codes.InvalidArgument, "poll in a call of mode %s: subscribe with mode POLL", mode)
	}
	return status.Errorf(codes.InvalidArgument, "empty request in a call of mode %s", mode)
}

// poll sends everything, and again each time the client asks.
func (t *Target) poll(ctx context.Context, requests <-chan request, rpc gnmipb.GNMI_SubscribeServer, p *plan) error {
	for {
		if err := t.once(ctx, nil, rpc, p); err != nil {
			return err
		}
		m, err := t.next(ctx, requests)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.GetPoll() == nil {
			return unexpected(m, p.mode)
		}
		p.updatesOnly = false
	}
}
