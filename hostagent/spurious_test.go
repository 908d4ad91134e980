package hostagent

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"decaf/api/decafpb"
)

// votesTest plays a script: "again N total=T dups=D" is a retransmit of one
// segment with record N, which may hold "bytes=FROM-TO" with timestamp "ts=T",
// "sent N" its publication, "look total=T dups=D" a look at the socket, "settled"
// one after which no more is expected, "dup bytes=FROM-TO" a report of a
// duplicate, "echo bytes=FROM-TO ts=T" an acknowledgement of FROM by timestamp T.
type votesTest struct {
	v       *votes
	records map[uint64]*decafpb.Retransmit
	back    []string
}

func (x *votesTest) play(t *testing.T, script string) {
	t.Helper()
	for line := range strings.Lines(script) {
		var n uint64
		e := event{cookie: 7, segments: 1, seq: uint32(len(x.records)), endSeq: uint32(len(x.records)) + 1}
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		for _, w := range f[1:] {
			switch {
			case strings.HasPrefix(w, "total="):
				fmt.Sscanf(w, "total=%d", &e.totalRetrans)
			case strings.HasPrefix(w, "dups="):
				fmt.Sscanf(w, "dups=%d", &e.dsackDups)
			case strings.HasPrefix(w, "bytes="):
				fmt.Sscanf(w, "bytes=%d-%d", &e.seq, &e.endSeq)
			case strings.HasPrefix(w, "ts="):
				fmt.Sscanf(w, "ts=%d", &e.ts)
			case strings.HasPrefix(w, "segments="):
				fmt.Sscanf(w, "segments=%d", &e.segments)
			default:
				fmt.Sscan(w, &n)
			}
		}
		switch f[0] {
		case "again":
			r := &decafpb.Retransmit{Cookie: 7, TcpSeq: e.seq, TcpEndSeq: e.endSeq}
			x.records[n] = r
			x.take(x.v.sentAgain(&e, r))
		case "sent":
			r := x.records[n]
			r.Origin = &decafpb.Origin{Seq: n}
			if back := x.v.published(r); back != nil {
				x.take([]*decafpb.Retransmit{back})
			}
		case "look":
			x.take(x.v.looked(&e, false))
		case "settled":
			x.take(x.v.looked(&e, true))
		case "dup":
			x.take(x.v.reported(&e))
		case "echo":
			x.take(x.v.echoed(&e))
		default:
			t.Fatalf("%q", line)
		}
	}
}

func (x *votesTest) take(back []*decafpb.Retransmit) {
	for _, r := range back {
		x.back = append(x.back, fmt.Sprint(r.GetUndoneSeq()))
	}
}

func TestVotes(t *testing.T) {
	f := func(name, want, script string) {
		t.Helper()
		x := &votesTest{v: newVotes(), records: map[uint64]*decafpb.Retransmit{}}
		x.play(t, script)
		slices.Sort(x.back)
		if got := strings.Join(x.back, " "); got != want {
			t.Errorf("%s: took back %q, want %q", name, got, want)
		}
		if n := x.v.pending; strings.Contains(script, "settled") && (n != 0 || len(x.v.of) != 0) {
			t.Errorf("%s: %d records of %d connections still wait", name, n, len(x.v.of))
		}
	}
	f("one reported", "1", `
		again 1 total=1
		sent 1
		look total=1 dups=1
		settled total=1 dups=1`)
	f("none reported", "", `
		again 1 total=1
		sent 1
		settled total=1`)
	f("one of two reported: nobody knows which", "", `
		again 1 total=1
		again 2 total=2
		sent 1
		sent 2
		look total=2 dups=1
		settled total=2 dups=1`)
	f("one after the other, the first told by the second's event", "1 2", `
		again 1 total=1
		sent 1
		again 2 total=2 dups=1
		sent 2
		look total=2 dups=2`)
	f("the first was none, the second was lost", "1", `
		again 1 total=1
		sent 1
		look total=1 dups=1
		again 2 total=2 dups=1
		sent 2
		settled total=2 dups=1`)
	f("a loss long ago does not weigh on what is sent for nothing now", "2", `
		again 1 total=1
		sent 1
		settled total=1
		again 2 total=2
		sent 2
		look total=2 dups=1
		settled total=2 dups=1`)
	f("reported before it is published", "1", `
		again 1 total=1
		look total=1 dups=1
		sent 1
		settled total=1 dups=1`)
	f("a look overtakes an event", "1 2", `
		again 1 total=1
		sent 1
		look total=2 dups=2
		again 2 total=2 dups=2
		sent 2
		settled total=2 dups=2`)
	f("the agent came later than others were sent again", "1", `
		again 1 total=9 dups=3
		sent 1
		look total=9 dups=4`)
	f("one of two, and it is said which", "2", `
		again 1 total=1 bytes=100-200
		again 2 total=2 bytes=200-300
		sent 1
		sent 2
		dup bytes=200-300
		settled total=2 dups=1`)
	f("one report of several segments", "1 2", `
		again 1 total=1 bytes=100-200
		again 2 total=2 bytes=200-300
		again 3 total=3 bytes=300-400
		sent 1
		sent 2
		sent 3
		dup bytes=100-300
		settled total=3 dups=2`)
	f("a record of several segments, by one report for each", "2", `
		again 1 total=2 bytes=100-300 segments=2
		again 2 total=4 bytes=500-700 segments=2
		sent 1
		sent 2
		dup bytes=100-200
		dup bytes=600-700
		dup bytes=600-700
		dup bytes=500-600
		settled total=4`)
	f("of two copies of what was lost one was too many", "2", `
		again 1 total=1 bytes=100-200
		again 2 total=2 bytes=100-200
		sent 1
		sent 2
		dup bytes=100-200
		settled total=2 dups=1`)
	f("of two copies of what was not lost both were", "1 2", `
		again 1 total=1 bytes=100-200
		again 2 total=2 bytes=100-200
		sent 1
		sent 2
		dup bytes=100-200
		dup bytes=100-200
		settled total=2 dups=2`)
	f("reported before it is published, and settled as well", "1", `
		again 1 total=1 bytes=100-200
		dup bytes=100-200
		settled total=1
		sent 1
		settled total=1`)
	f("the echo of an earlier timestamp", "1", `
		again 1 total=1 bytes=100-200 ts=50
		again 2 total=2 bytes=200-300 ts=50
		sent 1
		sent 2
		echo bytes=100-300 ts=49
		settled total=2`)
	f("the echo of its own timestamp", "", `
		again 1 total=1 bytes=100-200 ts=50
		sent 1
		echo bytes=100-200 ts=50
		settled total=1`)
	f("the first copy came, the second had been sent meanwhile, and is reported", "2", `
		again 1 total=1 bytes=100-200 ts=50
		again 2 total=2 bytes=100-200 ts=90
		sent 1
		sent 2
		echo bytes=100-200 ts=50
		dup bytes=100-200
		settled total=2 dups=1`)
	f("an echo tells of the first of several segments alone", "", `
		again 1 total=2 bytes=100-300 segments=2 ts=50
		sent 1
		echo bytes=100-300 ts=49
		settled total=2`)
	f("sequence numbers and timestamps wrap", "1 2", `
		again 1 total=1 bytes=4294967200-100 ts=3
		again 2 total=2 bytes=100-300 ts=5
		sent 1
		sent 2
		dup bytes=4294967200-4294967290
		dup bytes=4294967290-100
		echo bytes=100-300 ts=4294967290
		settled total=2 dups=1`)
	f("what is reported is nothing of these", "", `
		again 1 total=1 bytes=100-200
		sent 1
		dup bytes=200-300
		dup bytes=0-100
		dup bytes=300-200
		settled total=1`)
	f("a report that comes after all was settled is not of what is sent again now", "", `
		again 1 total=1 bytes=100-200
		sent 1
		settled total=1
		again 2 total=2 bytes=500-600
		sent 2
		dup bytes=100-200
		look total=2 dups=1
		settled total=2 dups=1`)
	f("one by sequence numbers, the rest by count alone", "1 2", `
		again 1 total=1 bytes=100-200
		again 2 total=2 bytes=200-300
		sent 1
		sent 2
		dup bytes=200-300
		look total=2 dups=1
		settled total=2 dups=2`)
	f("the counts wrap", "1", `
		again 1 total=4294967295
		again 2 total=0
		sent 1
		look total=0 dups=1
		look total=0 dups=2`)
}

func TestVotesAreBounded(t *testing.T) {
	v := newVotes()
	v.max = 3
	for i := range uint32(10) {
		v.sentAgain(&event{cookie: 1 + uint64(i/2), segments: 1, totalRetrans: i + 1}, &decafpb.Retransmit{Cookie: 1 + uint64(i/2)})
	}
	if v.pending != 3 || v.leftOut.Load() != 7 || len(v.of) != 2 {
		t.Errorf("%d wait, %d left out, of %d connections; want 3, 7, 2", v.pending, v.leftOut.Load(), len(v.of))
	}
}

// A peer may report each byte apart from the others: what is kept of that is
// bounded, and costs nothing that grows.
func TestReportsAreBounded(t *testing.T) {
	v := newVotes()
	r := &decafpb.Retransmit{Cookie: 7, TcpSeq: 1000, TcpEndSeq: 3000}
	v.sentAgain(&event{cookie: 7, segments: 2, totalRetrans: 2, seq: 1000, endSeq: 3000}, r)
	r.Origin = &decafpb.Origin{Seq: 1}
	v.published(r)
	report := func(from, to uint32) []*decafpb.Retransmit {
		return v.reported(&event{cookie: 7, seq: from, endSeq: to})
	}
	for at := uint32(1000); at < 3000; at += 2 {
		if back := report(at, at+1); back != nil {
			t.Fatalf("taken back by half of its bytes: %v", back)
		}
	}
	one := v.of[7].records[0]
	if n := len(one.reported); n != maxReported {
		t.Errorf("%d parts are kept, want %d", n, maxReported)
	}
	// What was joined makes room again.
	for at := uint32(1001); at < 3000; at += 2 {
		report(at, at+1)
	}
	var back []*decafpb.Retransmit
	for at := uint32(1000); at < 3000 && back == nil; at++ {
		back = report(at, at+1)
	}
	if len(back) != 1 || back[0].GetUndoneSeq() != 1 || len(one.reported) != 1 {
		t.Errorf("all is reported: took back %v, of %v", back, one.reported)
	}
}
