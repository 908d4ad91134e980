package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"decaf/api/decafpb"
)

// The pages of connections and of services: a table with filters, all of which are in
// the address.

const (
	pageConnectionRows = 100
	tableRefresh       = 5 * time.Second
)

// tablePage is what both pages hold.
type tablePage struct {
	Frame    frame
	Title    string
	Services bool
	Ask      tableAsk
	Error    string // what is wrong with the filters
	Agent    *AgentView
	Hosts    []HostView
	States   []string
	Orders   []string

	Connections []connectionLine
	Sums        []serviceLine
	LeftOut     int
	TableView[struct{}]
	Other string // the other page with the same filters
	JSON  string // the same as JSON
}

// tableAsk is the filters as they were asked for.
type tableAsk struct {
	Host, Src, Dst, Port, Component, State, Sort, Since, Until string
	Trouble                                                    bool
}

// connectionLine is a connection with the pictures of it.
type connectionLine struct {
	ConnectionView
	figures
	Peer   string             // the other end, as src asks for it
	Middle string             // the devices of its path
	Blamed []*decafpb.Finding // what was at fault on its way when it had trouble
}

type serviceLine struct {
	ServiceView
	figures
}

// figures are small pictures of telemetry.
type figures struct {
	Share int // 0..200, of the largest share shown
	RTT   *rttFigure
	Spark []sparkBar
}

// rttFigure is the mean and the longest round trip on a logarithmic scale, 0..200.
type rttFigure struct{ Mean, Max int }

// Length is of the line between them, which is never nothing.
func (r rttFigure) Length() int { return max(1, r.Max-r.Mean) }

// sparkBar is one interval: how many segments a second were sent again. The box is
// 100 wide, all of the time shown, and 16 high, the most of the row.
type sparkBar struct {
	X, Y, Width, Height int
	Quiet               bool // nothing was sent again
	Note                string
}

const sparkHeight = 16

// The scale of round trips: from rttLeast, six powers of ten.
const (
	rttLeast  = 10e3 // ns
	rttPowers = 6
)

func rttAt(ns uint64) int {
	return bar(math.Log10(max(1, float64(ns)/rttLeast)) / rttPowers)
}

func (t *TelemetryView) figures(largest float64, from, to uint64) figures {
	var out figures
	if largest > 0 {
		out.Share = bar(t.LossShare / largest)
	}
	if t.RTTMeanNS > 0 || t.RTTMaxNS > 0 {
		out.RTT = &rttFigure{Mean: rttAt(t.RTTMeanNS), Max: rttAt(max(t.RTTMaxNS, t.RTTMeanNS))}
	}
	if len(t.Intervals) < 2 || to <= from {
		return out
	}
	rate := func(i IntervalView) float64 {
		return float64(i.Retransmits) / float64(max(1, i.ToNS-min(i.FromNS, i.ToNS)))
	}
	most := 0.0
	for _, i := range t.Intervals {
		most = max(most, rate(i))
	}
	at := func(ns uint64) int {
		return int(100 * float64(min(max(ns, from), to)-from) / float64(to-from))
	}
	for _, i := range t.Intervals {
		b := sparkBar{X: at(i.FromNS), Height: 1, Quiet: i.Retransmits == 0,
			Note: fmt.Sprintf("%s to %s: %d of %d segments sent again", second(i.FromNS), second(i.ToNS), i.Retransmits, i.Packets)}
		if most > 0 {
			b.Height = max(1, int(sparkHeight*rate(i)/most+0.5))
		}
		b.Width, b.Y = max(1, at(i.ToNS)-b.X-1), sparkHeight-b.Height
		out.Spark = append(out.Spark, b)
	}
	return out
}

// notes joins what a cell's title tells: that for which the table has no room. Those
// that are "" are left out.
func notes(of ...string) string {
	return strings.Join(slices.DeleteFunc(of, func(s string) bool { return s == "" }), ", ")
}

// note writes a value that is not empty after what it is.
func note(what, value string) string {
	if value == "" {
		return ""
	}
	return what + " " + value
}

// someOf writes how many there were of one thing, "" for none.
func someOf(n uint64, one string) string {
	if n == 0 {
		return ""
	}
	return plural(n, one)
}

// SentAgainNote is beside the segments that were sent again.
func (t TelemetryView) SentAgainNote() string {
	return notes(someOf(t.Timeouts, "timeout"), note("had arrived already:", count(t.Duplicates)), note("found to arrive out of order:", count(t.Reorderings)))
}

// RTTNote is beside the mean round trip.
func (t TelemetryView) RTTNote() string { return note("lowest", brief(t.RTTMinNS)) }

// RTTNote is as that of all telemetry, and has what only a connection has.
func (c ConnectionView) RTTNote() string {
	return notes(c.TelemetryView.RTTNote(), note("they differ by", brief(c.RTTVarNS)))
}

// CwndNote is beside the mean congestion window.
func (t TelemetryView) CwndNote() string {
	return notes(note("over the time shown", grown(t.CwndDelta)), note("reduced:", count(t.CwndReductions)))
}

// CwndNote is as that of all telemetry, and has what only sums have.
func (s ServiceView) CwndNote() string {
	return notes(s.TelemetryView.CwndNote(), note("connections whose window shrank:", count(s.Shrunk)))
}

// RwndNote is beside the mean window of the other end.
func (t TelemetryView) RwndNote() string { return note("this end's own", bytesOf(t.OwnRwndMean)) }

// ZeroWindowNote is beside the time that the other end's window was closed.
func (t TelemetryView) ZeroWindowNote() string {
	return note("probes in a row without an answer:", count(t.Probes))
}

// AgeNote is beside the age.
func (c ConnectionView) AgeNote() string {
	return notes(c.From+" to "+c.Last, note("established for", millis(c.Duration)))
}

// ProcessNote is beside the process.
func (c ConnectionView) ProcessNote() string {
	return notes(note("user", optional(c.UID)), c.Container)
}

// shown is the largest share and the span of time of some rows.
func shown[V any](rows []V, of func(*V) *TelemetryView) (largest float64, from, to uint64) {
	for i := range rows {
		t := of(&rows[i])
		largest = max(largest, t.LossShare)
		for _, in := range t.Intervals {
			if from == 0 || in.FromNS < from {
				from = in.FromNS
			}
			to = max(to, in.ToNS)
		}
	}
	return largest, from, to
}

func (s *Server) pageConnections(w http.ResponseWriter, r *http.Request) error {
	p, rng, err := s.tablePage(r, false)
	if err != nil {
		return err
	}
	if p.Error != "" {
		return s.render(w, http.StatusBadRequest, "flows", p)
	}
	table, err := s.connections(r, rng)
	if err != nil {
		return err
	}
	largest, from, to := shown(table.Items, func(c *ConnectionView) *TelemetryView { return &c.TelemetryView })
	findings := s.findingsSince(r.Context(), from)
	for i := range table.Items {
		c := &table.Items[i]
		line := connectionLine{ConnectionView: *c, figures: c.figures(largest, from, to)}
		if line.Peer = c.DstHost; line.Peer == "" {
			line.Peer = flowOf(c.Flow).Dst
		}
		line.Middle, line.Blamed = c.devices(), c.blamed(findings)
		p.Connections = append(p.Connections, line)
	}
	p.LeftOut, p.Forgotten, p.ForgottenTrouble = table.LeftOut, table.Forgotten, table.ForgottenTrouble
	return s.render(w, http.StatusOK, "flows", p)
}

func (s *Server) pageServices(w http.ResponseWriter, r *http.Request) error {
	p, rng, err := s.tablePage(r, true)
	if err != nil {
		return err
	}
	if p.Error != "" {
		return s.render(w, http.StatusBadRequest, "flows", p)
	}
	table, err := s.services(r, rng)
	if err != nil {
		return err
	}
	largest, from, to := shown(table.Items, func(c *ServiceView) *TelemetryView { return &c.TelemetryView })
	for i := range table.Items {
		v := &table.Items[i]
		p.Sums = append(p.Sums, serviceLine{*v, v.figures(largest, from, to)})
	}
	p.LeftOut, p.Forgotten, p.ForgottenTrouble = table.LeftOut, table.Forgotten, table.ForgottenTrouble
	return s.render(w, http.StatusOK, "flows", p)
}

// tablePage reads the filters. What is wrong with them is told on the page, which
// gives them back.
func (s *Server) tablePage(r *http.Request, services bool) (*tablePage, Range, error) {
	q := r.URL.Query()
	get := func(name string) string { return strings.ToValidUTF8(strings.TrimSpace(q.Get(name)), "\uFFFD") }
	p := &tablePage{
		Services: services, States: stateNames(), Orders: Orders(),
		Ask: tableAsk{Host: get("host"), Src: get("src"), Dst: get("dst"), Port: get("port"), Component: get("component"), State: get("state"),
			Sort: get("sort"), Since: get("since"), Until: get("until"), Trouble: get("trouble") == "true"},
	}
	p.Title = "Connections"
	other, path, filters := "/services", "/api/v1/flows", connectionFilters
	if services {
		p.Title, other, path, filters = "Services", "/flows", "/api/v1/services", serviceFilters
	}
	given := url.Values{}
	for name, v := range q {
		if len(v) > 0 && strings.TrimSpace(v[0]) != "" {
			given[name] = v
		}
	}
	p.JSON = strings.TrimSuffix(path+"?"+given.Encode(), "?")
	for _, name := range []string{"component", "state"} { // of connections alone
		given.Del(name)
	}
	p.Other = strings.TrimSuffix(other+"?"+given.Encode(), "?")
	hosts := s.views().Topology().Hosts
	p.Hosts = hosts[:min(len(hosts), pageHosts)]
	if p.Ask.Host != "" {
		p.Title += " of " + p.Ask.Host
	}
	refresh := tableRefresh
	if p.Ask.Until != "" && p.Ask.Until != "now" {
		refresh = 0
	}
	p.Frame = s.frame(p.Title, refresh)
	rng, _, err := s.asked(r, append([]string{"since", "until", "limit"}, filters...)...)
	var e *Error
	if errors.As(err, &e) && e.Status < 500 {
		p.Error, p.Frame.Refresh = e.Detail, 0
		return p, rng, nil
	}
	if err != nil {
		return nil, rng, err
	}
	if q.Get("limit") == "" {
		rng.Limit = pageConnectionRows
	}
	if rng.Host != "" {
		rows, err := s.backend.Agents(r.Context())
		if err != nil {
			return nil, rng, fmt.Errorf("find agent: %w", err)
		}
		if at := slices.IndexFunc(rows, func(a AgentRow) bool { return a.Name == rng.Host }); at >= 0 {
			a := s.views().Agent(rows[at])
			p.Agent = &a
		}
	}
	return p, rng, nil
}

// findingsSince are those of a time, ns, by component; without them the page shows
// connections all the same.
func (s *Server) findingsSince(ctx context.Context, from uint64) map[string][]*decafpb.Finding {
	list, err := s.backend.Findings(ctx, Range{From: time.Unix(0, int64(from))})
	if err != nil {
		s.log.Warn("page is not whole", "err", fmt.Errorf("findings: %w", err))
	}
	out := make(map[string][]*decafpb.Finding)
	for _, f := range list {
		out[f.Component] = append(out[f.Component], f)
	}
	return out
}

// blamed are the findings on a connection's way that there was evidence of when it
// had trouble.
func (c *ConnectionView) blamed(findings map[string][]*decafpb.Finding) (out []*decafpb.Finding) {
	if c.Path == nil || !c.Trouble {
		return nil
	}
	see := func(component string) {
		for _, f := range findings[component] {
			to := f.LastNs
			if f.ResolvedNs == 0 {
				to = math.MaxUint64
			}
			if slices.ContainsFunc(c.Intervals, func(i IntervalView) bool {
				return (i.Retransmits > 0 || c.Retransmits == 0) && i.FromNS <= to && i.ToNS >= f.FromNs
			}) {
				out = append(out, f)
			}
		}
	}
	for _, l := range c.Path.Links {
		see("link " + l)
	}
	for _, h := range c.Path.Hops {
		if h.Node != "" {
			see("device " + h.Node)
		}
	}
	return out
}

// devices names those that the connection's path goes through.
func (c *ConnectionView) devices() string {
	if c.Path == nil {
		return ""
	}
	var nodes []string
	for _, h := range c.Path.Hops {
		switch {
		case h.Node != "":
			nodes = append(nodes, h.Node)
		case h.Address != "":
			nodes = append(nodes, h.Address)
		default:
			nodes = append(nodes, "?")
		}
	}
	return strings.Join(nodes, " › ")
}
