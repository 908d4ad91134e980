//go:build !linux

package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
)

// nflog is there on Linux only.
type nflog struct{}

// openNFLOG fails: netfilter is Linux's.
func openNFLOG(NFLOGConfig, func(uint32) string, *slog.Logger) (*nflog, error) {
	return nil, fmt.Errorf("nflog: this is %s, and only Linux has NFLOG: take nflog out of the configuration: %w", runtime.GOOS, errors.ErrUnsupported)
}

func (*nflog) observe(context.Context, func(observed)) error { return errors.ErrUnsupported }
func (*nflog) catchUp(func(observed)) bool                   { return false }
func (*nflog) counts() (lost, passed uint64, err error)      { return 0, 0, nil }
func (*nflog) left() (lost, overflows, malformed uint64)     { return 0, 0, 0 }
func (*nflog) close()                                        {}
