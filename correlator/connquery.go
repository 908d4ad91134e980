package correlator

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"decaf/api"
	"decaf/api/decafpb"
)

// connQuery answers who asks for connections or services. It looks at a table a part
// at a time, and copies what it takes: what has to wait for it never waits for more
// than one look, however large the table is and however much is asked for.
//
// A connection is told of as it was at one moment, and once. All that were held when
// it began are looked at, but for those that were forgotten meanwhile, which are
// counted as such.
type connQuery struct {
	store  *Store
	table  *connTable
	r      api.Range
	host   int32 // -1: any
	admits func(*toldConn) bool

	at, end int    // slots: the next to look at, and the end
	upTo    uint64 // arrivals; what came later is left out
	found   []chosen
	short   shortlist

	forgotten, troubled uint64
}

// connsPerLook is how many slots one look is at. What each takes grows with its parts
// and with what was sent again of it; a microsecond is usual.
const connsPerLook = 256

func newConnQuery(s *Store, t *connTable, r api.Range, admits func(*toldConn) bool) *connQuery {
	q := &connQuery{store: s, table: t, r: r, host: -1, admits: admits, short: shortlist{limit: r.Limit}}
	if r.Host != "" {
		if q.host = s.traffic.known(r.Host); q.host < 0 {
			q.table = newConnTable(0) // nobody tells of it
		}
	}
	return q
}

// answer looks at all, holding what guards the evidence for one look at a time.
func (q *connQuery) answer(ctx context.Context, evidence sync.Locker) (api.FlowRows, error) {
	look := func() bool {
		evidence.Lock()
		defer evidence.Unlock()
		return q.look()
	}
	for more := true; more; q.sift() {
		if err := ctx.Err(); err != nil {
			return api.FlowRows{}, err
		}
		more = look()
	}
	return q.rows(), nil
}

// look takes what is asked for of the slots that follow; false if these were the last.
func (q *connQuery) look() bool {
	t, r := q.table, q.r
	if q.at == 0 {
		q.end, q.upTo = len(t.slots), t.arrivals
	}
	from, to := q.at, min(q.at+connsPerLook, q.end, len(t.slots))
	for ; q.at < to; q.at++ {
		c := t.slots[q.at]
		if c == nil || c.arrival > q.upTo || q.host >= 0 && c.host != q.host ||
			r.Port != 0 && c.flow.Src.Port() != r.Port && c.flow.Dst.Port() != r.Port ||
			!r.Flow.IsZero() && !r.Flow.MatchEnds(c.flow.Src, c.flow.Dst) {
			continue
		}
		sum, last, ok := c.during(r)
		if !ok || r.Trouble && !sum.trouble() && !(last && c.broken()) || !q.admits(&c.toldConn) {
			continue
		}
		x := chosen{toldConn: &c.toldConn, key: sum.by(r.Sort), end: sum.end}
		if q.short.takes(x) {
			told := c.toldConn
			x.toldConn, x.path = &told, q.store.traced(&told)
			q.found = append(q.found, x)
		}
	}
	q.forgotten, q.troubled = t.stats.forgotten, t.stats.troubled
	return from < to && to < q.end
}

// sift goes through what the last look took.
func (q *connQuery) sift() {
	for _, x := range q.found {
		q.short.keep(x)
	}
	clear(q.found)
	q.found = q.found[:0]
}

// rows gives what was taken, the first of the order first.
func (q *connQuery) rows() api.FlowRows {
	out := api.FlowRows{Forgotten: q.forgotten, Troubled: q.troubled}
	for _, x := range q.short.cut() {
		out.Rows = append(out.Rows, x.row(q.store.topo.Hosts[x.host].Name, x.path, q.r))
	}
	q.r.Omit(q.short.given - len(out.Rows))
	return out
}

// chosen is a connection that is asked for, and what it is sorted by.
type chosen struct {
	*toldConn
	path *decafpb.Path
	key  float64
	end  int64 // of what it did in the time asked for
}

// before says which of two is shown first.
func (a chosen) before(b chosen) int {
	return cmp.Or(cmp.Compare(b.key, a.key), cmp.Compare(b.end, a.end), cmp.Compare(a.host, b.host),
		a.flow.Src.Compare(b.flow.Src), a.flow.Dst.Compare(b.flow.Dst), cmp.Compare(a.cookie, b.cookie))
}

// shortlist keeps the first of what it is given, at most limit of them, 0 all.
type shortlist struct {
	limit, given int
	list         []chosen // never more than twice the limit
	full         bool     // the limit-th of list is the last that may stay
}

// takes counts one more, and says whether it may be among the first.
func (l *shortlist) takes(c chosen) bool {
	l.given++
	return !l.full || c.before(l.list[l.limit-1]) <= 0
}

// keep adds one that may.
func (l *shortlist) keep(c chosen) {
	l.list = append(l.list, c)
	if l.limit > 0 && len(l.list) == 2*l.limit {
		l.cut()
		l.full = true
	}
}

// cut sorts what is left and cuts it at the limit.
func (l *shortlist) cut() []chosen {
	slices.SortFunc(l.list, chosen.before)
	if l.limit > 0 && len(l.list) > l.limit {
		clear(l.list[l.limit:])
		l.list = l.list[:l.limit]
	}
	return l.list
}
