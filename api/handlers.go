package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"decaf/api/decafpb"
	"decaf/topology/strictyaml"
)

// writeJSON answers with v. It is written out whole first, so that an error
// can still be told.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // "link a>b" stays readable; nosniff keeps it from being taken for HTML
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the client may have gone
	return nil
}

// asked reads a list's parameters from a request.
func (s *Server) asked(r *http.Request, honours ...string) (Range, url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Range{}, nil, BadRequest("the query after ? cannot be read; encode it as in ?src=a&dst=b")
	}
	rng, err := parseRange(q, honours, s.backend.Topology(), s.cfg.Now())
	if err != nil {
		return Range{}, nil, err
	}
	rng.Omitted = new(int)
	return rng, q, nil
}

// withEvidence tells if evidence is to be listed or only counted.
func withEvidence(q url.Values) (bool, error) {
	switch v := q.Get("evidence"); v {
	case "", "full":
		return true, nil
	case "counts":
		return false, nil
	default:
		return false, BadRequest("evidence: %q is neither full nor counts", clip(v))
	}
}

// onlyCounts empties evidence's lists and adds what they held to left_out.
func onlyCounts(e EvidenceView) EvidenceView {
	e.LeftOut += uint64(len(e.Drops) + len(e.Retransmits))
	e.Drops, e.Retransmits, e.Paths = []DropView{}, []RetransmitView{}, []PathView{}
	return e
}

func (s *Server) views() Views { return NewViews(s.backend.Topology()) }

func (s *Server) fileReport(w http.ResponseWriter, r *http.Request) error {
	req, err := decodeReport(w, r)
	if err != nil {
		return err
	}
	filed, err := s.file(r, req)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/reports/"+url.PathEscape(filed.Id))
	return writeJSON(w, http.StatusCreated, s.views().Report(filed))
}

// file checks and files a report, from the API or the page's form.
func (s *Server) file(r *http.Request, req reportRequest) (*decafpb.FaultReport, error) {
	report, err := req.report(s.backend.Topology(), s.cfg.Now())
	if err != nil {
		return nil, err
	}
	filed, err := s.backend.FileReport(r.Context(), report)
	if err != nil {
		return nil, fmt.Errorf("file report %s to %s: %w", report.Src, report.Dst, err)
	}
	return filed, nil
}

func (s *Server) getReport(w http.ResponseWriter, r *http.Request) error {
	if err := none(r); err != nil {
		return err
	}
	report, err := s.report(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.views().Report(report))
}

func (s *Server) report(r *http.Request) (*decafpb.FaultReport, error) {
	id := r.PathValue("id")
	if len(id) > maxName {
		return nil, NotFound("no report %q; `decaf reports` lists them", clip(id))
	}
	report, err := s.backend.Report(r.Context(), id)
	if err != nil {
		return nil, named(err, "report", id)
	}
	if report == nil {
		return nil, NotFound("no report %q; `decaf reports` lists them", clip(id))
	}
	return report, nil
}

func (s *Server) finding(r *http.Request) (*decafpb.Finding, error) {
	id := r.PathValue("id")
	findings, err := s.backend.Findings(r.Context(), Range{})
	if err != nil {
		return nil, fmt.Errorf("find finding: %w", err)
	}
	if at := slices.IndexFunc(findings, func(f *decafpb.Finding) bool { return f.Id == id }); at >= 0 {
		return findings[at], nil
	}
	return nil, NotFound("no finding %q; `decaf findings` lists them", clip(id))
}

// none refuses parameters where there are none to give.
func none(r *http.Request) error {
	for key := range r.URL.Query() {
		return BadRequest("unknown parameter %q%s", clip(key), among(key, nil))
	}
	return nil
}

func (s *Server) listReports(w http.ResponseWriter, r *http.Request) error {
	return listWithEvidence(s, w, r, "reports", s.backend.Reports, s.views().Report, func(v *ReportView) {
		if v.Verdict != nil {
			v.Verdict.Evidence = onlyCounts(v.Verdict.Evidence)
		}
	})
}

func (s *Server) listFindings(w http.ResponseWriter, r *http.Request) error {
	return listWithEvidence(s, w, r, "findings", s.backend.Findings, s.views().Finding, func(v *FindingView) {
		v.Evidence = onlyCounts(v.Evidence)
	})
}

func (s *Server) getFinding(w http.ResponseWriter, r *http.Request) error {
	if err := none(r); err != nil {
		return err
	}
	f, err := s.finding(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.views().Finding(f))
}

func (s *Server) listLinks(w http.ResponseWriter, r *http.Request) error {
	rng, _, err := s.asked(r, "since", "until", "limit")
	if err != nil {
		return err
	}
	ranking, err := s.backend.Links(r.Context(), rng)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	return writeJSON(w, http.StatusOK, s.views().Links(ranking, rng))
}

func (s *Server) listDrops(w http.ResponseWriter, r *http.Request) error {
	return answerList(s, w, r, "drops", s.backend.Drops, s.views().Drop, "component", "class", "src", "dst", "src_port", "dst_port")
}

func (s *Server) listPaths(w http.ResponseWriter, r *http.Request) error {
	return answerList(s, w, r, "paths", s.backend.Paths, s.views().Retransmit, "component", "src", "dst", "src_port", "dst_port")
}

// answerList answers with the rows of a range, of which these parameters choose some.
func answerList[R, V any](s *Server, w http.ResponseWriter, r *http.Request, what string, rows func(context.Context, Range) ([]R, error), view func(R) V, parameters ...string) error {
	rng, _, err := s.asked(r, append([]string{"since", "until", "limit"}, parameters...)...)
	if err != nil {
		return err
	}
	return answerRows(w, r, what, rng, rows, view)
}

// listWithEvidence is [answerList] for rows with evidence, of which only the counts are
// shown unless all of it is asked for.
func listWithEvidence[R, V any](s *Server, w http.ResponseWriter, r *http.Request, what string, rows func(context.Context, Range) ([]R, error), view func(R) V, brief func(*V)) error {
	rng, q, err := s.asked(r, "since", "until", "limit", "component", "class", "evidence")
	if err != nil {
		return err
	}
	full, err := withEvidence(q)
	if err != nil {
		return err
	}
	return answerRows(w, r, what, rng, rows, func(row R) V {
		v := view(row)
		if !full {
			brief(&v)
		}
		return v
	})
}

func answerRows[R, V any](w http.ResponseWriter, r *http.Request, what string, rng Range, rows func(context.Context, Range) ([]R, error), view func(R) V) error {
	found, err := rows(r.Context(), rng)
	if err != nil {
		return fmt.Errorf("list %s: %w", what, err)
	}
	return writeJSON(w, http.StatusOK, each(found, rng, view))
}

func (s *Server) listAgents(w http.ResponseWriter, r *http.Request) error {
	if err := none(r); err != nil {
		return err
	}
	rows, err := s.backend.Agents(r.Context())
	if err != nil {
		return fmt.Errorf("list agents: %w", err)
	}
	return writeJSON(w, http.StatusOK, each(rows, Range{}, s.views().Agent))
}

func (s *Server) getAgent(w http.ResponseWriter, r *http.Request) error {
	if err := none(r); err != nil {
		return err
	}
	rows, err := s.backend.Agents(r.Context())
	if err != nil {
		return fmt.Errorf("find agent: %w", err)
	}
	name := r.PathValue("name")
	if at := slices.IndexFunc(rows, func(a AgentRow) bool { return a.Name == name }); at >= 0 {
		return writeJSON(w, http.StatusOK, s.views().Agent(rows[at]))
	}
	names := make([]string, 0, len(rows))
	for _, a := range rows {
		names = append(names, a.Name)
	}
	if near := strictyaml.Nearest(name, names); near != "" {
		return NotFound("no agent %q; did you mean %s?", clip(name), near)
	}
	return NotFound("no agent %q; `decaf agents` lists them", clip(name))
}

func (s *Server) getTopology(w http.ResponseWriter, r *http.Request) error {
	if err := none(r); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.views().Topology())
}

// each maps a backend's rows to views, never null, cut at the limit should the
// backend not have done so.
func each[R, V any](rows []R, rng Range, view func(R) V) List[V] {
	if rng.Limit > 0 && len(rows) > rng.Limit {
		rng.Omit(len(rows) - rng.Limit)
		rows = rows[:rng.Limit]
	}
	out := List[V]{Items: make([]V, 0, len(rows))}
	if rng.Omitted != nil {
		out.LeftOut = *rng.Omitted
	}
	for _, r := range rows {
		out.Items = append(out.Items, view(r))
	}
	return out
}
