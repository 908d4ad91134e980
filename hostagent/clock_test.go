package hostagent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// The time of an event is as long before that of the wall clock as the kernel's
// own clock says, however the wall clock was set meanwhile.
func TestWallTime(t *testing.T) {
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	for _, c := range []struct {
		at, now uint64
		want    time.Time
	}{
		{5e9, 5e9, noon},
		{5e9, 8e9, noon.Add(-3 * time.Second)},
		{0, 1, noon.Add(-1)},
		{9e9, 8e9, noon.Add(time.Second)}, // stamped after the clocks were read
	} {
		got := wallTime(c.at, c.now, noon)
		if !got.Equal(c.want) || got.Location() != time.UTC {
			t.Errorf("%d ns at %d ns: %v, want %v", c.at, c.now, got, c.want)
		}
		for _, step := range []time.Duration{time.Hour, -time.Hour, -1000 * time.Hour} {
			if got := wallTime(c.at, c.now, noon.Add(step)); !got.Equal(c.want.Add(step)) {
				t.Errorf("%d ns at %d ns, the clock set by %v: %v", c.at, c.now, step, got)
			}
		}
	}
}

// What stands for the kernel's clock shows what that does.
func TestKernelClock(t *testing.T) {
	for range 1000 {
		before, err := monotonic()
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		after, err := monotonic()
		if err != nil {
			t.Fatal(err)
		}
		const slack = uint64(time.Millisecond) // the two were laid together at start, not much later
		if got := kernelClock(now); got+slack < before || got > after+slack {
			t.Fatalf("kernel's clock at %d, want %d to %d", got, before, after)
		}
		wall, err := wallClock(before)
		if d := now.Sub(wall); err != nil || d < -time.Duration(slack) || d > time.Duration(after-before+slack) {
			t.Fatalf("wall clock %v before now, %v", d, err)
		}
	}
}

// A clock that is set back by hours has flows traced anew, and again in the epoch
// after; one that goes back by less than an epoch does not.
func TestClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traces := 0
		cfg := DefaultConfig()
		cfg.Trace.Workers = 1
		a, rec, stop := still(cfg, tracerFunc(func(context.Context, packet.Flow, int64) *decafpb.Path {
			traces++
			return pathOf(decafpb.PathStatus_PATH_STATUS_COMPLETE)
		}))
		now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
		a.clock = func(uint64) (time.Time, error) { return now, nil }
		for i, c := range []struct {
			step   time.Duration
			traces int
		}{
			{0, 1}, {0, 1}, {cfg.Epoch, 2}, {-cfg.Epoch, 2}, {-3 * time.Hour, 3}, {time.Second, 3}, {cfg.Epoch, 4}, {1000 * time.Hour, 5}, {0, 5},
		} {
			now = now.Add(c.step)
			a.handle(eventOf(1, nil))
			synctest.Wait()
			if traces != c.traces {
				t.Errorf("event %d, after a step of %v: %d traces, want %d", i, c.step, traces, c.traces)
			}
			if r := rec.all()[i]; r.GetTimeNs() != uint64(now.UnixNano()) {
				t.Errorf("event %d at %d, want %d", i, r.GetTimeNs(), now.UnixNano())
			}
		}
		stop()
	})
}
