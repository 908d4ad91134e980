package hostagent

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
)

// left are the records that nothing has taken back.
func (r *recorder) left() (left []*decafpb.Retransmit, records int) {
	taken := map[uint64]bool{}
	all := r.all()
	for _, m := range all {
		if m.GetUndoneSeq() > 0 {
			taken[m.GetUndoneSeq()] = true
		}
	}
	for _, m := range all {
		if m.GetUndone() {
			continue
		}
		records++
		if !taken[m.GetOrigin().GetSeq()] {
			left = append(left, m)
		}
	}
	return left, records
}

// tcp sets parameters of TCP at both ends of the lab.
func (l *lab) tcp(t *testing.T, parameters map[string]string) {
	t.Helper()
	for _, s := range []*space{l.a, l.b} {
		if err := s.do(func() error {
			for name, value := range parameters {
				err := os.WriteFile("/proc/sys/net/ipv4/tcp_"+name, []byte(value), 0o644)
				if err != nil && !errors.Is(err, os.ErrNotExist) { // older kernels defer no acknowledgements
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// reporting makes both ends report each duplicate (spurious.go says when they do
// not), and b take everything in: what it has no room for is lost
// (TCPBacklogDrop, TCPRcvQDrop).
var reporting = map[string]string{
	"backlog_ack_defer": "0",
	"comp_sack_nr":      "0",
	"rmem":              "4096 33554432 33554432",
}

// take reads n bytes that the client of p sends.
func (p pair) take(t *testing.T, n int64) {
	t.Helper()
	p.server.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.CopyN(io.Discard, p.server, n); err != nil {
		t.Fatalf("received %d bytes: %v", got, err)
	}
}

// eachTaken waits until every record is taken back.
func eachTaken(t *testing.T, rec *recorder, a *Agent) {
	t.Helper()
	defer func() {
		if left, records := rec.left(); t.Failed() {
			t.Logf("%d records", records)
			for _, m := range left {
				t.Logf("left: %v %d to %d", m.GetKind(), m.GetTcpSeq(), m.GetTcpEndSeq())
			}
		}
	}()
	until(t, "every record is taken back", func() bool {
		left, records := rec.left()
		return records > 0 && len(left) == 0 && uint64(records) == a.Counters()[countRecords]
	})
	_, records := rec.left()
	t.Logf("%d records, all taken back", records)
	if n := a.Counters()[countTakenBack]; n != uint64(records) {
		t.Errorf("%d taken back, of %d", n, records)
	}
}

// Packets that overtake others make TCP send again what was never lost. The
// other end says so, and no vote is left, while the connection lives on.
func TestReorderWithoutLossLeavesNoVote(t *testing.T) {
	f := func(name, to, timestamps string, chunk, chunks int) {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.tcp(t, reporting)
			l.tcp(t, map[string]string{"timestamps": timestamps})
			n := 0
			l.detour(t, func(p []byte) time.Duration {
				if _, bytes := segment(p); bytes < 1000 {
					return 0
				}
				if n++; n%200 == 100 {
					return 15 * time.Millisecond
				}
				return 0
			})
			// First the handshake: a SYN may be late on a busy machine, and sent again.
			p := l.connect(to, false)
			rec, a := l.watch(l.a, tracerFunc(complete))
			for range chunks {
				go p.client.Write(make([]byte, chunk))
				p.take(t, int64(chunk))
				until(t, "everything is acknowledged", func() bool { return unacked(t, p.client) == 0 })
			}
			eachTaken(t, rec, a)
			for _, m := range rec.all() {
				if m.GetUndone() && (m.GetUndoneSeq() == 0 || m.GetCookie() != p.cookie(t) || m.GetPath() != nil) {
					t.Errorf("%v: want the number of one record, the socket's cookie, no path", m)
				}
			}
		})
	}
	f("IPv4", addrB, "0", 4<<20, 1)
	f("IPv6", addrB6, "0", 4<<20, 1)
	// With timestamps a receiver is silent about some duplicates where it lacks
	// several segments at a time (spurious.go): one at a time then.
	f("IPv4, timestamps", addrB, "1", 200<<10, 20)
	f("IPv6, timestamps", addrB6, "1", 200<<10, 20)
}

// Beside segments that are late others are lost: those keep their votes, one
// each, and no other does.
func TestLossBesideReorderingKeepsItsVotes(t *testing.T) {
	f := func(name, to, timestamps string, chunk, chunks int) {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.tcp(t, reporting)
			l.tcp(t, map[string]string{"timestamps": timestamps})
			var mu sync.Mutex
			var lost []uint32
			var n int
			highest, any := uint32(0), false
			l.detour(t, func(p []byte) time.Duration {
				seq, bytes := segment(p)
				if bytes < 1000 || any && int32(seq-highest) <= 0 {
					return 0 // sent again
				}
				highest, any = seq, true
				switch n++; n % 200 {
				case 100:
					return 15 * time.Millisecond
				case 50:
					mu.Lock()
					defer mu.Unlock()
					lost = append(lost, seq)
					return -1
				}
				return 0
			})
			p := l.connect(to, false)
			rec, a := l.watch(l.a, tracerFunc(complete))
			for range chunks {
				go p.client.Write(make([]byte, chunk))
				p.take(t, int64(chunk))
				until(t, "everything is acknowledged", func() bool { return unacked(t, p.client) == 0 })
			}
			mu.Lock()
			defer mu.Unlock()
			until(t, "no vote is left but those of losses", func() bool {
				left, records := rec.left()
				return len(left) == len(lost) && uint64(records) == a.Counters()[countRecords]
			})
			left, records := rec.left()
			t.Logf("%d records, %d lost", records, len(lost))
			if len(lost) == 0 || records == len(lost) {
				t.Fatal("want some lost and some late")
			}
			for _, seq := range lost {
				if !slices.ContainsFunc(left, func(m *decafpb.Retransmit) bool { return seq-m.GetTcpSeq() < m.GetTcpEndSeq()-m.GetTcpSeq() }) {
					t.Errorf("the vote of the segment at %d is taken back, which was lost", seq)
					for _, m := range rec.all() {
						if !m.GetUndone() && seq-m.GetTcpSeq() < m.GetTcpEndSeq()-m.GetTcpSeq() {
							t.Logf("record %d: %v, %d segments, %d to %d", m.GetOrigin().GetSeq(), m.GetKind(), m.GetSegments(), m.GetTcpSeq(), m.GetTcpEndSeq())
						}
					}
				}
			}
		})
	}
	f("IPv4", addrB, "0", 200<<10, 20)
	f("IPv6", addrB6, "0", 200<<10, 20)
	// No chunk has both a late and a lost segment: see above.
	f("IPv4, timestamps", addrB, "1", 60<<10, 60)
	f("IPv6, timestamps", addrB6, "1", 60<<10, 60)
}

// A segment that is later than TCP waits for is sent again by timeout. The other
// end that reports no duplicates still echoes whose timestamp came first; one
// that does neither leaves the votes as they are.
func TestSpuriousTimeout(t *testing.T) {
	f := func(name, to, timestamps, dsack string, closing, taken bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.tcp(t, reporting)
			l.tcp(t, map[string]string{"timestamps": timestamps, "dsack": dsack})
			l.detour(t, func(p []byte) time.Duration {
				if _, bytes := segment(p); bytes < 100 {
					return 0
				}
				return 500 * time.Millisecond // settleAfter less what a busy machine adds
			})
			p := l.connect(to, false)
			rec, a := l.watch(l.a, tracerFunc(complete))
			// The handshake may have been slow, and timeouts are long then.
			for range 20 {
				if _, err := p.client.Write([]byte{0}); err != nil {
					t.Fatal(err)
				}
				p.take(t, 1)
				until(t, "everything is acknowledged", func() bool { return unacked(t, p.client) == 0 })
			}
			if _, err := p.client.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			if closing {
				p.client.CloseWrite() // from here on no tracepoint shows what is received
			}
			p.take(t, 100)
			if taken {
				eachTaken(t, rec, a)
				return
			}
			until(t, "everything is acknowledged", func() bool { return unacked(t, p.client) == 0 })
			p.client.Close()
			p.server.Close()
			until(t, "the socket is gone", func() bool { return a.Counters()[countClosed] > 0 })
			if left, records := rec.left(); records == 0 || len(left) != records {
				t.Errorf("%d of %d records are left, want all: nothing was said of them", len(left), records)
			}
		})
	}
	f("IPv4, D-SACK", addrB, "0", "1", false, true)
	f("IPv6, D-SACK", addrB6, "0", "1", false, true)
	f("IPv4, timestamps", addrB, "1", "0", false, true)
	f("IPv6, timestamps", addrB6, "1", "0", false, true)
	f("IPv4, D-SACK and timestamps", addrB, "1", "1", false, true)
	f("IPv4, D-SACK, closing", addrB, "0", "1", true, true)
	f("IPv4, neither", addrB, "0", "0", false, false)
}

// What was lost stays so, whatever else of the connection turns out to have been
// sent for nothing before.
func TestLossAfterSpuriousRetransmitKeepsItsVote(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	rec, a := l.watch(l.a, tracerFunc(complete))
	p := l.connect(addrB, false)
	send := func(port string) {
		t.Helper()
		f := l.drop(port, nth(0)...) // or, on a busy machine, the answer to what is sent again too
		before := len(rec.all())
		if _, err := p.client.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		until(t, "a packet is dropped", func() bool { return f.dropped() > 0 })
		f.remove()
		until(t, "it is sent again", func() bool { return len(rec.all()) > before })
		if err := read(p.server, 100); err != nil {
			t.Fatal(err)
		}
		until(t, "everything is acknowledged", func() bool { return unacked(t, p.client) == 0 })
	}
	send("eth2") // an acknowledgement
	until(t, "that is taken back", func() bool { return a.Counters()[countTakenBack] > 0 })
	send("eth1") // data
	p.client.Close()
	p.server.Close()
	until(t, "the socket is gone", func() bool { return a.Counters()[countClosed] > 0 })
	if left, records := rec.left(); len(left) == 0 || len(left) == records {
		t.Errorf("%d of %d records are left, want those of the loss alone", len(left), records)
	}
	if n := a.Counters()[countUndone]; n != 0 {
		t.Error("the whole connection was taken back")
	}
}
