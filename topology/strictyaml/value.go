package strictyaml

import (
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Value is one value of a document, or the place where one is missing. Its
// methods note in the document whatever does not fit and return a zero value,
// so that reading goes on and finds the other mistakes too.
type Value struct {
	doc  *Doc
	node ast.Node // nil: missing, or null
	line int
	what string // how messages call it, such as "rate"
}

// Line is where the value stands, or where the mapping that lacks it begins.
func (v Value) Line() int { return v.line }

// Name is how messages call the value: its key, or the list's with its place.
func (v Value) Name() string { return v.what }

// Present says whether there is a value; null counts as none.
func (v Value) Present() bool { return v.node != nil }

// Errorf notes a mistake at this value.
func (v Value) Errorf(format string, args ...any) { v.doc.Errorf(v.line, format, args...) }

// value wraps a node, seeing through nothing: tags, anchors and aliases are noted
// as mistakes and become missing values.
func (d *Doc) value(n ast.Node, line int, what string) Value {
	v := Value{doc: d, line: line, what: what}
	switch n := n.(type) {
	case nil, *ast.NullNode:
		if n != nil {
			v.line = lineOf(n, line)
		}
		return v
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		v.line = lineOf(n, line)
		v.Errorf("%s: anchors, aliases and merge keys are not accepted here; write the value out", what)
		return v
	case *ast.TagNode, *ast.DirectiveNode:
		v.line = lineOf(n, line)
		v.Errorf("%s: tags and directives are not accepted here; write the plain value", what)
		return v
	}
	v.node = n
	v.line = lineOf(n, line)
	return v
}

func lineOf(n ast.Node, otherwise int) int {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key // the token of a block mapping is its first colon
	}
	if t := n.GetToken(); t != nil && t.Position != nil && t.Position.Line > 0 {
		return t.Position.Line
	}
	return otherwise
}

// text is a scalar as it was written, without quotes.
func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		if n.Value == nil {
			return "", true
		}
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		if t := n.GetToken(); t != nil {
			return t.Value, true
		}
	}
	return "", false
}

// kind names a node's shape for messages.
func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// Text gives a scalar as written, quotes removed: 1e-6 stays "1e-6". Missing
// values give "" silently; lists and mappings are mistakes.
func (v Value) Text() string {
	s, _ := v.Scalar()
	return s
}

// Scalar is Text that says whether there was a scalar.
func (v Value) Scalar() (string, bool) {
	if !v.Present() {
		return "", false
	}
	s, ok := text(v.node)
	if !ok {
		v.Errorf("%s must be a single value, not %s", v.what, kind(v.node))
	}
	return s, ok
}

// Int gives a whole number within [lo, hi]; a missing value gives otherwise.
func (v Value) Int(lo, hi, otherwise int) int {
	if !v.Present() {
		return otherwise
	}
	s, ok := text(v.node)
	if !ok {
		v.Errorf("%s must be a whole number, not %s", v.what, kind(v.node))
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		v.Errorf("%s must be a whole number, not %q", v.what, clip(s))
		return otherwise
	}
	if n < lo || n > hi {
		v.Errorf("%s is %d: give %d to %d", v.what, n, lo, hi)
		return otherwise
	}
	return n
}

// List gives the items of a list; nothing when the value is missing.
func (v Value) List() []Value {
	if !v.Present() {
		return nil
	}
	seq, ok := v.node.(*ast.SequenceNode)
	if !ok {
		v.Errorf("%s must be a list, not %s", v.what, kind(v.node))
		return nil
	}
	items := make([]Value, 0, len(seq.Values))
	for i, n := range seq.Values {
		items = append(items, v.doc.value(n, v.line, v.what+"["+strconv.Itoa(i)+"]"))
	}
	return items
}

// entry is one key and value of a mapping.
type entry struct {
	key   string
	value Value
}

// entries gives the pairs of a mapping in file order; false when it is none.
func (v Value) entries() ([]entry, bool) {
	if !v.Present() {
		return nil, false
	}
	var pairs []*ast.MappingValueNode
	switch n := v.node.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		v.Errorf("%s must be a mapping (key: value), not %s", v.what, kind(v.node))
		return nil, false
	}
	out := make([]entry, 0, len(pairs))
	for _, p := range pairs {
		line := lineOf(p.Key, v.line)
		key, ok := text(p.Key)
		if !ok {
			if _, merge := p.Key.(*ast.MergeKeyNode); merge {
				v.doc.Errorf(line, "%s: anchors, aliases and merge keys are not accepted here; write the value out", v.what)
			} else {
				v.doc.Errorf(line, "%s: a key must be a single word", v.what)
			}
			continue
		}
		// In a flow mapping the comma of skew(0.8, 0.25) ends the value, and what
		// follows reads as a key of null. Nobody means that: put it together again.
		if n := len(out); n > 0 && out[n-1].value.open() && isNull(p.Value) {
			last := &out[n-1].value
			s, _ := text(last.node)
			last.node = joined(last.node, s+", "+key)
			continue
		}
		out = append(out, entry{key, v.doc.value(p.Value, line, key)})
	}
	return out, true
}

// open says whether the value is plain text with a parenthesis left open.
func (v Value) open() bool {
	n, ok := v.node.(*ast.StringNode)
	return ok && strings.Count(n.Value, "(") > strings.Count(n.Value, ")")
}

func isNull(n ast.Node) bool {
	_, null := n.(*ast.NullNode)
	return n == nil || null
}

func joined(n ast.Node, s string) ast.Node {
	old, ok := n.(*ast.StringNode)
	if !ok {
		return n
	}
	return &ast.StringNode{BaseNode: old.BaseNode, Token: old.Token, Value: s}
}

// Fields are the values of a mapping by key.
type Fields struct {
	of     Value
	values map[string]Value
}

// Fields reads a mapping with these keys and no others. Unknown and repeated
// keys are mistakes. A missing value gives no fields.
func (v Value) Fields(known ...string) Fields {
	f := Fields{of: v, values: make(map[string]Value, len(known))}
	pairs, ok := v.entries()
	if !ok {
		f.of.node = nil // noted once; Need must not follow it up
	}
	for _, e := range pairs {
		switch _, twice := f.values[e.key]; {
		case twice:
			e.value.Errorf("key %q is given twice", clip(e.key))
		case slices.Contains(known, e.key):
			f.values[e.key] = e.value
		default:
			if near := Nearest(e.key, known); near != "" {
				e.value.Errorf("unknown key %q; did you mean %q?", clip(e.key), near)
			} else {
				e.value.Errorf("unknown key %q; known here: %s", clip(e.key), strings.Join(known, ", "))
			}
		}
	}
	return f
}

// Present says whether there was a mapping to read.
func (f Fields) Present() bool { return f.of.Present() }

// Get gives the value of a key, missing or not.
func (f Fields) Get(key string) Value {
	if v, ok := f.values[key]; ok {
		return v
	}
	// Missing: the line is that of the mapping.
	return Value{doc: f.of.doc, line: f.of.line, what: key}
}

// Need is Get for a key that must be there: a mistake is noted when it is not.
func (f Fields) Need(key string) Value {
	v := f.Get(key)
	if !v.Present() && f.of.Present() {
		v.Errorf("%s is missing", key)
	}
	return v
}

// Pairs reads a mapping with free keys, in file order. Repeated keys are mistakes.
func (v Value) Pairs(each func(key string, value Value)) {
	seen := make(map[string]bool)
	pairs, _ := v.entries()
	for _, e := range pairs {
		if seen[e.key] {
			e.value.Errorf("key %q is given twice", clip(e.key))
			continue
		}
		seen[e.key] = true
		each(e.key, e.value)
	}
}

// clip keeps a quoted word in a message readable.
func clip(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:57], "") + "..."
	}
	return s
}
