package device

import (
	"strings"
	"time"
)

// lateAggregate is how long an aggregate may span and still be told in time for
// those who ask what was dropped lately.
const lateAggregate = 10 * time.Second

// unreported lists the classes of drops that neither events nor aggregates tell
// of in time, in the order of [Classes]: who hears nothing of such a class knows
// nothing of it. Of the whole agent's fuse the agent tells apart from it. A class
// above its threshold is not among them: that it is dropped was told before.
func (r *reporter) unreported(now time.Time) (list []string) {
	if r.fuse.allows("") >= countersOnly {
		return nil
	}
	filtered := r.only != nil && r.only(now)
	for _, class := range Classes() {
		if strings.HasPrefix(class, "anomaly/") { // no drop, or told of as such beside
			continue
		}
		s, allowed := r.settings(class), r.fuse.allows(class)
		held := s.Threshold == 0 || allowed != full || filtered
		if s.Ignore || allowed >= countersOnly || held && s.Interval > lateAggregate {
			list = append(list, class)
		}
	}
	return list
}
