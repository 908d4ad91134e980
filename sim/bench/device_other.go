//go:build !linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

func runDevice(context.Context, Options) ([]Result, error) {
	return nil, fmt.Errorf("the device benchmark needs Linux network namespaces, and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
