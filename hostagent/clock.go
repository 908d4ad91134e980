package hostagent

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// One moment on both of Go's clocks, and on the kernel's monotonic one in ns. Go's
// monotonic clock is the same from another start, and read without a system call.
var startTime, startKernel, errStartClock = oneMoment()

// oneMoment reads them one after the other: of several times, the one between
// whose readings was the least.
func oneMoment() (at time.Time, kernel uint64, err error) {
	least := time.Duration(math.MaxInt64)
	for range 10 {
		before := time.Now()
		now, err := monotonic()
		if err != nil {
			return at, kernel, err
		}
		if took := time.Since(before); took < least {
			at, kernel, least = before.Add(took/2), now, took
		}
	}
	return at, kernel, nil
}

// wallClock turns the kernel's monotonic nanoseconds into UTC. It reads both
// clocks anew for each event, so that a step of the wall clock shows at once.
func wallClock(at uint64) (time.Time, error) {
	if errStartClock != nil {
		return time.Time{}, errStartClock
	}
	now := time.Now()
	return wallTime(at, kernelClock(now), now), nil
}

// wallTime is the UTC of a moment on the kernel's monotonic clock, which shows
// kernelNow where the wall clock shows now.
func wallTime(at, kernelNow uint64, now time.Time) time.Time {
	return time.Unix(0, now.UnixNano()-int64(kernelNow-at)).UTC()
}

// kernelClock is a time on the clock that the kernel stamps events with.
func kernelClock(t time.Time) uint64 { return startKernel + uint64(t.Sub(startTime)) }

// monotonic reads the clock that the kernel stamps events with, in ns.
func monotonic() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return uint64(now.Nano()), nil
}
