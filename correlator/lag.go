package correlator

// lagWindow is how long a late record is remembered.
const lagWindow = 60e9

// lagTracker knows the longest recent delay from an event to the receipt of its
// record, so that what waits for such records waits just long enough: votes for
// a device's word on the drop, drops for a trace's word that they were its own.
type lagTracker struct {
	turn           int64
	current, prior int64
}

func (l *lagTracker) note(lag, now int64) {
	l.roll(now)
	l.current = max(l.current, lag)
}

func (l *lagTracker) max(now int64) int64 {
	l.roll(now)
	return max(l.current, l.prior)
}

func (l *lagTracker) roll(now int64) {
	switch {
	case now-l.turn >= 2*lagWindow:
		l.prior, l.current, l.turn = 0, 0, now
	case now-l.turn >= lagWindow:
		l.prior, l.current, l.turn = l.current, 0, now
	}
}
