package hostagent

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"

	"decaf/api/decafpb"
	"decaf/tracer"
)

// askedTracer keeps what it is asked for.
type askedTracer struct {
	tracerFunc
	asked *[]tracer.Request
}

func (a askedTracer) Do(ctx context.Context, r tracer.Request) *decafpb.Path {
	*a.asked = append(*a.asked, r)
	return pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE)
}

// A trace is told what the event knows of the connection; and where the label of
// what was lost is not known its path is not called whole, nor are those of the
// records after it.
func TestTracesKnowWhatTheEventDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := DefaultConfig()
		cfg.Trace.Workers = 1
		var asked []tracer.Request
		a, rec, stop := still(cfg, askedTracer{asked: &asked})
		defer stop()
		six := func(change func(e *event)) func(e *event) {
			return func(e *event) {
				e.src, e.dst = netip.MustParseAddrPort("[2001:db8::1]:1"), netip.AddrPortFrom(netip.MustParseAddr("2001:db8::2"), e.dst.Port())
				e.unacked, e.next, e.label = 5, 9, 77
				change(e)
			}
		}
		last := func() *decafpb.Path {
			synctest.Wait()
			all := rec.all()
			return all[len(all)-1].GetPath()
		}
		a.handle(eventOf(1, six(func(*event) {})))
		if p := last(); p.GetStatus() != decafpb.PathStatus_PATH_STATUS_COMPLETE {
			t.Errorf("path %v", p)
		}
		if r := asked[0]; r.FlowLabel != 77 || r.Sequence == nil || *r.Sequence != (tracer.Sequence{Unacked: 5, Next: 9}) {
			t.Errorf("asked for %+v", r)
		}
		a.handle(eventOf(2, six(func(e *event) { e.unacked, e.next = 0, 0 })))
		if synctest.Wait(); asked[1].Sequence != nil {
			t.Errorf("a source that does not tell is at %+v", *asked[1].Sequence)
		}
		for range 2 {
			a.handle(eventOf(3, six(func(e *event) { e.relabelled = true })))
			if p := last(); p.GetWhy() == "" || p.GetStatus() == decafpb.PathStatus_PATH_STATUS_COMPLETE {
				t.Errorf("path %v, want a doubt about it", p)
			}
		}
		if n := len(asked); n != 3 {
			t.Errorf("%d traces, want 3", n)
		}
		for _, e := range []event{
			eventOf(4, six(func(e *event) { e.flags = flagSYN })),
			eventOf(4, six(func(e *event) { e.what = whatSynAck })),
		} {
			if s := e.sequence(); s != nil {
				t.Errorf("no connection yet, and it is at %+v", *s)
			}
		}
	})
}
