package service

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
)

// TestHangups: what a daemon does with each SIGHUP, by what it then finds in its
// file.
func TestHangups(t *testing.T) {
	type settings struct {
		Name string `yaml:"name"`
	}
	var (
		wrong = errors.New("wrong")
		port  = errors.New("address already in use")
	)
	tests := []struct {
		name  string
		files []string // the configuration, at each hangup
		went  string
		err   error
	}{
		{"another name", []string{"b"}, "start a, end a, stop a, start b, end b, stop b", nil},
		{"the same", []string{"a", "a"}, "start a, end a, stop a", nil},
		{"wrong, then right", []string{"wrong", "b"}, "start a, end a, stop a, start b, end b, stop b", nil},
		{"does not come up", []string{"taken"}, "start a, end a, stop a, start a, end a, stop a", nil},
		{"dies later", []string{"dying"}, "start a, end a, stop a, start dying, end dying, stop dying", port},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j journal
				file := "a"
				die := make(chan error, 1)
				d := Daemon[settings]{
					Load: func(string) (settings, error) {
						if file == "wrong" {
							return settings{}, wrong
						}
						return settings{file}, nil
					},
					Log: func(settings) LogConfig { return LogConfig{"error", "text"} },
					Serve: func(ctx context.Context, s settings, log *slog.Logger) error {
						switch s.Name {
						case "taken":
							return RunAll(ctx, log, Part{Name: "p", Start: func(context.Context) error { return port }})
						case "dying":
							return RunAll(ctx, log, j.part(s.Name), Part{Name: "p", Run: func(ctx context.Context) error {
								select {
								case <-ctx.Done():
									return ctx.Err()
								case err := <-die:
									return err
								}
							}})
						}
						return RunAll(ctx, log, j.part(s.Name))
					},
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				hangup := make(chan os.Signal, 1)
				done := make(chan error, 1)
				go func() { done <- d.serve(ctx, "f", settings{"a"}, quiet(), hangup) }()
				synctest.Wait()
				for _, file = range test.files {
					hangup <- syscall.SIGHUP
					synctest.Wait()
				}
				if test.err != nil {
					die <- test.err
				} else {
					cancel()
				}
				if err := <-done; !errors.Is(err, test.err) {
					t.Errorf("error %v, want %v", err, test.err)
				}
				if got := j.String(); got != test.went {
					t.Errorf("got  %s\nwant %s", got, test.went)
				}
			})
		})
	}
}
