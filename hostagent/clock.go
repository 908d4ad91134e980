package hostagent

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// wallClock turns the kernel's monotonic nanoseconds into UTC. It reads both
// clocks anew for each event, so that a step of the wall clock shows at once.
func wallClock(at uint64) (time.Time, error) {
	now, err := monotonic()
	if err != nil {
		return time.Time{}, err
	}
	var wall unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &wall); err != nil {
		return time.Time{}, fmt.Errorf("read the wall clock: %w", err)
	}
	return time.Unix(0, wall.Nano()-(int64(now)-int64(at))).UTC(), nil
}

// monotonic reads the clock that the kernel stamps events with, in ns.
func monotonic() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return uint64(now.Nano()), nil
}
