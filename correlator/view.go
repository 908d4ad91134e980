package correlator

import (
	"decaf/api/packet"
	"decaf/correlator/blame"
)

// Where no segment that was sent later arrived before, a retransmit says less
// of where its packet was lost: on half of the timeouts the acknowledgement was.
const backOfTimeout = 0.5

// maxLossy bounds the lossy flows of one inference, that it ends in time, and as
// many again that devices told of; the oldest are left out.
const maxLossy = 20_000

// viewKind names the windows that move on from step to step.
type viewKind uint8

const (
	viewOnce   viewKind = iota // looked at once
	viewLive                   // the live window
	viewRecent                 // its last part
	viewMoment                 // the last part of that
	viewPast                   // with the epochs before it
)

// view is a window's evidence in the terms of package blame. From one step to
// the next little of it changes: [view.take] feeds the difference alone, and what
// comes out is what a new view would give of the same window, to the last bit.
type view struct {
	ids    *fabricIDs
	admits func(*Flow) bool // lossy flows that count
	// shakes counts handshakes, of which each flow has one, in place of packets.
	shakes bool
	live   *blame.Live
	held   map[*Flow]*heldFlow
	turn   uint64

	clean cleanRows

	// Of the latest window. The first of order are those of flows, which no device
	// told of; those that devices told of follow.
	flows   []*Flow
	order   []blame.FlowID
	drops   []blame.Drop
	leftOut int // lossy flows beyond maxLossy
}

// heldFlow is a flow as package blame holds it.
type heldFlow struct {
	id    blame.FlowID
	shape shape
	turn  uint64 // of the view, when it was last there
}

// shape is all of a flow that decides which links it speaks of.
type shape struct {
	version uint32
	sight   sight
}

// sight is where a device showed a flow's drop; the zero value: none did.
type sight struct {
	at  blame.Component
	way way
}

// way says which packet of the flow a device dropped.
type way uint8

const (
	wayNone     way = iota
	wayTraced       // one of its own, on the path it was traced on
	wayUntraced     // one of its own, elsewhere on its ECMP set
	wayBack         // an answer to it
)

func newView(ids *fabricIDs, admits func(*Flow) bool) *view {
	return &view{ids: ids, admits: admits, live: blame.NewLive(ids.net, inference), held: make(map[*Flow]*heldFlow)}
}

// take makes the view one of this window.
func (v *view) take(w *Window) *view {
	v.turn++
	v.flows, v.order = v.flows[:0], v.order[:0]
	packets := max(1, v.clean.take(w, v))
	if !v.shakes {
		v.live.Time(spanOf(timeOf(w)), v.clean.loads(w))
	}
	var list []*Flow
	for _, f := range w.Pathless {
		if v.admits(f) && f.Src != "" && f.Dst != "" {
			list = append(list, f)
		}
	}
	for _, f := range w.Flows {
		if v.admits(f) {
			list = append(list, f)
		}
	}
	v.leftOut = max(0, len(list)-maxLossy)
	for _, f := range list[v.leftOut:] {
		v.flows = append(v.flows, f)
		v.hold(w, f, sight{}, packets)
	}
	valid := make(map[*Drop]bool, len(w.Drops)) // others are a finding's that is resolved
	for _, d := range w.Drops {
		valid[d] = true
	}
	joined := w.Joined[max(0, len(w.Joined)-maxLossy):]
	v.leftOut += len(w.Joined) - len(joined)
	for _, j := range joined {
		if s := v.seen(w, j, valid); s.way != wayNone {
			v.hold(w, j.Flow, s, packets)
		}
	}
	for f, h := range v.held {
		if h.turn != v.turn {
			v.live.Remove(h.id)
			delete(v.held, f)
		}
	}
	v.drops = v.dropped(w)
	var watching []int32
	for _, name := range w.Watching {
		if id, ok := v.ids.net.Device(name); ok {
			watching = append(watching, id)
		}
	}
	v.live.Devices(v.drops, watching)
	return v
}

// hold puts a flow in the place that follows in the order.
func (v *view) hold(w *Window, f *Flow, s sight, packets float64) {
	is := shape{f.version, s}
	b := v.flow(w, f, s, packets)
	h := v.held[f]
	if h != nil && h.shape != is {
		v.live.Remove(h.id)
		h = nil
	}
	if h == nil {
		v.links(&b, f, s)
		h = &heldFlow{id: v.live.Add(b), shape: is}
		v.held[f] = h
	} else {
		v.live.Weigh(h.id, b.Packets, b.Lost)
		v.live.Date(h.id, b.When)
	}
	h.turn = v.turn
	v.order = append(v.order, h.id)
}

// flow is what a flow counts for in a window, and when it lost packets there. A
// device that showed the drop leaves no doubt of it. Of handshakes no times are
// given: a SYN is repeated after seconds.
func (v *view) flow(w *Window, f *Flow, s sight, packets float64) (b blame.Flow) {
	weight := w.weight(f.Last)
	b.Lost, b.Packets = weight, weight*packets
	if s.way == wayNone {
		b.Lost *= f.counted()
	}
	if !v.shakes {
		b.When = spanOf(f.lostWithin(w.Start, w.End))
	}
	return b
}

// links hands over where a flow was.
func (v *view) links(b *blame.Flow, f *Flow, s sight) {
	b.Src, b.Dst, b.Seen = v.ids.hostID(f.Src), v.ids.hostID(f.Dst), s.at
	switch s.way {
	case wayNone:
		b.Path = v.ids.path(f.Route)
		if !f.Proof() {
			b.Back = backOfTimeout
		}
	case wayTraced:
		b.Path = v.ids.path(f.Route)
	case wayBack:
		b.Src, b.Dst = b.Dst, b.Src
	}
}

// tells says whether the flow's loss may be used: handshakes and closes are
// repeated for too many other reasons.
func (f *Flow) tells() bool { return f.kinds != [6]uint32{} }

// seen finds where a device showed a flow's drop: a packet of its own, or on
// the way back an answer to it. A device that is on neither way has seen
// something else; then the flow says nothing.
func (v *view) seen(w *Window, j JoinedFlow, valid map[*Drop]bool) sight {
	f := j.Flow
	for _, d := range j.Join.Drops {
		if !valid[d] {
			continue
		}
		// Someone's trace ran out there: no loss of this flow.
		if isClass(d.Event.GetClass(), classTTL) && j.Join.Matched+j.Join.Answer == 0 {
			continue
		}
		at, ok := v.ids.id(d.Component)
		if !ok {
			continue
		}
		switch {
		case f.carried(d.Tuple) && d.Component.on(f):
			return sight{at, wayTraced}
		case f.carried(d.Tuple) && w.paths.mayCross(f.Src, f.Dst, d.Component):
			return sight{at, wayUntraced}
		case !f.carried(d.Tuple) && w.paths.mayCross(f.Dst, f.Src, d.Component):
			return sight{at, wayBack}
		}
	}
	return sight{}
}

// dropped is what devices dropped, by component and class. As of what hosts
// lost, each connection counts once, with its latest drop.
func (v *view) dropped(w *Window) []blame.Drop {
	type key struct {
		at    Component
		class string
		tuple packet.Flow // of one connection; zero for all of a class
	}
	var list []blame.Drop
	at := make(map[key]int)
	counted := make(map[key]float64)
	for _, d := range w.Drops {
		class := d.Event.GetClass()
		if isClass(class, classTTL) && !d.Matched {
			continue // a trace's, until a host lost that very packet
		}
		device, ok := v.ids.net.Device(d.Device)
		if !ok {
			continue
		}
		k := key{at: d.Component, class: class}
		i, ok := at[k]
		if !ok {
			i = len(list)
			at[k] = i
			b := blame.Drop{Device: device, From: -1, To: -1, Class: class, When: spanOf(d.Time, d.Time)}
			if l := d.Component.Link; l != nil && l.From.Node == d.Device {
				b.To, _ = v.ids.net.Node(l.To.Node)
			} else if l != nil {
				b.From, _ = v.ids.net.Node(l.From.Node)
			}
			list = append(list, b)
		}
		list[i].When.From = min(list[i].When.From, seconds(d.Time))
		list[i].When.To = max(list[i].When.To, seconds(d.Time))
		weight := w.weight(d.Time)
		if d.counted() {
			weight *= d.stands
		}
		if d.Tuple.Src.IsValid() {
			k.tuple = d.Tuple
			before := counted[k]
			counted[k] = max(before, weight)
			weight = counted[k] - before
		}
		list[i].Count += weight
	}
	return list
}

// cleanRows is the loss-free traffic that a view has counted. Rows come late,
// some only when their time is over, so those of one epoch before the window
// stand in with it: it matters how the traffic is spread, not how much of it
// there is.
type cleanRows struct {
	span     cleanSpan
	from, to int // rows counted, by their place in the log; from is of the first that mattered

	rows, flows, packets float64
	parts                []float64 // packets of each part, as they count
	told                 [2][]bool // by host: whether any rows are of what it sent, and of what was sent to it
}

// untold says whether loss-free traffic is counted, but none of what a host's own
// link carries: its rows have not come yet, and whatever it lost seems much.
func (c *cleanRows) untold(w *Window, at Component) (host string, is bool) {
	if c.rows == 0 || at.Link == nil {
		return "", false
	}
	way := 0
	if host = at.Link.From.Node; w.log.known(host) < 0 {
		way, host = 1, at.Link.To.Node
	}
	i := w.log.known(host)
	return host, i >= 0 && !c.told[way][i]
}

// cleanSpan is what decides a row's share and weight, beside the row itself. It
// changes in steps of a part of an epoch, that the same counts serve many steps.
type cleanSpan struct {
	log              *trafficLog
	from, to, length int64
	part             int64
	current, decay   int64 // of a window with history
}

// trafficParts is how finely the time of loss-free traffic is cut.
const trafficParts = 6

// take counts the rows of a window that are not counted yet, or, when time has
// moved on, all of them. It gives the mean packets of a flow, 0 without rows.
func (c *cleanRows) take(w *Window, v *view) (mean float64) {
	part := w.part()
	span := cleanSpan{
		log:  w.log,
		from: (w.Start - (w.End - w.Current)) / part * part,
		to:   (w.End + part - 1) / part * part, length: w.End - w.Start, part: part,
	}
	if w.Decay > 0 {
		span.current, span.decay = w.Current, w.Decay
	}
	var tally *blame.Tally
	add := v.live.AddClean
	first := max(c.to, w.TrafficAt)
	if c.span != span || w.TrafficAt > c.from || w.TrafficAt+len(w.Traffic) < c.to {
		none := c.rows == 0 && len(w.Traffic) == 0
		*c = cleanRows{span: span, from: w.TrafficAt, to: w.TrafficAt, parts: make([]float64, (span.to-span.from)/part)}
		c.told = [2][]bool{make([]bool, len(v.ids.host)), make([]bool, len(v.ids.host))}
		if none {
			return 0
		}
		tally = blame.NewTally(v.ids.net)
		add, first = tally.Add, w.TrafficAt
	}
	for i := first; i < w.TrafficAt+len(w.Traffic); i++ {
		row := &w.Traffic[i-w.TrafficAt]
		share := row.within(span.from, span.to)
		if share == 0 {
			continue
		}
		if c.rows == 0 {
			c.from = i
		}
		c.rows++
		packets := row.Packets * share
		if v.shakes {
			packets = row.Flows * share
		}
		c.flows += row.Flows * share
		c.packets += packets
		weight := w.weight(row.End)
		add(v.ids.host[row.Src], v.ids.host[row.Dst], packets*weight*float64(span.length)/float64(span.to-span.from))
		c.pour(row, weight)
		c.told[0][row.Src], c.told[1][row.Dst] = true, true
	}
	c.to = w.TrafficAt + len(w.Traffic)
	if c.rows == 0 {
		c.from = c.to
	}
	if tally != nil {
		v.live.SetClean(tally)
	}
	if c.flows == 0 {
		return 0
	}
	return c.packets / c.flows
}
