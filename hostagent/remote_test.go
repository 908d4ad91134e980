package hostagent

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// told is where an agent asks, as a test has it.
type told struct {
	mu       sync.Mutex
	value    string
	revision uint64
	err      error
	asked    int
	changed  func()
}

func (s *told) AgentConfig(_ context.Context, name string) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if name != "a" {
		return nil, 0, errors.New("asked for " + name)
	}
	return []byte(s.value), s.revision, s.err
}

func (s *told) WatchAgentConfig(name string, changed func()) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = changed
	return func() {}, nil
}

func (s *told) write(value string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.err = value, err
	s.revision++
}

// An agent asks with each heartbeat and at once when it hears of a change; what
// it does is in its heartbeats; what it cannot do changes nothing and is said;
// what is taken back is as its file says.
func TestRemoteSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &told{}
		rec := newRecorder()
		var rate float64
		cfg := DefaultConfig()
		cfg.Name = "a"
		a := New(cfg, Deps{Publisher: rec, Tracer: tracerFunc(complete), Settings: from, SetTraceRate: func(r float64) { rate = r }})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { a.remote.run(ctx) })
		wg.Go(func() { a.heartbeats(ctx, func() {}) })
		defer wg.Wait()
		defer cancel()
		want := func(what string, tracking bool, interval time.Duration, traces float64, revision, refused uint64) {
			t.Helper()
			synctest.Wait()
			s := a.tableSettings.Load()
			if s.Tracking != tracking || s.Interval != interval || rate != traces || a.remote.revision.Load() != revision || a.Counters()[countSettingsRefused] != refused {
				t.Errorf("%s: %+v, %v traces/s, revision %d, refused %d", what, s, rate, a.remote.revision.Load(), a.Counters()[countSettingsRefused])
			}
		}
		want("nothing told", true, 30*time.Second, 0, 0, 0)

		from.write(`{"tracking":false,"interval":"10s","trace_rate":3}`, nil)
		time.Sleep(2 * time.Second)
		want("with the heartbeat", false, 10*time.Second, 3, 1, 0)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if beats := rec.beats(); beats[len(beats)-1].GetConfigRevision() != 1 || beats[0].GetConfigRevision() != 0 {
			t.Errorf("heartbeats %v", beats)
		}

		from.write(`{"interval":"1h"}`, nil)
		from.changed()
		want("broken", false, 10*time.Second, 3, 1, 2)

		from.write(`{"interval":"20s","sample":"1/10"}`, nil)
		from.changed()
		want("pushed", true, 20*time.Second, 10, 3, 0)
		if !a.tableSettings.Load().Sample.Takes(0) || a.tableSettings.Load().Sample.OneIn() != 10 {
			t.Errorf("sampling %v", a.tableSettings.Load().Sample)
		}

		// Heard before the store has it.
		from.changed()
		synctest.Wait()
		from.write(`{}`, nil)
		time.Sleep(pushPause)
		want("taken back", true, 30*time.Second, 10, 4, 0)

		from.write(`{"tracking":false}`, errors.New("nats is away"))
		time.Sleep(4 * time.Second)
		want("away", true, 30*time.Second, 10, 4, 0)
		from.write(`{"tracking":false}`, nil)
		time.Sleep(2 * time.Second)
		want("back", false, 30*time.Second, 10, 6, 0)

		asked := from.asked
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := from.asked - asked; n != 30 {
			t.Errorf("asked %d times in a minute, want with each heartbeat", n)
		}
	})
}

// A host whose own file counts no flows cannot be told to track them.
func TestTrackingNeedsFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &told{value: `{"tracking":true}`, revision: 7}
		cfg := DefaultConfig()
		cfg.Name, cfg.Flows.Enabled = "a", false
		a := New(cfg, Deps{Publisher: newRecorder(), Tracer: tracerFunc(complete), Settings: from})
		a.remote.pull(t.Context())
		if a.tableSettings.Load().Tracking || a.remote.revision.Load() != 0 || a.remote.refused.Load() != 7 {
			t.Errorf("%+v, refused %d", a.tableSettings.Load(), a.remote.refused.Load())
		}
	})
}
