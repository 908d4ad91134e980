package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// shownRows bounds the rows of each kind of evidence in text; JSON has all.
const shownRows = 10

// prose writes lines and remembers the first error.
type prose struct {
	w   io.Writer
	err error
}

func (p *prose) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, strings.TrimRight(fmt.Sprintf(format, args...), " "))
	}
}

func (p *prose) do(write func(io.Writer) error) {
	if p.err == nil {
		p.err = write(p.w)
	}
}

// showReport writes a report, its verdict and the evidence.
func showReport(w io.Writer, output string, raw json.RawMessage, r ReportView) error {
	if output != "table" {
		return write(w, output, raw, reportColumns(), []ReportView{r})
	}
	p := &prose{w: w}
	a := answerOf(r)
	p.line("%s", plain(a.Headline))
	p.line("  %s", plain(a.Detail))
	p.line("")
	p.line("report    %s: %s to %s", plain(r.ID), plain(endOf(r.Src, r.SrcPort)), plain(endOf(r.Dst, r.DstPort)))
	p.line("window    %s to %s UTC", moment(r.FromNS), moment(r.ToNS))
	if r.Says != "" {
		p.line("said      %s", plain(r.Says))
	}
	v := r.Verdict
	if v == nil {
		return p.err
	}
	p.line("verdict   %s", plain(v.Verdict))
	if v.Component != "" {
		p.line("component %s", plain(v.Component))
	}
	if v.Class != "" {
		p.line("class     %s", plain(v.Class))
	}
	p.odds(v.Probability, v.Equivalent)
	if v.Votes > 0 {
		p.line("votes     %s", votes(v.Votes))
	}
	if v.Finding != "" {
		p.line("finding   %s", plain(v.Finding))
	}
	if v.Final {
		p.line("revision  %d, final", v.Revision)
	} else {
		p.line("revision  %d, not final: see `decaf reports %s` later, or use --wait", v.Revision, plain(r.ID))
	}
	p.evidence(v.Evidence)
	return p.err
}

// showFinding writes a finding and its evidence.
func showFinding(w io.Writer, output string, raw json.RawMessage, f FindingView) error {
	if output != "table" {
		return write(w, output, raw, findingColumns(), []FindingView{f})
	}
	p := &prose{w: w}
	p.line("%s", plain(f.Component+" "+strings.Join(f.Interfaces, " ")))
	p.line("  %s", plain(f.words()))
	p.line("")
	p.line("finding   %s, %s", plain(f.ID), f.State)
	p.line("from      %s UTC", moment(f.FromNS))
	p.line("detected  %s UTC", moment(f.DetectedNS))
	if f.ResolvedNS != 0 {
		p.line("resolved  %s UTC", moment(f.ResolvedNS))
	}
	p.line("method    %s", plain(f.Method))
	p.odds(f.Probability, f.Equivalent)
	if f.Votes > 0 {
		p.line("votes     %s, %s of all", votes(f.Votes), percent(f.VotesShare))
	}
	p.line("hurt      %s: %s", plural(f.Flows, "flow"), plain(strings.Join(f.Hosts, ", ")))
	p.evidence(f.Evidence)
	return p.err
}

// odds writes how sure it is, and what else it may be.
func (p *prose) odds(probability float64, equivalent []string) {
	if probability > 0 {
		p.line("sure      %s", sure(probability))
	}
	for _, e := range equivalent {
		p.line("or        %s: the evidence cannot tell the two apart", plain(e))
	}
}

func (p *prose) evidence(e EvidenceView) {
	p.line("evidence  %s, %s, %s; %d seen by both device and host",
		plural(e.Counts.Drops, "device drop"), plural(e.Counts.Retransmits, "retransmit"), plural(e.Counts.Paths, "traced path"), e.Counts.Matched)
	if len(e.Reasons) > 0 {
		p.line("")
		p.line("why")
		for i, r := range e.Reasons {
			p.line("  %d. %s", i+1, plain(r))
		}
	}
	shown := showEvidence(e, "")
	if rows := shown.Drops; len(rows) > 0 {
		p.line("")
		p.line("device drops")
		p.do(func(w io.Writer) error { return writeTable(indent(w), dropColumns(), rows[:min(len(rows), shownRows)]) })
		p.rest(len(rows))
	}
	if rows := shown.Retransmits; len(rows) > 0 {
		// In evidence paths are listed once; here each retransmit shows its own.
		for i := range rows {
			if at := rows[i].PathIndex; at != nil && *at < len(e.Paths) {
				rows[i].Path = &e.Paths[*at]
			}
		}
		p.line("")
		p.line("retransmits")
		p.do(func(w io.Writer) error { return writeTable(indent(w), pathColumns(), rows[:min(len(rows), shownRows)]) })
		p.rest(len(rows))
	}
	if e.LeftOut > 0 {
		p.line("")
		p.line("%s counted but not kept in the list", plural(e.LeftOut, "record"))
	}
}

func (p *prose) rest(rows int) {
	if rows > shownRows {
		p.line("  … and %d more: use --output json", rows-shownRows)
	}
}

// indent shifts what is written by two spaces.
func indent(w io.Writer) io.Writer { return &indented{w: w, start: true} }

type indented struct {
	w     io.Writer
	start bool
}

func (i *indented) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b)+64)
	for _, c := range b {
		if i.start && c != '\n' {
			out = append(out, ' ', ' ')
		}
		i.start = c == '\n'
		out = append(out, c)
	}
	if _, err := i.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// showTopology writes the topology, or one part of it. CSV is one table, the
// links unless another part is asked for.
func showTopology(w io.Writer, output, part string, raw json.RawMessage, t TopologyView) error {
	if output == "json" {
		switch part {
		case "devices":
			return writeItems(w, t.Devices)
		case "hosts":
			return writeItems(w, t.Hosts)
		case "links":
			return writeItems(w, t.Links)
		}
		return writeIndented(w, raw)
	}
	if output == "csv" {
		switch part {
		case "devices":
			return writeCSV(w, deviceColumns(), t.Devices)
		case "hosts":
			return writeCSV(w, hostColumns(), t.Hosts)
		}
		return writeCSV(w, topoLinkColumns(), t.Links)
	}
	switch part {
	case "devices":
		return writeTable(w, deviceColumns(), t.Devices)
	case "hosts":
		return writeTable(w, hostColumns(), t.Hosts)
	case "links":
		return writeTable(w, topoLinkColumns(), t.Links)
	}
	_, err := fmt.Fprintf(w, "site %s: %s, %s, %s\n\n", plain(t.Site), plural(len(t.Devices), "device"), plural(len(t.Hosts), "host"), plural(len(t.Links), "directed link"))
	gap := func() error { _, err := fmt.Fprintln(w); return err }
	return errors.Join(err, writeTable(w, deviceColumns(), t.Devices), gap(), writeTable(w, hostColumns(), t.Hosts), gap(), writeTable(w, topoLinkColumns(), t.Links))
}

func writeItems[V any](w io.Writer, items []V) error {
	raw, err := json.Marshal(List[V]{Items: items})
	if err != nil {
		return err
	}
	return writeIndented(w, raw)
}
