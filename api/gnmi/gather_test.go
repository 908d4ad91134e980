package gnmi

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// timed is when a sender sent what.
type timed struct {
	gnmipb.GNMI_SubscribeServer
	mu   sync.Mutex
	sent []time.Duration // of each message since begin
	from time.Time
}

func (s *timed) SendMsg(any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, time.Since(s.from))
	return nil
}

func (s *timed) Send(*gnmipb.SubscribeResponse) error { return nil } // sync_response

// An event goes at once; those that come soon after go together, unless there
// are many.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const gather = 2 * time.Millisecond
		target, err := New(Config{Queue: 16, Gather: gather}, Deps{Schema: yang.Schema()})
		if err != nil {
			t.Fatal(err)
		}
		p := &plan{live: []pattern{{elems: path("/loss").Elem}}, era: present}
		q := newQueue(target.cfg.Queue, target.cfg.MaxLost, p.wants)
		target.attach(q, p)
		out := &timed{from: time.Now()}
		s := &sender{target, p, out, q}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.stream(ctx) }()
		r := &rig{Target: target}
		check := func(what string, want ...time.Duration) {
			t.Helper()
			out.mu.Lock()
			defer out.mu.Unlock()
			if !slices.Equal(out.sent, want) {
				t.Errorf("%s: sent at %v, want %v", what, out.sent, want)
			}
			out.sent, out.from = nil, time.Now()
		}
		synctest.Wait()
		out.from = time.Now()
		for seq := range uint64(7) { // one at 0, then one every 0.9 ms
			r.event(seq, "no-buffer")
			time.Sleep(900 * time.Microsecond)
		}
		const ms = time.Millisecond
		time.Sleep(10 * ms)
		check("one by one", 0, 2*ms, 2*ms, 4*ms, 4*ms, 6*ms, 6*ms)
		r.event(8, "no-buffer")
		time.Sleep(10 * ms)
		check("after a pause", 0)

		r.event(9, "no-buffer")
		synctest.Wait()
		for seq := range uint64(9) { // more than half of what there is room for
			r.event(10+seq, "no-buffer")
		}
		time.Sleep(10 * ms)
		check("many", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		cancel()
		if err := <-ended; err == nil {
			t.Error("ended without saying why")
		}
	})
}
