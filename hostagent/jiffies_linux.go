package hostagent

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// jiffy is how long one of the kernel's ticks lasts.
func jiffy() (time.Duration, error) {
	// The coarse clock moves with each tick.
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the length of the kernel's tick: %w", err)
	}
	return time.Duration(tick.Nano()), nil
}
