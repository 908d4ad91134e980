package api

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"decaf/api/decafpb"
)

// Congestion comes with its time, to the API, the CLI's tables and the page.
func TestCongestionIsShownWithItsTime(t *testing.T) {
	t.Parallel()
	pages, err := newPage()
	if err != nil {
		t.Fatal(err)
	}
	at := func(clock string) uint64 {
		x, err := time.Parse(time.TimeOnly, clock)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(time.Date(2026, 1, 31, x.Hour(), x.Minute(), x.Second(), 0, time.UTC).UnixNano())
	}
	for _, c := range []struct {
		class    string
		resolved uint64
		want     string
	}{
		{"no-buffer", at("12:00:05"), "congestion 12:00:03–12:00:05"},
		{"no-buffer", 0, "congestion since 12:00:03"},
		{"no-buffer/wred", at("12:00:05"), "congestion 12:00:03–12:00:05"},
		{"no-bufferless", 0, ""},
		{"policy/l3/acl", 0, ""},
		{"", 0, ""},
	} {
		f := &decafpb.Finding{Id: "f-1", Component: "link a>b", Class: c.class, FromNs: at("12:00:03"), LastNs: at("12:00:05"), ResolvedNs: c.resolved}
		view := NewViews(nil).Finding(f)
		raw, err := json.Marshal(view)
		if err != nil {
			t.Fatal(err)
		}
		var shown struct{ Congestion string }
		if err := json.Unmarshal(raw, &shown); err != nil || shown.Congestion != c.want {
			t.Errorf("class %q: JSON %q, %v; want %q", c.class, shown.Congestion, err, c.want)
		}
		if c.want == "" {
			continue
		}
		var table, single bytes.Buffer
		if err := write(&table, "table", nil, findingColumns(), []FindingView{view}); err != nil {
			t.Fatal(err)
		}
		if err := showFinding(&single, "table", nil, view); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(table.String(), c.want) || !strings.Contains(single.String(), c.want[1:]) {
			t.Errorf("class %q: table\n%s, finding\n%s", c.class, &table, &single)
		}
		for name, data := range map[string]any{"overview": overview{Findings: List[FindingView]{Items: []FindingView{view}}}, "finding": struct {
			Frame    frame
			Finding  FindingView
			Evidence evidencePart
		}{frame{}, view, showEvidence(view.Evidence, view.Component)}} {
			var out bytes.Buffer
			if err := pages.templates[name].Execute(&out, data); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), c.want[1:]) {
				t.Errorf("class %q: page %s without it", c.class, name)
			}
		}
	}
}
