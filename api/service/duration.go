package service

import (
	"fmt"
	"time"

	"github.com/VictoriaMetrics/VictoriaMetrics/lib/promutils"
)

// ParseDuration reads a duration in the syntax of VictoriaMetrics ("40s",
// "1h30m", "2d", "1w") and, below its resolution of a millisecond, of Go
// ("250us"). A number without a unit is an error: seconds and milliseconds
// are too easily confused.
func ParseDuration(s string) (time.Duration, error) {
	if d, err := time.ParseDuration(s); err == nil && (s == "0" || !bareNumber(s)) {
		return d, nil
	}
	if bareNumber(s) {
		return 0, fmt.Errorf("duration %q has no unit: write %ss or %sms", s, s, s)
	}
	d, err := promutils.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: write it like 40s, 1h30m, 250ms or 2d", s)
	}
	return d, nil
}

func bareNumber(s string) bool {
	if s == "" {
		return false
	}
	last := s[len(s)-1]
	return last >= '0' && last <= '9' || last == '.'
}
