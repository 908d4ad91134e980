//go:build unix

package device

import (
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is what the process spent, in user and kernel mode.
func processorTime() time.Duration {
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
