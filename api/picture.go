package api

import (
	"fmt"
	"slices"
	"strings"

	"decaf/topology"
)

// A picture shows one direction of a conversation: the hosts left and right,
// between them every device its flows may cross (the ECMP set) by distance,
// over that the paths that were traced, and what is blamed. It is laid out
// here and drawn by the template: no I/O, no colours.
type picture struct {
	Title         string
	Width, Height int
	Nodes         []pictureNode
	Edges         []pictureEdge
	Notes         []string
	Traced        bool // a trace was drawn
}

// pictureNode is a box.
type pictureNode struct {
	Name         string
	X, Y, W, H   int
	TextX, TextY int
	BelowY       int    // where Below is written
	Below        string // "12 drops", "+52 more"
	Class        string // "host", "device", "more", with " traced", " blamed"
	Note         string // tooltip
	column       int
}

// pictureEdge is a link, from left to right unless a path turned back.
type pictureEdge struct {
	X1, Y1, X2, Y2 int
	Width          int
	Class          string // "ecmp", "traced", "gap", "blamed"
	Note           string // tooltip
}

const (
	nodeW, nodeH    = 124, 30
	columnGap       = 56
	rowGap          = 30
	pictureMargin   = 14
	maxColumnNodes  = 12 // of a column, those neither traced nor blamed are cut to this many
	maxPicturePaths = 1000
)

// drawPath lays out the direction from src to dst, both host names of the
// topology. Of paths it takes those of that direction. It returns nil if there
// is nothing to draw: no way between the two, or the same host.
func drawPath(topo *topology.Topology, src, dst string, paths []PathView, drops []DropView, blamed string) *picture {
	shares := topo.Shares(src, dst)
	if len(shares) == 0 {
		return nil
	}
	p := &picture{Title: src + " to " + dst}
	nodes := make(map[string]*pictureNode)
	var names []string
	place := func(name string, column int) *pictureNode {
		n, ok := nodes[name]
		if !ok {
			n = &pictureNode{Name: name, W: nodeW, H: nodeH, Class: "device", column: column}
			if _, host := topo.Host(name); host {
				n.Class = "host"
			}
			nodes[name] = n
			names = append(names, name)
		}
		return n
	}
	type edge struct {
		from, to string
		name     string
		share    float64
		traces   int
		gap      bool
	}
	edges := make(map[string]*edge)
	var order []*edge
	join := func(name, from, to string) *edge {
		e, ok := edges[name]
		if !ok {
			e = &edge{from: from, to: to, name: name}
			edges[name] = e
			order = append(order, e)
		}
		return e
	}

	place(src, 0)
	for _, s := range shares { // in order of distance: the near end is placed before
		from := place(s.Link.From.Node, 0)
		place(s.Link.To.Node, from.column+1)
		join(s.Link.Name, s.Link.From.Node, s.Link.To.Node).share = s.Share
	}
	traced := make(map[string]bool)
	whole, partial := 0, 0
	for i, path := range paths {
		if path.SrcHost != src || path.DstHost != dst || len(path.Hops) == 0 {
			continue
		}
		if i >= maxPicturePaths {
			break
		}
		times := max(1, path.SeenTimes)
		at := src
		traced[src] = true
		for _, name := range path.Links {
			l, ok := topo.Link(name)
			if !ok {
				continue
			}
			after := nodes[at].column
			if l.From.Node != at {
				after++
			}
			from := place(l.From.Node, after)
			place(l.To.Node, from.column+1)
			if l.From.Node != at {
				// Hops between were silent, or are not in the topology.
				gap := join("gap "+at+">"+l.From.Node, at, l.From.Node)
				gap.gap, gap.traces = true, gap.traces+times
			}
			join(name, l.From.Node, l.To.Node).traces += times
			traced[l.From.Node], traced[l.To.Node] = true, true
			at = l.To.Node
		}
		if at == dst {
			whole += times
		} else {
			partial += times
			gap := join("gap "+at+">", at, "")
			gap.gap, gap.traces = true, gap.traces+times
		}
	}

	count := make(map[string]int)
	for _, d := range drops {
		if (d.SrcHost == src || d.SrcHost == "") && (d.DstHost == dst || d.DstHost == "") {
			count[d.Device]++
		}
	}

	columns := make([][]*pictureNode, 0)
	for _, name := range names {
		n := nodes[name]
		for len(columns) <= n.column {
			columns = append(columns, nil)
		}
		if traced[name] {
			n.Class += " traced"
		}
		if blamed == "device "+name || blamed == "host "+name {
			n.Class += " blamed"
		}
		if c := count[name]; c > 0 {
			n.Class += " dropping"
			n.Below = plural(c, "drop")
		}
		columns[n.column] = append(columns[n.column], n)
	}
	tallest := 0
	for i, column := range columns {
		kept, cut := column[:0:0], 0
		for _, n := range column {
			if !strings.Contains(n.Class, " ") && len(column) > maxColumnNodes && len(kept) >= maxColumnNodes && !touchesBlamed(blamed, n.Name, topo) {
				cut++
				delete(nodes, n.Name)
				continue
			}
			kept = append(kept, n)
		}
		if cut > 0 {
			kept = append(kept, &pictureNode{Name: fmt.Sprintf("%d more", cut), W: nodeW, H: nodeH, Class: "more", column: i,
				Note: plural(cut, "device") + " of the ECMP set that no trace crossed"})
		}
		columns[i] = kept
		tallest = max(tallest, len(kept))
	}
	p.Width = 2*pictureMargin + len(columns)*nodeW + (len(columns)-1)*columnGap
	p.Height = 2*pictureMargin + tallest*nodeH + (tallest-1)*rowGap + 16 // 16: the words below a box
	for c, column := range columns {
		height := len(column)*nodeH + (len(column)-1)*rowGap
		y := pictureMargin + (p.Height-16-2*pictureMargin-height)/2
		for _, n := range column {
			n.X, n.Y = pictureMargin+c*(nodeW+columnGap), y
			n.TextX, n.TextY, n.BelowY = n.X+n.W/2, n.Y+n.H/2+4, n.Y+n.H+13
			y += nodeH + rowGap
			if n.Note == "" {
				n.Note = n.Name
				if d, ok := topo.Device(n.Name); ok && d.Tier != "" {
					n.Note += " (" + d.Tier + ")"
				}
			}
			p.Nodes = append(p.Nodes, *n)
		}
	}
	most := 1
	for _, e := range order {
		most = max(most, e.traces)
	}
	for _, e := range order {
		from, ok := nodes[e.from]
		if !ok {
			continue
		}
		pe := pictureEdge{X1: from.X + from.W, Y1: from.Y + from.H/2, Width: 1, Class: "ecmp"}
		switch to, ok := nodes[e.to]; {
		case ok:
			pe.X2, pe.Y2 = to.X, to.Y+to.H/2
			if to.column <= from.column { // a path that turns back, such as a loop
				pe.X1, pe.X2 = from.X+from.W/2, to.X+to.W/2
			}
		case e.to == "": // a trace that nobody answered any more
			pe.X2, pe.Y2 = pe.X1+columnGap/2, pe.Y1
		default:
			continue
		}
		if e.traces > 0 {
			pe.Class, pe.Width = "traced", 2+3*e.traces/most
		}
		if e.gap {
			pe.Class = "gap"
		}
		if blamed == "link "+e.name {
			pe.Class, pe.Width = "blamed", max(4, pe.Width)
		}
		pe.Note = e.name
		if e.gap {
			pe.Note = "no answer here"
		}
		if e.traces > 0 {
			pe.Note += ": " + plural(e.traces, "trace")
		} else {
			pe.Note += fmt.Sprintf(": %.0f%% of flows may go here, none traced", 100*e.share)
		}
		p.Edges = append(p.Edges, pe)
	}
	// What matters most is drawn last, on top.
	rank := map[string]int{"ecmp": 0, "gap": 1, "traced": 2, "blamed": 3}
	slices.SortStableFunc(p.Edges, func(a, b pictureEdge) int { return rank[a.Class] - rank[b.Class] })
	p.Traced = whole+partial > 0
	switch {
	case !p.Traced:
		p.Notes = append(p.Notes, "No traced path in this direction: thin lines show where its flows may go.")
	case partial > 0:
		p.Notes = append(p.Notes, fmt.Sprintf("%s, %d of them partial: dashed where nobody answered.", plural(whole+partial, "trace"), partial))
	default:
		p.Notes = append(p.Notes, plural(whole, "trace")+", all of them whole.")
	}
	if blamed != "" && !p.hasBlamed() {
		p.Notes = append(p.Notes, blamed+" is not on the way in this direction.")
	}
	return p
}

// hasBlamed tells if what is blamed shows in the picture.
func (p *picture) hasBlamed() bool {
	return slices.ContainsFunc(p.Edges, func(e pictureEdge) bool { return e.Class == "blamed" }) ||
		slices.ContainsFunc(p.Nodes, func(n pictureNode) bool { return strings.Contains(n.Class, "blamed") })
}

// touchesBlamed tells if node is an end of the blamed link: it has to be drawn.
func touchesBlamed(blamed, node string, topo *topology.Topology) bool {
	name, ok := strings.CutPrefix(blamed, "link ")
	if !ok {
		return false
	}
	l, ok := topo.Link(name)
	return ok && (l.From.Node == node || l.To.Node == node)
}

// plural writes a count and its noun.
func plural[N ~int | ~uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
