package bus

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// A spool is driven by words: "push", "send", "ack 2", "wait 5s", "reconnect",
// "again". After each word that says so, want is what send gave.
func TestSpool(t *testing.T) {
	f := func(name, script, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			s := spool{limit: 1000}
			now := time.Unix(1000, 0)
			var id uint64
			var out []string
			for _, word := range strings.Split(script, ", ") {
				verb, arg, _ := strings.Cut(word, " ")
				var n uint64
				fmt.Sscan(arg, &n)
				switch verb {
				case "push": // with a size in bytes
					id++
					if left := s.push(&parcel{id: id, records: 10, data: make([]byte, n), packed: true}); left > 0 {
						out = append(out, fmt.Sprintf("left out %d", left))
					}
				case "send": // all it can
					for p := s.send(now); p != nil; p = s.send(now) {
						out = append(out, fmt.Sprint(p.id))
					}
				case "ack":
					s.ack(n, now)
				case "refuse":
					s.refuse(n)
				case "wait":
					d, err := time.ParseDuration(arg)
					if err != nil {
						t.Fatal(err)
					}
					now = now.Add(d)
				case "tick":
					if s.tick(now) {
						out = append(out, "timeout")
					}
				case "reconnect":
					s.reconnected()
				case "again":
					s.again(now)
				case "deadline":
					if d := s.deadline(now); d.IsZero() {
						out = append(out, "idle")
					} else {
						out = append(out, d.Sub(now).String())
					}
				case "held":
					out = append(out, fmt.Sprintf("%d held, %d open, %d bytes", len(s.parcels), s.open, s.bytes))
				default:
					t.Fatalf("unknown word %q", word)
				}
				if err := s.check(); err != nil {
					t.Fatalf("after %q: %v", word, err)
				}
			}
			if got := strings.Join(out, ", "); got != want {
				t.Errorf("%s:\n got %s\nwant %s", script, got, want)
			}
		})
	}
	f("in order", "push 1, push 1, push 1, send, send", "1, 2, 3")
	f("no deadline while there is nothing to do", "deadline, push 1, send, ack 1, deadline", "idle, 1, idle")
	f("kept after its acknowledgement", "push 1, send, ack 1, held", "1, 1 held, 0 open, 1 bytes")
	f("kept while the server may not have synced", "push 1, send, ack 1, wait 3s, push 1, send, ack 2, held", "1, 2, 2 held, 0 open, 2 bytes")
	f("gone once the server lived past a sync", "push 1, send, ack 1, wait 4s, push 1, send, ack 2, held", "1, 2, 1 held, 0 open, 1 bytes")
	f("time alone shows no sync", "push 1, send, ack 1, wait 1h, tick, held", "1, 1 held, 0 open, 1 bytes")
	f("after a reconnect everything again, in order", "push 1, push 1, send, ack 1, push 1, reconnect, send", "1, 2, 1, 2, 3")
	f("a server that is back but not ready", "push 1, send, ack 1, push 1, reconnect, send, again, wait 100ms, send, ack 1, ack 2, held", "1, 1, 2, 1, 2, 2 held, 0 open, 2 bytes")
	f("acknowledged again: nothing changes", "push 1, send, ack 1, reconnect, send, ack 1, held, deadline", "1, 1, 1 held, 0 open, 1 bytes, idle")
	f("not stored: again from there after a pause", "push 1, push 1, push 1, send, ack 1, again, send, deadline, wait 100ms, send", "1, 2, 3, 100ms, 2, 3")
	f("pauses double up to two seconds",
		"push 1, send, again, deadline, wait 100ms, send, again, deadline, wait 200ms, send, again, wait 400ms, send, again, wait 800ms, send, again, wait 1600ms, send, again, deadline",
		"1, 100ms, 1, 200ms, 1, 1, 1, 1, 2s")
	f("an acknowledgement ends the pausing", "push 1, send, again, wait 100ms, send, ack 1, push 1, send, again, deadline", "1, 1, 2, 100ms")
	f("a silent server", "push 1, push 1, send, wait 4s, ack 1, wait 4s, tick, wait 1s, tick, wait 100ms, send", "1, 2, timeout, 2")
	f("over the bound the oldest goes", "push 400, push 400, push 400, held, send", "left out 10, 2 held, 2 open, 800 bytes, 2, 3")
	f("what was acknowledged goes without loss", "push 400, send, ack 1, push 400, push 400, held", "1, 2 held, 2 open, 800 bytes")
	f("one alone above the bound is kept", "push 5000, held, send", "1 held, 1 open, 5000 bytes, 1")
	f("on its way and left out", "push 400, push 400, send, push 400, ack 1, ack 2, send, ack 3, held", "1, 2, left out 10, 3, 2 held, 0 open, 800 bytes")
	f("never to be stored", "push 1, push 1, send, refuse 1, ack 2, reconnect, send", "1, 2, 2")
	f("unknown ids are ignored", "ack 7, push 1, ack 0, ack 9, refuse 9, send", "1")
	f("the window", strings.Repeat("push 1, ", window+1)+"send, ack 1, send", strings.Join(numbers(window+1), ", "))
}

func numbers(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint(i+1))
	}
	return out
}

// check compares the spool's running accounts with a recount.
func (s *spool) check() error {
	var bytes, flying, open, records int
	for i, p := range s.parcels {
		bytes += len(p.data)
		if p.waiting {
			flying++
		}
		if p.acked.IsZero() {
			open++
			records += p.records
		}
		if p.due && i < s.next {
			return fmt.Errorf("parcel %d is due but passed over", p.id)
		}
		if p.id != s.parcels[0].id+uint64(i) {
			return fmt.Errorf("ids have a hole at %d", p.id)
		}
		if p.acked.IsZero() && !p.due && !p.waiting {
			return fmt.Errorf("parcel %d is forgotten: neither due, on its way, nor acknowledged", p.id)
		}
	}
	if bytes != s.bytes || flying != s.flying || open != s.open || records != s.records {
		return fmt.Errorf("counted %d bytes %d flying %d open %d records, accounts say %d %d %d %d",
			bytes, flying, open, records, s.bytes, s.flying, s.open, s.records)
	}
	return nil
}

// A server that stores some of what it gets, loses its newest, refuses and
// forgets to answer: whatever happens, every record is stored or counted.
func TestSpoolLosesNothingUncounted(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := spool{limit: []int{2000, mib}[seed%2]}
		now := time.Unix(1000, 0)
		var id uint64
		stored := map[uint64]time.Time{}
		store := func(id uint64) {
			if _, ok := stored[id]; !ok { // else dropped by its batch id
				stored[id] = now
			}
		}
		flying := []uint64{}
		total, leftOut := 0, 0
		trimmed := map[uint64]bool{} // gone to keep within the bound
		for range 2000 {
			now = now.Add(time.Duration(r.IntN(200)) * time.Millisecond)
			switch r.IntN(9) {
			case 0, 1:
				id++
				total++
				first := id
				if len(s.parcels) > 0 {
					first = s.parcels[0].id
				}
				leftOut += s.push(&parcel{id: id, records: 1, data: make([]byte, 1+r.IntN(50)), packed: true})
				for ; first < s.parcels[0].id; first++ {
					trimmed[first] = true
				}
			case 2, 3, 4:
				if p := s.send(now); p != nil {
					flying = append(flying, p.id)
				}
			case 5, 6:
				if len(flying) > 0 {
					store(flying[0])
					s.ack(flying[0], now)
					flying = flying[1:]
				}
			case 7:
				s.tick(now)
			case 8:
				if r.IntN(20) == 0 { // the server dies and loses what it had not synced
					for i, at := range stored {
						if now.Sub(at) < syncInterval {
							delete(stored, i)
						}
					}
					flying = nil
					s.reconnected()
				}
			}
			if err := s.check(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		// It comes to rest.
		for range 100_000 {
			now = now.Add(10 * time.Millisecond)
			s.tick(now)
			if s.settled() {
				break
			}
			if p := s.send(now); p != nil {
				store(p.id)
				s.ack(p.id, now)
			}
		}
		for i := uint64(1); i <= id; i++ {
			if _, ok := stored[i]; !ok && !trimmed[i] {
				t.Fatalf("seed %d: batch %d is neither stored nor was it left out for want of room", seed, i)
			}
		}
		if leftOut > len(trimmed) || len(stored)+len(trimmed) < total {
			t.Fatalf("seed %d: of %d batches %d stored, %d trimmed, %d counted as left out", seed, total, len(stored), len(trimmed), leftOut)
		}
	}
}

func TestPositionSurvivesALostTail(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	var p position
	if !p.start().IsZero() {
		t.Errorf("starts at %v, want the beginning", p.start())
	}
	for i, id := range []string{"a", "b", "c"} {
		if !p.pass(id, at(float64(i))) {
			t.Errorf("%s is not new", id)
		}
	}
	// The server lost b and c, and stores d, b and c now.
	if got := p.start(); !got.Equal(at(2 - 10)) {
		t.Errorf("starts again at %v", got)
	}
	for _, x := range []struct {
		id    string
		isNew bool
	}{{"a", false}, {"d", true}, {"b", false}, {"c", false}, {"e", true}, {"", true}, {"", true}} {
		if got := p.pass(x.id, at(3)); got != x.isNew {
			t.Errorf("%q new: %v, want %v", x.id, got, x.isNew)
		}
	}
	// Ids are forgotten once no restart can bring them back.
	p.pass("z", at(60))
	if len(p.seen) != 1 || len(p.order) != 1 {
		t.Errorf("%d ids remembered, want 1", len(p.seen))
	}
	q := position{from: at(0)}
	q.pass("a", at(1))
	if got := q.start(); !got.Equal(at(0)) {
		t.Errorf("starts at %v, before where it was asked to", got)
	}
	for i := range 2 * maxRemembered {
		q.pass(fmt.Sprint(i), at(1))
	}
	if len(q.seen) > maxRemembered+1 || len(q.order) > maxRemembered+1 {
		t.Errorf("%d ids remembered, bound %d", len(q.seen), maxRemembered)
	}
}
