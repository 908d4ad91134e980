package hostagent

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// wallClock turns the kernel's monotonic nanoseconds into UTC. It reads both
// clocks anew for each event, so that a step of the wall clock shows at once.
func wallClock(monotonic uint64) (time.Time, error) {
	var mono, wall unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		return time.Time{}, fmt.Errorf("read the monotonic clock: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &wall); err != nil {
		return time.Time{}, fmt.Errorf("read the wall clock: %w", err)
	}
	return time.Unix(0, wall.Nano()-(mono.Nano()-int64(monotonic))).UTC(), nil
}
