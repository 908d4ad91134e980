package device

import (
	"testing"
	"time"
)

// waiting is a kernel source of which only is known how many records wait.
type waiting struct {
	source
	records float64
}

func (w *waiting) backlog() float64 { return w.records }

// While drops never cease the last one tells how far the agent has come, whatever
// the time of day was set to.
func TestHeardUntilTheLastRecord(t *testing.T) {
	s := &sources{kernel: &waiting{records: 0.1}}
	begin := time.Now()
	s.hearing.took(time.Unix(0, begin.Add(-time.Second).UnixNano()), begin)
	s.heard(begin)
	if got := s.heard(begin).Sub(begin); got != -time.Second {
		t.Errorf("heard until %v", got)
	}
	s.hearing.took(time.Unix(0, begin.Add(time.Hour).UnixNano()), begin) // a clock an hour ahead
	s.heard(begin)
	if got := s.heard(begin).Sub(begin); got != 0 {
		t.Errorf("heard until %v", got)
	}
}

// What the kernel had to say until a time was heard when there was no record left
// then, and the one that was in hand is done with.
func TestHeardUntil(t *testing.T) {
	k := &waiting{}
	s := &sources{kernel: k}
	at := func(i int) time.Time { return time.Unix(int64(1000+i), 0) }
	for i, step := range []struct {
		records float64
		busy    bool
		want    time.Time
	}{
		{0, false, time.Time{}}, // a record may have been taken out and not begun
		{0, false, at(0)},
		{0, true, at(0)}, // one is in hand
		{0, true, at(0)},
		{0, false, at(3)},   // that one is done
		{0.5, false, at(4)}, // many wait
		{0.5, true, at(4)},
		{0.1, false, at(4)},
		{0, false, at(4)},
		{0, false, at(8)},
	} {
		k.records = step.records
		s.hearing.busy.Store(step.busy)
		if got := s.heard(at(i)); !got.Equal(step.want) {
			t.Errorf("look %d: heard until %v, want %v", i, got, step.want)
		}
	}
}

func TestSourcesName(t *testing.T) {
	for want, s := range map[string]*sources{
		"tp_btf":                       {kernel: &waiting{}},
		"tp_btf+nflog+counters+routes": {kernel: &waiting{}, nflog: &nflog{}, counters: &counterSource{}, routes: &routeSource{}},
		"counters":                     {counters: &counterSource{}},
		"sflow":                        {remote: &sflowSwitch{}},
	} {
		if got := s.name(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
