package hostagent

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"decaf/api/agentconfig"
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

// times is how often it was asked.
func (s *told) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
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
		var balancer, survey string
		cfg := DefaultConfig()
		cfg.Name = "a"
		cfg.Survey.Every, cfg.Survey.To = time.Hour, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.9:80")}
		a := New(cfg, Deps{Publisher: rec, Tracer: tracerFunc(complete), Settings: from, SetTraceRate: func(r float64) { rate = r },
			SetBalancer: func(b agentconfig.Balancer) error {
				if b.Timeout > time.Second {
					return errors.New("too slow")
				}
				balancer = b.String()
				return nil
			},
			SetSurvey: func(v agentconfig.Survey) { survey = v.String() },
		})
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

		// What the topology bounds goes where neither a setting nor the file says.
		from.write(`{"trace_bound":33.5,"balancer":"http://lb/,10.9.0.0/16","survey":"10m0s,10.0.1.1:443"}`, nil)
		from.changed()
		want("bound by the topology", true, 30*time.Second, 33.5, 7, 0)
		if balancer != "http://lb/,10.9.0.0/16" || survey != "10m0s,10.0.1.1:443" {
			t.Errorf("balancer %s, survey %s", balancer, survey)
		}
		from.write(`{"trace_rate":4,"trace_bound":33.5,"balancer":"http://slow/,10.9.0.0/16,2s","survey":"off"}`, nil)
		from.changed()
		want("a balancer that cannot be asked changes nothing", true, 30*time.Second, 33.5, 7, 8)
		from.write(`{"trace_rate":4,"trace_bound":33.5,"survey":"off"}`, nil)
		from.changed()
		want("a rate goes before the bound", true, 30*time.Second, 4, 9, 0)
		if balancer != "none" || survey != "off" {
			t.Errorf("balancer %s, survey %s; want none and off", balancer, survey)
		}
		from.write(`{"trace_bound":-1}`, nil)
		from.changed()
		want("no bound", true, 30*time.Second, 4, 9, 10)
		from.write(`{}`, nil)
		from.changed()
		want("all taken back", true, 30*time.Second, 10, 11, 0)
		if balancer != "none" || survey != "1h0m0s,10.0.0.9:80,95%" {
			t.Errorf("balancer %s, survey %s; want those of the file", balancer, survey)
		}

		asked := from.times()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := from.times() - asked; n != 30 {
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

// An agent without a tracer that can do it says so, and does nothing else of it.
func TestSettingsNobodyCanDo(t *testing.T) {
	for value, want := range map[string]string{
		`{"tracking":false,"trace_rate":3}`:                         "trace_rate",
		`{"tracking":false,"survey":"10m,10.0.1.1:443"}`:            "survey",
		`{"tracking":false,"balancer":"http://lb/,10.9.0.0/16"}`:    "balancer",
		`{"tracking":false,"balancer":"http://lb/,10.9.0.0/16,2m"}`: "at most 10s",
	} {
		cfg := DefaultConfig()
		cfg.Name = "a"
		a := New(cfg, Deps{Publisher: newRecorder(), Tracer: tracerFunc(complete)})
		told, err := agentconfig.DecodeTold([]byte(value))
		if err == nil {
			err = a.adopt(told)
		}
		if err == nil || !strings.Contains(err.Error(), want) || !a.tableSettings.Load().Tracking {
			t.Errorf("%s: %v, want an error with %q and nothing changed", value, err, want)
		}
	}
	// A file's own rate goes before the bound.
	if r := (TraceConfig{Rate: 3}).rate(20); r != 3 {
		t.Errorf("rate %v", r)
	}
}
