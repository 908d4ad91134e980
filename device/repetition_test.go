package device

import (
	"testing"
	"time"

	"decaf/api/packet"
)

func testFlow(i int) packet.Flow {
	return packet.Flow{Src: addrPortOf(10, i), Dst: addrPortOf(20, 80), Proto: packet.TCP}
}

// First, still dropping every 10 s, stopped.
func TestRepetition(t *testing.T) {
	r := newRepetition(10*time.Second, 100)
	begin := time.Unix(1000, 0)
	told, repeats := 0, uint64(0)
	for i := range 35 { // a drop of 2 packets a second
		now := begin.Add(time.Duration(i) * time.Second)
		if gone := r.stopped(now); len(gone) != 0 {
			t.Errorf("%d s: stopped: %+v", i, gone[0])
		}
		news, n := r.take(now, testFlow(1), 2)
		if news {
			r.tell(now, testFlow(1))
			told++
			repeats += n
		}
		if want := i%10 == 0; news != want {
			t.Errorf("%d s: news %v, want %v", i, news, want)
		}
	}
	if told != 4 || repeats != 3*9*2 {
		t.Errorf("told %d times, standing for %d packets more; want 4 and 54", told, repeats)
	}
	if gone := r.stopped(begin.Add(43 * time.Second)); len(gone) != 0 {
		t.Error("stopped 9 s after its last drop")
	}
	gone := r.stopped(begin.Add(44 * time.Second))
	if len(gone) != 1 || gone[0].flow != testFlow(1) || gone[0].repeats != 4*2 || len(r.flows) != 0 || r.recent.Len() != 0 {
		t.Errorf("stopped: %+v, %d flows left", gone, len(r.flows))
	}
	if news, n := r.take(begin.Add(45*time.Second), testFlow(1), 1); !news || n != 0 {
		t.Error("after it stopped, a drop is no first one")
	}
}

// One that another reason held back is told of by the next.
func TestRepetitionUntold(t *testing.T) {
	r := newRepetition(10*time.Second, 100)
	now := time.Unix(1000, 0)
	r.take(now, testFlow(1), 1)
	r.untold(testFlow(1), 1)
	if len(r.flows) != 0 {
		t.Error("a flow that was never told of is remembered")
	}
	r.tell(now, testFlow(1))
	now = now.Add(10 * time.Second)
	r.take(now, testFlow(1), 5)
	r.untold(testFlow(1), 5)
	if news, n := r.take(now.Add(time.Second), testFlow(1), 1); !news || n != 5 {
		t.Errorf("news %v, standing for %d more; want true and 5", news, n)
	}
}

func TestRepetitionIsBounded(t *testing.T) {
	r := newRepetition(10*time.Second, 8)
	now := time.Unix(1000, 0)
	for i := range 20 {
		now = now.Add(time.Millisecond)
		if news, _ := r.take(now, testFlow(i), 1); !news {
			t.Errorf("flow %d has no event", i)
		}
		r.tell(now, testFlow(i))
		r.take(now, testFlow(0), 1) // dropped all the time: stays
		r.tell(now, testFlow(0))
	}
	if len(r.flows) != 8 || r.recent.Len() != 8 || r.forgotten != 12 || r.flows[testFlow(0)] == nil {
		t.Errorf("%d flows, %d forgotten", len(r.flows), r.forgotten)
	}
}
