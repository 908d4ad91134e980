//go:build !linux

package device

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
)

// openSource fails: no other kernel tells which packets it drops, and why, the
// way Linux does.
func openSource(map[string]bool, pace, *slog.Logger) (source, error) {
	return nil, fmt.Errorf("the agent sees drops through the Linux kernel (tracepoint skb:kfree_skb), and this is %s: run it on a device that runs Linux 5.17 or later: %w", runtime.GOOS, errors.ErrUnsupported)
}
