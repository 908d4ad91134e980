package api

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
)

// column is one column of a verb's output.
type column[V any] struct {
	name string         // in CSV as it is, in tables in capitals
	full string         // in CSV, where it holds another unit or needs more words; empty: name
	text func(V) string // for people
	raw  func(V) string // for CSV; nil: as text
	show func([]V) bool // in tables only if; nil: always
}

// wide are all columns for people, those too that only CSV has.
func wide[V any](columns []column[V]) []column[V] {
	out := slices.Clone(columns)
	for i := range out {
		if out[i].text == nil {
			out[i].text = out[i].raw
		}
		out[i].show = nil
	}
	return out
}

// writeTable writes rows for people. Control characters are shown as such:
// what a user said in a report must not steer a terminal.
func writeTable[V any](w io.Writer, columns []column[V], rows []V) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var shown []column[V]
	for _, c := range columns {
		if c.text != nil && (c.show == nil || c.show(rows)) {
			shown = append(shown, c)
		}
	}
	line := func(cells []string) {
		fmt.Fprintln(tw, strings.TrimRight(strings.Join(cells, "\t"), "\t "))
	}
	cells := make([]string, len(shown))
	for i, c := range shown {
		cells[i] = strings.ToUpper(strings.ReplaceAll(c.name, "_", " "))
	}
	line(cells)
	for _, r := range rows {
		for i, c := range shown {
			if cells[i] = plain(c.text(r)); cells[i] == "" {
				cells[i] = "-"
			}
		}
		line(cells)
	}
	return tw.Flush()
}

// plain makes text safe for a terminal and for a table's single line.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029':
			return '\uFFFD'
		}
		return r
	}, s)
}

// writeCSV writes rows by RFC 4180, with a header.
func writeCSV[V any](w io.Writer, columns []column[V], rows []V) error {
	cw := csv.NewWriter(w)
	cells := make([]string, len(columns))
	for i, c := range columns {
		if cells[i] = c.name; c.full != "" {
			cells[i] = c.full
		}
	}
	if err := cw.Write(cells); err != nil {
		return err
	}
	for _, r := range rows {
		for i, c := range columns {
			get := c.raw
			if get == nil {
				get = c.text
			}
			cells[i] = inert(get(r))
		}
		if err := cw.Write(cells); err != nil {
			return err
		}
	}
	cw.Flush()
	return cw.Error()
}

// inert keeps a spreadsheet from running what a user said as a formula:
// OWASP's advice on CSV injection, a leading apostrophe.
func inert(s string) string {
	if s == "" || !strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return s
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return s
	}
	return "'" + s
}

// writeIndented writes JSON for people and programs alike.
func writeIndented(w io.Writer, raw json.RawMessage) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(raw)
}
