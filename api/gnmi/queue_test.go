package gnmi

import (
	"slices"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

func numbered(n int) *item { return newItem(&gnmipb.Notification{Timestamp: int64(n)}) }

func all(*item) (some, whole bool) { return true, true }

func drain(q *queue) []int64 {
	var out []int64
	for e := q.pop(); e.item != nil; e = q.pop() {
		out = append(out, e.at)
	}
	return out
}

func TestQueueDropsTheOldest(t *testing.T) {
	q := newQueue(20, 100, all)
	lost := 0
	for i := range 25 {
		n, failed := q.push(numbered(i))
		lost += n
		if failed {
			t.Fatal("failed")
		}
	}
	first, second := q.pop(), q.pop()
	if first.gap != 5 || second.gap != 0 {
		t.Errorf("a gap of %d, then of %d", first.gap, second.gap)
	}
	got := append([]int64{first.at, 6}, drain(q)...)
	if lost != 5 || len(got) != 20 || got[0] != 5 || got[19] != 24 {
		t.Errorf("lost %d, kept %v", lost, got)
	}
	q.push(numbered(30))
	q.push(numbered(31))
	if got := drain(q); !slices.Equal(got, []int64{30, 31}) {
		t.Errorf("after it was empty: %v", got)
	}
}

// Catching up forgives: only a subscriber that never does fails.
func TestQueueFails(t *testing.T) {
	q := newQueue(4, 10, all)
	for range 5 {
		for i := range 12 {
			if _, failed := q.push(numbered(i)); failed {
				t.Fatal("failed though it caught up")
			}
		}
		drain(q)
	}
	total, failures := 0, 0
	for i := range 30 {
		lost, failed := q.push(numbered(i))
		total += lost
		if failed {
			failures++
		}
	}
	select {
	case <-q.failed:
	default:
		t.Error("does not say that it failed")
	}
	if left := q.pop(); total != 30 || failures != 1 || left.item != nil {
		t.Errorf("lost %d of 30, failed %d times", total, failures)
	}
}

func TestQueueTakesWhatIsWanted(t *testing.T) {
	q := newQueue(4, 10, func(it *item) (bool, bool) { return it.at%2 == 0, it.at%4 == 0 })
	for i := range 8 {
		if lost, _ := q.push(numbered(i)); lost != 0 {
			t.Errorf("lost %d", lost)
		}
	}
	for i := int64(0); i < 8; i += 2 {
		if e := q.pop(); e.at != i || e.whole != (i%4 == 0) {
			t.Errorf("%d, whole: %v; want %d", e.at, e.whole, i)
		}
	}
}

func TestRing(t *testing.T) {
	r := newRing(3)
	for i := range 5 {
		var got []int64
		for _, it := range r.all() {
			got = append(got, it.at)
		}
		want := []int64{0, 1, 2, 3, 4}[max(0, i-3):i]
		if !slices.Equal(got, want) {
			t.Errorf("after %d: %v, want %v", i, got, want)
		}
		r.add(numbered(i))
	}
}

// A flood in one list pushes nothing out of another, and what is kept has the
// order of publication.
func TestRingsKeepListsApart(t *testing.T) {
	r := newRings(4)
	add := func(list string, at int) {
		r.add(newItem(&gnmipb.Notification{Timestamp: int64(at), Prefix: path("/loss/" + list + "[slot=1]/state")}))
	}
	add("transitions/transition", 1)
	for i := range 100 {
		add("events/event", 2+i)
		if i == 97 {
			add("aggregates/aggregate", 1000)
		}
	}
	var got []int64
	for _, it := range r.all() {
		got = append(got, it.at)
	}
	if want := []int64{1, 98, 99, 1000, 100, 101}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func BenchmarkPublish(b *testing.B) {
	for name, subscribers := range map[string]int{"subscribers=0": 0, "subscribers=10": 10} {
		b.Run(name, func(b *testing.B) {
			t, err := New(Config{}, Deps{Schema: yang.Schema()})
			if err != nil {
				b.Fatal(err)
			}
			p := &plan{live: []pattern{{elems: path("/loss").Elem}}, era: present}
			for range subscribers {
				t.attach(newQueue(4096, 1<<40, p.wants), p)
			}
			ev := &decafpb.DropEvent{Origin: &decafpb.Origin{BootId: 9}, Class: "no-buffer", TimeNs: uint64(time.Now().UnixNano()),
				Packet: &decafpb.Packet{Flow: &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 0, 0, 2}, Protocol: 6}, Header: make([]byte, 60)}}
			b.ReportAllocs()
			for i := range b.N {
				t.Publish(yang.EventUpdates(ev, uint64(i)%1024, 9))
			}
		})
	}
}

func BenchmarkEncodeEvent(b *testing.B) {
	ev := &decafpb.DropEvent{Origin: &decafpb.Origin{BootId: 9}, Class: "no-buffer", TimeNs: 1,
		Packet: &decafpb.Packet{Flow: &decafpb.Flow{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 0, 0, 2}, Protocol: 6}, Header: make([]byte, 60)}}
	for _, e := range encodings {
		b.Run(e.String(), func(b *testing.B) {
			schema, n := yang.Schema(), yang.EventUpdates(ev, 1, 9)
			b.ReportAllocs()
			for b.Loop() {
				newItem(n).whole(schema, frameKey{encoding: e})
			}
		})
	}
}
