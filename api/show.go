package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
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

// showAgent writes all that one agent tells of itself.
func showAgent(w io.Writer, output string, raw json.RawMessage, a AgentView) error {
	if output != "table" {
		return write(w, output, raw, agentColumns(time.Now()), []AgentView{a})
	}
	p := &prose{w: w}
	state := "silent"
	if a.Fresh {
		state = "fresh"
	}
	p.line("%s %s, %s", a.Role, plain(a.Name), state)
	fact := func(name, value string) {
		if value != "" {
			p.line("%-11s %s", name, plain(value))
		}
	}
	last := "never"
	if a.LastSeenNS != 0 {
		last = moment(a.LastSeenNS) + " UTC"
	}
	fact("last seen", last)
	fact("error", a.Error)
	fact("version", a.Version)
	fact("source", a.Source)
	fact("boot", a.BootID)
	fact("settings", some(float64(a.Revision), func(float64) string {
		return fmt.Sprintf("revision %d: see `decaf agents config get %s`", a.Revision, a.Name)
	}))
	fact("gaps", fmt.Sprintf("%s lost on the way", plural(a.Gaps, "record")))
	fact("fuse", a.Fuse)
	fact("no word of", strings.Join(a.Unreported, ", "))
	sections := []struct {
		title string
		of    map[string]uint64
	}{{"drops without an event of their own, by why", a.Suppressed}, {"left out", map[string]uint64{}}, {"counters", map[string]uint64{}}}
	for name, n := range a.Counters {
		section := sections[2].of
		if countsLeftOut(name) {
			section = sections[1].of
		}
		section[name] = n
	}
	for _, s := range sections {
		if len(s.of) == 0 {
			continue
		}
		p.line("")
		p.line("%s", s.title)
		for _, name := range slices.Sorted(maps.Keys(s.of)) {
			p.line("  %-28s %d", plain(name), s.of[name])
		}
	}
	return p.err
}

// showTopology writes the topology, or one part of it. CSV is one table, the
// links unless another part is asked for.
func showTopology(w io.Writer, output, part string, raw json.RawMessage, t TopologyView) error {
	if part == "" && output == "csv" {
		part = "links"
	}
	switch part {
	case "devices":
		return writePart(w, output, deviceColumns(), t.Devices)
	case "hosts":
		return writePart(w, output, hostColumns(), t.Hosts)
	case "links":
		return writePart(w, output, topoLinkColumns(), t.Links)
	}
	if output == "json" {
		return writeIndented(w, raw)
	}
	_, err := fmt.Fprintf(w, "site %s: %s, %s, %s\n\n", plain(t.Site), plural(len(t.Devices), "device"), plural(len(t.Hosts), "host"), plural(len(t.Links), "directed link"))
	gap := func() error { _, err := fmt.Fprintln(w); return err }
	return errors.Join(err, writePart(w, output, deviceColumns(), t.Devices), gap(), writePart(w, output, hostColumns(), t.Hosts), gap(), writePart(w, output, topoLinkColumns(), t.Links))
}

// writePart writes a part of an answer as if it were a list of its own.
func writePart[V any](w io.Writer, output string, columns []column[V], items []V) error {
	raw, err := json.Marshal(List[V]{Items: items})
	if err != nil {
		return err
	}
	return write(w, output, raw, columns, items)
}
