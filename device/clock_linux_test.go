package device

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The times of drops follow a clock that is set with the next drop that is read, and
// go on as the drops came while it is steered.
func TestBootClock(t *testing.T) {
	const (
		day  = 24 * int64(time.Hour)
		wall = 20_000 * day // of the first reading
	)
	type reading struct{ wall, boot int64 }
	type drop struct {
		what  string
		reads []reading // of the clocks, as often as they are looked at
		at    int64     // since boot
		want  int64
	}
	first := drop{"the first", []reading{{wall, day}}, day - 7, wall - 7}
	const ms, sec = int64(time.Millisecond), int64(time.Second)
	tests := []struct {
		name  string
		drops []drop
	}{
		{"as they came", []drop{first,
			{"a little earlier, from another processor", []reading{{wall + 10, day + 10}}, day - 9, wall - 9},
			{"read long after it happened", []reading{{wall + 5*sec, day + 5*sec}}, day - 5, wall - 5},
		}},
		{"steered", []drop{first,
			{"within a second", []reading{{wall + sec/2 + 1000, day + sec/2}}, day + sec/2, wall + sec/2},
			{"a second later", []reading{{wall + sec + 2000, day + sec}}, day + sec, wall + sec + 2000},
			{"from then on", []reading{{wall + sec + 2500, day + sec + 100}}, day + sec + 100, wall + sec + 2100},
		}},
		{"set ahead and back", []drop{first,
			{"ahead by a day", []reading{{wall + day + 10, day + 10}, {wall + day + 20, day + 20}}, day + 5, wall + day + 5},
			{"after it", []reading{{wall + day + 30, day + 30}}, day + 25, wall + day + 25},
			{"back by two", []reading{{wall - day + 40, day + 40}, {wall - day + 50, day + 50}}, day + 35, wall - day + 35},
			{"by little more than it is steered", []reading{{wall - day + 60 + 2*ms, day + 60}, {wall - day + 70 + 2*ms, day + 70}}, day + 55, wall - day + 55 + 2*ms},
		}},
		{"a pause between the readings", []drop{first,
			{"one", []reading{{wall + 10, day + 10 + 9*ms}, {wall + 10*ms, day + 10*ms}, {wall + 11*ms, day + 11*ms}}, day + 9, wall + 9},
			{"none", []reading{{wall + 20*ms, day + 20*ms}}, day + 19*ms, wall + 19*ms},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var left []reading
			c := bootClock{now: func() (int64, int64) {
				if len(left) == 0 {
					t.Fatal("the clocks are looked at more often")
				}
				r := left[0]
				left = left[1:]
				return r.wall, r.boot
			}}
			for _, d := range test.drops {
				left = d.reads
				if got := c.at(uint64(d.at)).UnixNano(); got != d.want {
					t.Errorf("%s: off by %v", d.what, time.Duration(got-d.want))
				}
			}
		})
	}
}

// The two clocks as they are read together are those that there are.
func TestSystemClocks(t *testing.T) {
	now := systemClocks()
	boot := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano()
	}
	const slack = int64(time.Millisecond) // half of a pause at the first reading
	begin, before := time.Now().UnixNano(), boot()
	wall, since := now()
	after, end := boot(), time.Now().UnixNano()
	if wall < begin || wall > end || since < before-slack || since > after+slack {
		t.Errorf("read %d and %d, want [%d, %d] and [%d, %d]", wall, since, begin, end, before, after)
	}
}
