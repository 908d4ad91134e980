package hostagent

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"decaf/api/decafpb"
)

// votesTest plays a script: "again N total=T dups=D" is a retransmit of one
// segment with record N, "sent N" its publication, "look total=T dups=D" a look
// at the socket, "settled" one after which no more is expected.
type votesTest struct {
	v       *votes
	records map[uint64]*decafpb.Retransmit
	back    []string
}

func (x *votesTest) play(t *testing.T, script string) {
	t.Helper()
	for line := range strings.Lines(script) {
		var n uint64
		e := event{cookie: 7, segments: 1}
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
			default:
				fmt.Sscan(w, &n)
			}
		}
		switch f[0] {
		case "again":
			r := &decafpb.Retransmit{Cookie: 7}
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
