package hostagent

import (
	"errors"
	"io"
	"os"
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

// reportDuplicates makes both ends of the lab report each duplicate (spurious.go
// says when they do not), and b take everything in: what it has no room for is
// lost (TCPBacklogDrop, TCPRcvQDrop).
func (l *lab) reportDuplicates(t *testing.T) {
	t.Helper()
	for _, s := range []*space{l.a, l.b} {
		if err := s.do(func() error {
			for name, value := range map[string]string{
				"tcp_timestamps":        "0",
				"tcp_backlog_ack_defer": "0",
				"tcp_comp_sack_nr":      "0",
				"tcp_rmem":              "4096 33554432 33554432",
			} {
				err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644)
				if err != nil && !errors.Is(err, os.ErrNotExist) { // older kernels defer none
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// Packets that overtake others make TCP send again what was never lost. The
// other end says so, and no vote is left, while the connection lives on.
func TestReorderWithoutLossLeavesNoVote(t *testing.T) {
	l := newLab(t)
	l.reportDuplicates(t)
	n := 0
	l.detour(t, func(p []byte) time.Duration {
		if payload(p) < 1000 {
			return 0
		}
		if n++; n%200 == 100 {
			return 15 * time.Millisecond
		}
		return 0
	})
	// First the handshake: a SYN may be late on a busy machine, and sent again.
	p := l.connect(addrB, false)
	rec, a := l.watch(l.a, tracerFunc(complete))
	const bytes = 4 << 20
	go p.client.Write(make([]byte, bytes))
	p.server.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.CopyN(io.Discard, p.server, bytes); err != nil {
		t.Fatalf("received %d bytes: %v", got, err)
	}
	until(t, "every record is taken back", func() bool {
		left, records := rec.left()
		return records > 0 && len(left) == 0 && uint64(records) == a.Counters()[countRecords]
	})
	_, records := rec.left()
	t.Logf("%d records, all taken back", records)
	if n := a.Counters()[countTakenBack]; n != uint64(records) {
		t.Errorf("%d taken back, of %d", n, records)
	}
	for _, m := range rec.all() {
		if m.GetUndone() && (m.GetUndoneSeq() == 0 || m.GetCookie() != p.cookie(t) || m.GetPath() != nil) {
			t.Errorf("%v: want the number of one record, the socket's cookie, no path", m)
		}
	}
}

// What was lost stays so, whatever else of the connection turns out to have been
// sent for nothing before.
func TestLossAfterSpuriousRetransmitKeepsItsVote(t *testing.T) {
	l := newLab(t)
	rec, a := l.watch(l.a, tracerFunc(complete))
	p := l.connect(addrB, false)
	send := func(port string) {
		t.Helper()
		f := l.drop(port)
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
