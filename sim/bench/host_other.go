//go:build !linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func runHost(context.Context, Options) ([]Result, error) {
	return nil, fmt.Errorf("the host benchmark needs Linux network namespaces, and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func childCommands() []*cobra.Command { return nil }
