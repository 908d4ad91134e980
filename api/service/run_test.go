package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// journal notes what happened, in order.
type journal struct {
	mu   sync.Mutex
	said []string
}

func (j *journal) say(f string, v ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.said = append(j.said, fmt.Sprintf(f, v...))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.said, ", ")
}

func (j *journal) part(name string) Part {
	return Part{
		Name:  name,
		Start: func(context.Context) error { j.say("start %s", name); return nil },
		Run: func(ctx context.Context) error {
			<-ctx.Done()
			j.say("end %s", name)
			return ctx.Err()
		},
		Stop: func(context.Context) error { j.say("stop %s", name); return nil },
	}
}

func TestPartsStartInOrderAndStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- RunAll(ctx, quiet(), j.part("a"), Part{Name: "nothing"}, j.part("b")) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got, want := j.String(), "start a, start b, end b, stop b, end a, stop a"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestADyingPartEndsTheOthersInOrder(t *testing.T) {
	f := func(name, says, journalled string, dying Part) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j journal
				err := RunAll(t.Context(), quiet(), j.part("a"), dying, j.part("z"))
				if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "goroutine") {
					t.Errorf("error %v, want %q", err, says)
				}
				if got := j.String(); !strings.HasSuffix(got, journalled) {
					t.Errorf("got %s, want %s at the end", got, journalled)
				}
			})
		})
	}
	boom := errors.New("boom")
	tick := func(context.Context) error { time.Sleep(time.Second); return boom } // in synctest's time
	f("with an error", "d: boom", "end z, stop z, end a, stop a", Part{Name: "d", Run: tick})
	f("without one", "d ended without being asked to", "stop a", Part{Name: "d", Run: func(context.Context) error { time.Sleep(time.Second); return nil }})
	f("with a panic", "d: internal error: ouch", "stop a", Part{Name: "d", Run: func(context.Context) error { time.Sleep(time.Second); panic("ouch") }})
	f("at start", "start d: boom", "start a, end a, stop a", Part{Name: "d", Start: func(context.Context) error { return boom }})
	f("never ready", "wait for d to become ready: boom", "start a, end a, stop a", Part{Name: "d", Ready: tick})
	f("before it is ready", "d: boom", "start a, end a, stop a", Part{Name: "d", Run: tick,
		Ready: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
	f("while stopping", "stop d: ouch", "stop z, end a, stop a", Part{Name: "d", Run: tick,
		Stop: func(context.Context) error { return errors.New("ouch") }})
}

func TestAPartThatWillNotStopIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		done := make(chan error)
		go func() {
			done <- RunAll(ctx, quiet(), j.part("a"), Part{Name: "deaf", Run: func(context.Context) error { <-release; return nil }})
		}()
		synctest.Wait()
		cancel()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "stop deaf: still running") {
			t.Errorf("error %v", err)
		}
		if !strings.HasSuffix(j.String(), "stop a") {
			t.Errorf("the others were not stopped: %s", j.String())
		}
		close(release)
	})
}

func TestAskedToEndWhileStarting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var j journal
	err := RunAll(ctx, quiet(), j.part("a"), Part{Name: "slow", Start: func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}}, j.part("z"))
	if err != nil {
		t.Error(err)
	}
	if got := j.String(); got != "start a, end a, stop a" {
		t.Error(got)
	}
}

func TestSystemdHearsOfReadyAndStopping(t *testing.T) {
	addr := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", addr)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- RunAll(ctx, quiet(), Part{Name: "a"}) }()
	read := func() string {
		b := make([]byte, 100)
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if s := read(); s != "READY=1" {
		t.Errorf("first %q", s)
	}
	cancel()
	if s := read(); s != "STOPPING=1" {
		t.Errorf("then %q", s)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSignalsEndTheContext(t *testing.T) {
	ctx, stop := Signals(t.Context())
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
}

func get(t *testing.T, h http.Handler, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth()
		var away error
		h.Ready("nats", func() error { return away })
		loop := h.Loop("correlator", 3*time.Second)
		want := func(path string, status int, says string) {
			t.Helper()
			code, body := get(t, h, path)
			if code != status || !strings.Contains(body, says) {
				t.Errorf("%s: %d %s, want %d %s", path, code, body, status, says)
			}
		}
		want("/healthz", 200, `"status":"ok"`)
		want("/readyz", 200, `"nats"`)
		away = errors.New("nats is away")
		want("/readyz", 503, "nats is away")
		want("/healthz", 200, "ok") // no restart would help
		away = nil
		time.Sleep(4 * time.Second) // synctest's time
		want("/healthz", 503, "loop has not gone round for 4s, limit 3s")
		want("/readyz", 503, "correlator")
		loop.Beat()
		want("/healthz", 200, "ok")
		h.Metrics().NewCounter(`decaf_test_total{a="b"}`).Inc()
		want("/metrics", 200, `decaf_test_total{a="b"} 1`)
		want("/metrics", 200, "go_goroutines")
		want("/other", 404, "")
		var v map[string]any
		_, body := get(t, h, "/readyz")
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Error(err)
		}
	})
}

func TestHealthServes(t *testing.T) {
	h := NewHealth()
	if err := h.Serve(t.Context(), "0.0.0.0:0", quiet()); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("off loopback: %v", err)
	}
	var log bytes.Buffer
	l, err := newLogger(&log, "info", "json")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // served and stopped
	if err := h.Serve(ctx, "127.0.0.1:0", l); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "http://127.0.0.1:") {
		t.Errorf("log %s", log.String())
	}
	if err := h.Serve(ctx, "", l); err != nil {
		t.Error(err)
	}
}

func TestLogger(t *testing.T) {
	for _, level := range []string{"", "debug", "info", "WARN", "error"} {
		if _, err := Logger(level, "text"); err != nil {
			t.Error(err)
		}
	}
	if _, err := Logger("loud", ""); err == nil || !strings.Contains(err.Error(), "debug, info, warn or error") {
		t.Errorf("error %v", err)
	}
	if _, err := Logger("", "xml"); err == nil || !strings.Contains(err.Error(), "text or json") {
		t.Errorf("error %v", err)
	}
}

func TestVersion(t *testing.T) {
	f := func(main, rev, modified, want string) {
		t.Helper()
		i := &debug.BuildInfo{Main: debug.Module{Version: main}}
		if rev != "" {
			i.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: rev}, {Key: "vcs.modified", Value: modified}}
		}
		if got := version(i); got != want {
			t.Errorf("%q %q %q: %q, want %q", main, rev, modified, got, want)
		}
	}
	f("v1.2.3", "abc", "false", "v1.2.3")
	f("(devel)", "0123456789abcdef", "false", "devel-01234567")
	f("v0.0.0-20260101000000-0123456789ab+dirty", "0123456789abcdef", "true", "devel-01234567-dirty")
	f("(devel)", "", "", "devel")
	f("", "", "", "devel")
	if Version() == "" {
		t.Error("no version")
	}
}
