package strictyaml

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What is read at most. The YAML parser recurses once per level of nesting and
// has no limit of its own; a stack that overflows cannot be recovered from, so
// nesting is bounded before it runs: by brackets, by the dashes on a line, and by
// the length of a line, which indents the deepest.
const (
	MaxBytes   = 16 << 20
	MaxLine    = 64 << 10
	maxNesting = 64
	maxErrors  = 20 // per document; the rest is counted
)

// Error is one mistake of a file.
type Error struct {
	File string
	Line int // from 1; 0 when it is of no line
	What string
}

// Error gives "file:line: what", leaving out what is not known.
func (e *Error) Error() string {
	switch {
	case e.File == "" && e.Line == 0:
		return e.What
	case e.File == "":
		return fmt.Sprintf("line %d: %s", e.Line, e.What)
	case e.Line == 0:
		return e.File + ": " + e.What
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.What)
}

// Doc gathers the mistakes of one document.
type Doc struct {
	file    string
	errs    []*Error
	leftOut int
}

// NewDoc makes a Doc that is not of a parsed file, for values built in code;
// file may be "".
func NewDoc(file string) *Doc { return &Doc{file: file} }

// Errorf notes a mistake at a line; line 0 is no line.
func (d *Doc) Errorf(line int, format string, args ...any) {
	if len(d.errs) >= maxErrors {
		d.leftOut++
		return
	}
	d.errs = append(d.errs, &Error{File: d.file, Line: line, What: fmt.Sprintf(format, args...)})
}

// Err joins all mistakes noted so far, one a line, in the order of the file;
// those of no line come last. Nil when there is none.
func (d *Doc) Err() error {
	if len(d.errs) == 0 {
		return nil
	}
	all := slices.Clone(d.errs)
	slices.SortStableFunc(all, func(a, b *Error) int {
		if (a.Line == 0) != (b.Line == 0) {
			return b.Line - a.Line
		}
		return a.Line - b.Line
	})
	if d.leftOut > 0 {
		all = append(all, &Error{File: d.file, What: fmt.Sprintf("%d more mistakes are not shown", d.leftOut)})
	}
	joined := make([]error, len(all))
	for i, e := range all {
		joined[i] = e
	}
	return errors.Join(joined...)
}

// Parse reads one YAML document; file serves messages only. The value is the
// document's content, missing when the file is empty. Mistakes of syntax are
// returned as the error; later ones gather in the Doc.
func Parse(file string, data []byte) (*Doc, Value, error) {
	d := &Doc{file: file}
	fail := func(line int, format string, args ...any) (*Doc, Value, error) {
		return nil, Value{}, &Error{File: file, Line: line, What: fmt.Sprintf(format, args...)}
	}
	if len(data) > MaxBytes {
		return fail(0, "%d bytes: at most %d are read", len(data), MaxBytes)
	}
	line := 1
	for l := range strings.Lines(string(data)) {
		if !utf8.ValidString(l) {
			return fail(line, "not UTF-8 text")
		}
		if strings.ContainsFunc(l, control) {
			return fail(line, "control character in the text")
		}
		if len(l) > MaxLine {
			return fail(line, "line of %d bytes: at most %d are read; break it", len(l), MaxLine)
		}
		line++
	}
	f, err := parse(string(data))
	if err != nil {
		var s *Error
		if errors.As(err, &s) {
			s.File = file
			return nil, Value{}, s
		}
		return fail(0, "not valid YAML: %v", err)
	}
	var body ast.Node
	for _, doc := range f.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if body != nil {
			return fail(lineOf(doc.Body, 0), "a second YAML document: give each a file of its own")
		}
		body = doc.Body
	}
	return d, d.value(body, 1, "the file"), nil
}

// control says whether a character has no place in a text file. Carriage
// returns pass: line ends of Windows.
func control(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' && r != '\r' || r == 0x7f || r >= 0x80 && r < 0xa0
}

// parse runs lexer and parser; their panics on broken input become errors.
func parse(s string) (f *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, &Error{What: "not valid YAML: its structure cannot be made out"}
		}
	}()
	tokens := lexer.Tokenize(s)
	depth := 0
	entries := make(map[int]int) // line → "- " on it
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceEntryType:
			if entries[t.Position.Line]++; entries[t.Position.Line] > maxNesting {
				return nil, &Error{Line: t.Position.Line, What: fmt.Sprintf("lists nested more than %d deep", maxNesting)}
			}
		case token.MappingStartType, token.SequenceStartType:
			if depth++; depth > maxNesting {
				return nil, &Error{Line: t.Position.Line, What: fmt.Sprintf("brackets nested more than %d deep", maxNesting)}
			}
		case token.MappingEndType, token.SequenceEndType:
			depth--
		}
	}
	f, err = parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	var y yaml.Error
	if errors.As(err, &y) {
		e := &Error{What: "not valid YAML: " + y.GetMessage()}
		if t := y.GetToken(); t != nil && t.Position != nil {
			e.Line = t.Position.Line
		}
		return nil, e
	}
	return f, err
}
