//go:build !linux

package bench

import (
	"context"

	"decaf/sim/kernel"
)

func runTracer(context.Context, Options) ([]Result, error) { return nil, kernel.ErrUnsupported }
