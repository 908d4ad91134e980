package service

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// LoadConfig fills into, a pointer to a struct that holds the defaults, from
// the YAML file and then from the environment, and validates it.
//
// YAML is strict: a key that the struct does not have is an error that names
// file, line and the nearest key it has; so is a key given twice. Fields of
// type time.Duration are written as [ParseDuration] reads them. An empty file
// name skips the file.
//
// The environment variable of a field is envPrefix, an underscore, and the
// field's YAML keys joined by underscores, in capitals: with envPrefix DECAF,
// nats.url is DECAF_NATS_URL. Text is taken as it is; a list of text may be
// written with commas; everything else is YAML. A variable that is nearly one of
// these is an error; others are left alone, for they may be another command's.
//
// If into has a method Validate() error, it is called last.
//
// TLS files named in the configuration are taken relative to the working
// directory, like any file name on a command line.
func LoadConfig(file string, into any, envPrefix string) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("load configuration: need a pointer to a struct, got %T", into)
	}
	if file != "" {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no configuration file %s: name one with --config, or write the settings in force to it with --dump", file)
		}
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		if err := DecodeConfig(file, data, into); err != nil {
			return err
		}
	}
	if envPrefix != "" {
		prefix := strings.ToUpper(envPrefix)
		if err := fromEnvironment(v.Elem(), prefix); err != nil {
			return err
		}
		if err := mistyped(v.Elem().Type(), prefix); err != nil {
			return err
		}
	}
	if c, ok := into.(interface{ Validate() error }); ok {
		if err := c.Validate(); err != nil {
			if file == "" {
				return fmt.Errorf("configuration: %w", err)
			}
			return fmt.Errorf("configuration %s: %w", file, err)
		}
	}
	return nil
}

// DecodeConfig is the YAML part of [LoadConfig]: it decodes data strictly into
// the struct that into points to. Errors read "file:line: what".
func DecodeConfig(file string, data []byte, into any) (err error) {
	// goccy/go-yaml v1.19.2 panics on some malformed input, like a list's
	// place taken by a tagged word ("parts: !x y"); found by fuzzing.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: not understood as YAML: look for tags (!) and anchors (&) where a plain list or mapping is due", file)
		}
	}()
	f, err := parser.ParseBytes(data, 0)
	if err != nil {
		return located(file, err)
	}
	docs := 0
	for _, d := range f.Docs {
		if d.Body == nil {
			continue
		}
		if docs++; docs > 1 {
			return fmt.Errorf("%s:%d: a second document: a configuration is one YAML document", file, d.Body.GetToken().Position.Line)
		}
		if err := unknownKeys(file, d.Body, reflect.TypeOf(into)); err != nil {
			return err
		}
	}
	if docs == 0 { // empty, or comments alone: the defaults hold
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data), yaml.CustomUnmarshaler(durationFromYAML))
	if err := dec.Decode(into); err != nil {
		if tk, wrong := mistaken(err); tk != nil {
			return fmt.Errorf("%s:%d: %s%s", file, tk.Position.Line, keyOf(f, tk), wrong)
		}
		return located(file, err)
	}
	return nil
}

// mistaken says what is wrong with a value of the wrong kind, and where it is; nil
// for any other error.
func mistaken(err error) (*token.Token, string) {
	var of reflect.Type
	var te *yaml.TypeError
	var ne *yaml.UnexpectedNodeTypeError
	var ye yaml.Error
	switch {
	case errors.As(err, &te):
		of = te.DstType
	case !errors.As(err, &ne):
		return nil, ""
	case ne.Expected == ast.SequenceType:
		of = reflect.TypeFor[[]string]()
	case ne.Expected == ast.MappingType:
		of = reflect.TypeFor[struct{}]()
	default:
		return nil, ""
	}
	if !errors.As(err, &ye) || ye.GetToken() == nil || ye.GetToken().Position == nil {
		return nil, ""
	}
	return ye.GetToken(), notOf(ye.GetToken().Value, of)
}

// keyOf names the setting that a token is the value of, as "report.threshold: ";
// "" when it is none.
func keyOf(f *ast.File, tk *token.Token) string {
	at := &keyFinder{token: tk}
	for _, d := range f.Docs {
		if d.Body != nil {
			ast.Walk(at, d.Body)
		}
	}
	if at.path == "" {
		return ""
	}
	return strings.TrimPrefix(at.path, "$.") + ": "
}

// keyFinder walks a document up to the node of a token.
type keyFinder struct {
	token *token.Token
	path  string
}

func (k *keyFinder) Visit(n ast.Node) ast.Visitor {
	if p, q := n.GetToken(), k.token; p != nil && p.Position.Offset == q.Position.Offset && n.GetPath() != "$" {
		k.path = n.GetPath()
	}
	return k
}

// notOf says that a text is not what a setting of this type takes, and what is.
func notOf(text string, t reflect.Type) string {
	want := "text"
	switch t.Kind() {
	case reflect.Bool:
		want = "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		want = "a whole number such as 10"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		want = "a whole number from 0 up, such as 10"
	case reflect.Float32, reflect.Float64:
		want = "a number such as 0.5"
	case reflect.Slice, reflect.Array:
		want = "a list such as [a, b]"
	case reflect.Map, reflect.Struct:
		want = "settings of its own, each on a line below it"
	}
	return fmt.Sprintf("%q will not do: give %s", text, want)
}

// DumpConfig returns the settings in force as YAML that [LoadConfig] reads
// back. Files of keys are named, never shown.
func DumpConfig(v any) ([]byte, error) {
	b, err := yaml.MarshalWithOptions(v, yaml.CustomMarshaler(func(d time.Duration) ([]byte, error) {
		return []byte(d.String()), nil
	}))
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return b, nil
}

func durationFromYAML(d *time.Duration, b []byte) error {
	var s string
	if err := yaml.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := ParseDuration(s)
	if err != nil {
		return err
	}
	*d = v
	return nil
}

// located turns an error of the YAML library, which prints a source excerpt
// over several lines, into one line with file and line number.
func located(file string, err error) error {
	var ye yaml.Error
	if !errors.As(err, &ye) {
		return fmt.Errorf("%s: %s", file, firstLine(err.Error()))
	}
	if tk := ye.GetToken(); tk != nil && tk.Position != nil {
		return fmt.Errorf("%s:%d: %s", file, tk.Position.Line, firstLine(ye.GetMessage()))
	}
	return fmt.Errorf("%s: %s", file, firstLine(ye.GetMessage()))
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// unknownKeys walks the document beside the type it will be decoded into.
func unknownKeys(file string, n ast.Node, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch n := n.(type) {
	case *ast.AnchorNode:
		return unknownKeys(file, n.Value, t)
	case *ast.TagNode:
		return unknownKeys(file, n.Value, t)
	case *ast.SequenceNode:
		if t.Kind() != reflect.Slice && t.Kind() != reflect.Array {
			return nil // the decoder says it better
		}
		for _, v := range n.Values {
			if err := unknownKeys(file, v, t.Elem()); err != nil {
				return err
			}
		}
	case *ast.MappingValueNode:
		return unknownEntry(file, n, t)
	case *ast.MappingNode:
		for _, v := range n.Values {
			if err := unknownEntry(file, v, t); err != nil {
				return err
			}
		}
	}
	return nil
}

func unknownEntry(file string, n *ast.MappingValueNode, t reflect.Type) error {
	if t.Kind() == reflect.Map {
		return unknownKeys(file, n.Value, t.Elem())
	}
	if t.Kind() != reflect.Struct || n.Key.IsMergeKey() {
		return nil
	}
	key := n.Key.GetToken().Value
	fields := yamlFields(t)
	for _, f := range fields {
		if f.key == key {
			return unknownKeys(file, n.Value, f.typ)
		}
	}
	line := n.Key.GetToken().Position.Line
	if best := nearest(key, fields); best != "" {
		return fmt.Errorf("%s:%d: unknown key %q: did you mean %q?", file, line, key, best)
	}
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.key
	}
	return fmt.Errorf("%s:%d: unknown key %q: known here are %s", file, line, key, strings.Join(known, ", "))
}

type yamlField struct {
	key   string
	typ   reflect.Type
	index []int
}

// yamlFields lists the keys of a struct as the YAML library sees them: the
// yaml tag, else the field's name in small letters; inline structs are part
// of the struct that holds them.
func yamlFields(t reflect.Type) []yamlField {
	var out []yamlField
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "-" {
			continue
		}
		if strings.Contains(opts, "inline") && f.Type.Kind() == reflect.Struct {
			for _, in := range yamlFields(f.Type) {
				in.index = append([]int{i}, in.index...)
				out = append(out, in)
			}
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		out = append(out, yamlField{name, f.Type, []int{i}})
	}
	return out
}

// nearest returns the known key with the smallest edit distance to key, or ""
// when none is near enough to be what was meant.
func nearest(key string, fields []yamlField) string {
	best, bestD := "", max(2, len(key)/3)+1
	for _, f := range fields {
		if d := editDistance(strings.ToLower(key), f.key); d < bestD {
			best, bestD = f.key, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions, substitutions and exchanges
// of neighbours between a and b (optimal string alignment).
func editDistance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j+1]+1, next[j]+1, row[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
