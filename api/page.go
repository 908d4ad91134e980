package api

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"decaf/api/decafpb"
	"decaf/api/service"
)

//go:embed page
var pageFiles embed.FS

// page is the parsed templates and the files that go with them.
type page struct {
	templates map[string]*template.Template
	assets    map[string][]byte
}

const (
	pageFindings = 8    // rows of the overview's lists
	pageLinks    = 10   //
	pageDrops    = 12   //
	pageReports  = 8    //
	pageHosts    = 5000 // hosts offered in the form; others can be typed
	pageEvidence = 100  // rows of evidence shown; the API has all
	pageRecent   = 15 * time.Minute
)

func newPage() (*page, error) {
	p := &page{templates: make(map[string]*template.Template), assets: make(map[string][]byte)}
	for _, name := range []string{"overview", "report", "finding", "flows", "error"} {
		t, err := template.New("frame.html").Funcs(template.FuncMap{
			"clock": clock, "ago": ago, "heard": heard, "span": span, "percent": percent, "sure": sure, "plural": plural[int], "pluralu": plural[uint64],
			"votes": votes, "alike": alike, "short": short, "ends": ends, "join": strings.Join, "kindName": kindName, "bar": bar, "words": FindingView.words,
			"amount": amount, "brief": brief, "fewPercent": fewPercent, "count": count, "bytesOf": bytesOf, "resets": resets, "second": second, "leftOut": leftOutShort,
		}).ParseFS(pageFiles, "page/frame.html", "page/parts.html", "page/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		p.templates[name] = t
	}
	for _, name := range []string{"page.css", "page.js", "icon.svg"} {
		b, err := fs.ReadFile(pageFiles, "page/"+name)
		if err != nil {
			return nil, fmt.Errorf("page asset %s: %w", name, err)
		}
		p.assets[name] = b
	}
	return p, nil
}

// asset serves one embedded file. It is asked for again each time the page is
// opened, so that a new binary never runs an old script.
func (p *page) asset(name string) handler {
	types := map[string]string{"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
	_, ext, _ := strings.Cut(name, ".")
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Type", types[ext])
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(p.assets[name])
		return nil
	}
}

// frame is what every page has around it.
type frame struct {
	Title   string
	Site    string
	Version string
	Now     time.Time
	Refresh int // milliseconds, 0: this page changes no more
}

func (s *Server) frame(title string, refresh time.Duration) frame {
	return frame{Title: title, Site: s.backend.Topology().Site, Version: service.Version(), Now: s.cfg.Now(), Refresh: int(refresh.Milliseconds())}
}

func (s *Server) render(w http.ResponseWriter, status int, name string, data any) error {
	var buf bytes.Buffer
	if err := s.page.templates[name].Execute(&buf, data); err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes())
	return nil
}

// pageError tells an error as a page.
func (s *Server) pageError(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	if e.Status >= 500 && r.Context().Err() == nil {
		s.log.Error("page failed", "method", r.Method, "path", r.URL.Path, "status", e.Status, "err", err)
	}
	if rerr := s.render(w, e.Status, "error", struct {
		Frame frame
		Error *Error
	}{s.frame(e.Title, 0), e}); rerr != nil {
		writeProblem(w, r, s.log, errors.Join(err, rerr))
	}
}

// state is the answer to "is the network losing packets?" in one line.
type state struct {
	Level    string // bad, warn, ok
	Headline string
	Detail   string
}

// form holds what was typed, so that an error gives it back.
type form struct {
	Src, Dst, SrcPort, DstPort, From, To, Says string
	Error                                      string
}

type agentGroup struct {
	Role  string
	Fresh int
	Rows  []AgentView
}

type overview struct {
	Frame    frame
	State    state
	Findings List[FindingView]
	Links    LinksView
	Drops    List[DropView]
	Reports  List[ReportView]
	Agents   []agentGroup
	Troubled []AgentView
	Hosts    []HostView
	Form     form
	Failed   map[string]string // section: why it could not be had
}

func (s *Server) pageOverview(w http.ResponseWriter, r *http.Request) error {
	return s.overview(w, r, http.StatusOK, form{From: "-5m", To: "now"})
}

func (s *Server) overview(w http.ResponseWriter, r *http.Request, status int, f form) error {
	v := s.views()
	ctx := r.Context()
	o := overview{Frame: s.frame("", 2*time.Second), Form: f, Failed: make(map[string]string)}
	now := o.Frame.Now
	var failures []error
	fail := func(section string, err error) {
		o.Failed[section] = asError(err).Error()
		failures = append(failures, fmt.Errorf("%s: %w", section, err))
	}
	if findings, err := collect(ctx, s.backend.Findings, Range{From: now.Add(-pageRecent), Limit: pageFindings}, v.Finding); err != nil {
		fail("findings", err)
	} else {
		o.Findings = findings
	}
	top := Range{Limit: pageLinks, Omitted: new(int)}
	if links, err := s.backend.Links(ctx, top); err != nil {
		fail("links", err)
	} else {
		o.Links = v.Links(links, top)
	}
	if drops, err := collect(ctx, s.backend.Drops, Range{Limit: pageDrops}, v.Drop); err != nil {
		fail("drops", err)
	} else {
		o.Drops = drops
	}
	if reports, err := collect(ctx, s.backend.Reports, Range{Limit: pageReports}, v.Report); err != nil {
		fail("reports", err)
	} else {
		o.Reports = reports
	}
	if agents, err := s.backend.Agents(ctx); err != nil {
		fail("agents", err)
	} else {
		o.Agents, o.Troubled = groupAgents(each(agents, Range{}, v.Agent).Items)
	}
	if len(failures) > 0 && ctx.Err() == nil {
		s.log.Warn("page is not whole", "err", errors.Join(failures...))
	}
	hosts := v.Topology().Hosts
	o.Hosts = hosts[:min(len(hosts), pageHosts)]
	o.State = overall(o, s.backend.Ready())
	if o.State.Level == "bad" {
		o.Frame.Title = o.State.Headline
	}
	return s.render(w, status, "overview", o)
}

// collect asks the backend for one list and views it.
func collect[R, V any](ctx context.Context, get func(context.Context, Range) ([]R, error), rng Range, view func(R) V) (List[V], error) {
	rng.Omitted = new(int)
	rows, err := get(ctx, rng)
	if err != nil {
		return List[V]{}, err
	}
	return each(rows, rng, view), nil
}

func groupAgents(agents []AgentView) (groups []agentGroup, troubled []AgentView) {
	byRole := make(map[string]*agentGroup)
	for _, a := range agents {
		g, ok := byRole[a.Role]
		if !ok {
			g = &agentGroup{Role: a.Role}
			byRole[a.Role] = g
		}
		g.Rows = append(g.Rows, a)
		if a.Fresh {
			g.Fresh++
		}
		if !a.Fresh || a.Error != "" || a.Gaps > 0 || a.Partial() {
			troubled = append(troubled, a)
		}
	}
	for _, role := range slices.Sorted(maps.Keys(byRole)) {
		groups = append(groups, *byRole[role])
	}
	return groups, troubled
}

// overall sums the overview up. Silence of an agent is never good news, so it
// takes the green away.
func overall(o overview, notReady error) state {
	var open []FindingView
	for _, f := range o.Findings.Items {
		if f.State == "open" {
			open = append(open, f)
		}
	}
	agents, fresh := 0, 0
	for _, g := range o.Agents {
		agents += len(g.Rows)
		fresh += g.Fresh
	}
	silent := ""
	switch gone := agents - fresh; {
	case gone == 1:
		silent = fmt.Sprintf("1 of %s is silent: what it would see is not known.", plural(agents, "agent"))
	case gone > 1:
		silent = fmt.Sprintf("%d of %s are silent: what they would see is not known.", gone, plural(agents, "agent"))
	}
	switch {
	case notReady != nil:
		return state{"warn", "Not ready yet", asReadiness(notReady)}
	case o.Failed["findings"] != "":
		return state{"warn", "Findings are not available", o.Failed["findings"]}
	case len(open) == 1:
		f := open[0]
		how := f.what()
		switch f.Class {
		case classSilent:
			how = "no device saw the drops"
		case "", classUnknown:
			how = "why is not known"
		}
		return state{"bad", "Packets are being lost at " + f.Component, strings.TrimSpace(fmt.Sprintf("For %s, %s; it hurt %s of %s. %s",
			span(o.Frame.Now, f.FromNS, 0), how, plural(f.Flows, "flow"), plural(len(f.Hosts), "host"), silent))}
	case len(open) > 1:
		names := make([]string, 0, len(open))
		for _, f := range open {
			names = append(names, f.Component)
		}
		return state{"bad", fmt.Sprintf("Packets are being lost at %d places", len(open)), strings.TrimSpace(strings.Join(names, ", ") + ". " + silent)}
	case o.Failed["agents"] != "":
		return state{"warn", "No open finding, but the agents' health is not available", o.Failed["agents"]}
	case agents == 0:
		return state{"warn", "No open finding, and no agent to make one", "No device and no host is known to send evidence yet."}
	case silent != "":
		return state{"warn", "No open finding", silent}
	}
	return state{"ok", "No open finding", fmt.Sprintf("%s heard of within the last seconds.", allOf(agents))}
}

func allOf(agents int) string {
	if agents == 1 {
		return "The one agent was"
	}
	return fmt.Sprintf("All %d agents were", agents)
}

// asReadiness shows why the backend is not ready: these words are the
// backend's own and written for people.
func asReadiness(err error) string { return err.Error() }

func (s *Server) pageFile(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return BadRequest("the form cannot be read; open the page again")
	}
	get := func(name string) string {
		return strings.TrimSpace(strings.ToValidUTF8(r.PostForm.Get(name), "\uFFFD"))
	}
	f := form{Src: get("src"), Dst: get("dst"), SrcPort: get("src_port"), DstPort: get("dst_port"), From: get("from"), To: get("to"), Says: get("says")}
	filed, err := func() (*decafpb.FaultReport, error) {
		req := reportRequest{Src: f.Src, Dst: f.Dst, From: timeValue(f.From), To: timeValue(f.To), Says: f.Says}
		for _, p := range []struct {
			name, in string
			out      **int64
		}{{"src_port", f.SrcPort, &req.SrcPort}, {"dst_port", f.DstPort, &req.DstPort}} {
			n, err := parsePort(p.name, p.in)
			if err != nil {
				return nil, err
			}
			if n != 0 {
				*p.out = new(int64)
				**p.out = int64(n)
			}
		}
		return s.file(r, req)
	}()
	if err != nil {
		e := asError(err)
		if e.Status >= 500 {
			s.log.Error("report not filed", "err", err)
		}
		f.Error = e.Detail
		return s.overview(w, r, e.Status, f)
	}
	http.Redirect(w, r, "/reports/"+url.PathEscape(filed.Id), http.StatusSeeOther)
	return nil
}

// answer says a verdict in a sentence.
type answer struct {
	Level    string // bad, warn, ok
	Headline string
	Detail   string
}

func answerOf(r ReportView) answer {
	v := r.Verdict
	if v == nil {
		return answer{"warn", "No verdict yet", "The evidence is being looked at; this page brings the verdict by itself."}
	}
	at := v.Component
	if at == "" {
		at = "a place not known"
	}
	switch v.Verdict {
	case "network":
		return answer{"bad", "The network lost packets, at " + at, classWords(v.Class)}
	case "source-host":
		return answer{"bad", "The source host is at fault: " + r.Src, classWords(v.Class)}
	case "destination-host":
		return answer{"bad", "The destination host is at fault: " + r.Dst, classWords(v.Class)}
	case "server":
		return answer{"bad", "The server was slow or refused", classWords(v.Class)}
	case "application":
		return answer{"bad", "The application was slow", classWords(v.Class)}
	case "outside":
		return answer{"warn", "Outside the instrumented network", "One end, or part of the way, is beyond the devices and hosts that send evidence."}
	case "not-network":
		return answer{"ok", "Not the network", "Both hosts were watched all the time and lost no packet between them."}
	case "insufficient-evidence":
		return answer{"warn", "Not enough evidence to say", "See below what is missing."}
	}
	return answer{"warn", v.Verdict, ""}
}

func classWords(class string) string {
	switch class {
	case classSilent:
		return "Its devices tell of what they drop, and saw none of it: the loss was silent."
	case "", classUnknown:
		return "No device told of the drops: why they were lost is not known."
	}
	return "Class of the drops: " + class + "."
}

func (s *Server) pageReport(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.report(r)
	if err != nil {
		return err
	}
	v := s.views()
	view := v.Report(rec)
	data := struct {
		Frame    frame
		Report   ReportView
		Answer   answer
		Evidence evidencePart
		Pictures []*picture
	}{Frame: s.frame("Report "+view.ID, time.Second), Report: view, Answer: answerOf(view)}
	var evidence EvidenceView
	blamed := ""
	if view.Verdict != nil {
		evidence, blamed = view.Verdict.Evidence, view.Verdict.Component
		if view.Verdict.Final {
			data.Frame.Refresh = 0
		}
	}
	topo := s.backend.Topology()
	if src, err := topo.ResolveHost(view.Src); err == nil {
		if dst, err := topo.ResolveHost(view.Dst); err == nil {
			for _, way := range [][2]string{{src.Name, dst.Name}, {dst.Name, src.Name}} {
				p := drawPath(topo, way[0], way[1], evidence.Paths, evidence.Drops, blamed)
				// The way there is always shown, the way back when it adds something.
				if p != nil && (len(data.Pictures) == 0 || p.Traced || p.hasBlamed() && !data.Pictures[0].hasBlamed()) {
					data.Pictures = append(data.Pictures, p)
				}
			}
		}
	}
	data.Evidence = showEvidence(evidence, blamed)
	return s.render(w, http.StatusOK, "report", data)
}

func (s *Server) pageFinding(w http.ResponseWriter, r *http.Request) error {
	rec, err := s.finding(r)
	if err != nil {
		return err
	}
	view := s.views().Finding(rec)
	refresh := 2 * time.Second
	if view.State == "resolved" {
		refresh = 10 * time.Second
	}
	return s.render(w, http.StatusOK, "finding", struct {
		Frame    frame
		Finding  FindingView
		Evidence evidencePart
	}{s.frame("Finding "+view.ID, refresh), view, showEvidence(view.Evidence, view.Component)})
}

// evidencePart is evidence as the page shows it: what fits, matches first.
type evidencePart struct {
	EvidenceView
	Hidden int // listed by the API, not shown here
	Blamed string
}

func showEvidence(e EvidenceView, blamed string) evidencePart {
	out := evidencePart{EvidenceView: e, Blamed: blamed}
	out.Drops = slices.Clone(e.Drops)
	slices.SortStableFunc(out.Drops, func(a, b DropView) int { return matchedFirst(a.Matched, b.Matched) })
	out.Retransmits = slices.Clone(e.Retransmits)
	slices.SortStableFunc(out.Retransmits, func(a, b RetransmitView) int { return matchedFirst(a.Matched, b.Matched) })
	out.Hidden = max(0, len(out.Drops)-pageEvidence) + max(0, len(out.Retransmits)-pageEvidence) + max(0, len(out.Paths)-pageEvidence)
	out.Drops = out.Drops[:min(len(out.Drops), pageEvidence)]
	out.Retransmits = out.Retransmits[:min(len(out.Retransmits), pageEvidence)]
	out.Paths = out.Paths[:min(len(out.Paths), pageEvidence)]
	return out
}

func matchedFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// pathLink is a link of a path as the page shows it.
type pathLink struct {
	Link   string
	Blamed bool
}

// Marked gives a path's links, telling which is blamed.
func (e evidencePart) Marked(links []string) []pathLink {
	out := make([]pathLink, 0, len(links))
	for _, l := range links {
		out = append(out, pathLink{l, e.Blamed == "link "+l})
	}
	return out
}

// BlamedNode tells if a hop is the blamed device.
func (e evidencePart) BlamedNode(node string) bool {
	return node != "" && (e.Blamed == "device "+node || e.Blamed == "host "+node)
}

// The functions of the templates.

func clock(ns uint64) string {
	if ns == 0 || ns > 1<<63-1 {
		return "never"
	}
	return time.Unix(0, int64(ns)).UTC().Format("15:04:05.000")
}

// ago writes how long before now a moment was, as one looks at a clock.
func ago(now time.Time, ns uint64) string {
	if ns == 0 || ns > 1<<63-1 {
		return "never"
	}
	d := now.Sub(time.Unix(0, int64(ns)))
	if d < time.Second {
		return "now"
	}
	return coarse(d) + " ago"
}

// heard writes when an agent was last heard of.
func heard(now time.Time, ns uint64) string {
	if ns == 0 || ns > 1<<63-1 {
		return "never heard of"
	}
	return "heard of " + strings.Replace(ago(now, ns), "now", "just now", 1)
}

// span writes how long it took from one moment to another, or to now.
func span(now time.Time, from, to uint64) string {
	if from == 0 || from > 1<<63-1 || to > 1<<63-1 {
		return ""
	}
	end := now
	if to != 0 {
		end = time.Unix(0, int64(to))
	}
	return coarse(max(0, end.Sub(time.Unix(0, int64(from)))))
}

func coarse(d time.Duration) string {
	switch {
	case d < time.Second:
		return "under 1 s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func percent(share float64) string {
	switch p := 100 * share; {
	case p == 0:
		return "0 %"
	case p < 1:
		return "< 1 %"
	default:
		return strconv.FormatFloat(p, 'f', 0, 64) + " %"
	}
}

// sure writes a probability: near one, more exactly, and never as certain.
func sure(p float64) string {
	switch {
	case p > 0.999:
		return "> 99.9 %"
	case p >= 0.985:
		return strconv.FormatFloat(100*p, 'f', 1, 64) + " %"
	}
	return percent(p)
}

// alike names what cannot be told from a component, "" for none.
func alike(equivalent []string) string {
	if len(equivalent) == 0 {
		return ""
	}
	return "Or " + strings.Join(equivalent, ", or ") + ": the evidence cannot tell."
}

func votes(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// short cuts a name to the width of a box.
func short(n int, s string) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// ends writes a flow by the names of its hosts, where they are known.
func ends(f *FlowView, src, dst string) string {
	if f == nil {
		return ""
	}
	named := *f
	if src != "" {
		named.Src = src
	}
	if dst != "" {
		named.Dst = dst
	}
	return named.String()
}

// kindName writes a kind of retransmit as a network engineer does.
func kindName(kind string) string {
	switch kind {
	case "syn", "syn-ack", "tlp", "rto":
		return strings.ToUpper(kind)
	}
	return kind
}

// bar is the length of a bar of 200 for a share.
func bar(share float64) int { return int(200*min(1, max(0, share)) + 0.5) }
