//go:build !linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func runDevice(context.Context, Options) ([]Result, error) { return nil, needsLinux("device") }

func runHost(context.Context, Options) ([]Result, error) { return nil, needsLinux("host") }

func runTracer(context.Context, Options) ([]Result, error) { return nil, needsLinux("tracer") }

func needsLinux(bench string) error {
	return fmt.Errorf("the %s benchmark needs Linux network namespaces, and this is %s: %w", bench, runtime.GOOS, errors.ErrUnsupported)
}

func hostLoadCommands() []*cobra.Command { return nil }
