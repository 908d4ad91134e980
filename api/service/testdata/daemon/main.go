// Command daemon is a daemon that needs what its configuration says, for the tests
// of what it keeps. Some of its threads sit in the kernel.
package main

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"syscall"

	"decaf/api/service"

	"github.com/spf13/cobra"
)

type config struct {
	Name  string   `yaml:"name"`
	Needs []int    `yaml:"needs"`
	Read  []string `yaml:"read"`
	Write []string `yaml:"write"`
}

func main() {
	cmd := service.Daemon[config]{
		Load: func(file string) (c config, err error) { return c, service.LoadConfig(file, &c, "TEST") },
		Log:  func(config) service.LogConfig { return service.LogConfig{Level: "info", Format: "text"} },
		Needs: func(c config) service.Needs {
			n := service.Needs{Read: c.Read, Write: c.Write}
			for _, v := range c.Needs {
				n.Capabilities = append(n.Capabilities, service.Capability(v))
			}
			return n
		},
		Serve: func(ctx context.Context, c config, log *slog.Logger) error {
			return service.RunAll(ctx, log, service.Part{Name: c.Name, Run: func(ctx context.Context) error {
				log.Info("runs", "name", c.Name)
				<-ctx.Done()
				return ctx.Err()
			}})
		},
	}.Attach(&cobra.Command{Use: "daemon"})
	var pipe [2]int
	if err := syscall.Pipe(pipe[:]); err != nil {
		panic(err)
	}
	for range 4 {
		go func() {
			runtime.LockOSThread()
			for {
				_, _ = syscall.Read(pipe[0], make([]byte, 1)) // nobody writes
			}
		}()
	}
	if cmd.Execute() != nil {
		os.Exit(1)
	}
}
