package strictyaml

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestSyntaxErrorsNameFileAndLine(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"bracket left open", "a: [1\nb", "f.yaml:2: not valid YAML: "},
		{"two colons", "a: 1\nb: c: d\n", "f.yaml:2: not valid YAML: "},
		{"tab as indent", "a:\n\tb: 1\n", "f.yaml:2: not valid YAML: "},
		{"two documents", "a: 1\n---\nb: 2\n", "f.yaml:3: a second YAML document"},
		{"not UTF-8", "a: 1\nb: \xff\n", "f.yaml:2: not UTF-8"},
		{"control character", "a: 1\nb: \x01\n", "f.yaml:2: control character"},
		{"long line", "a: 1\n# " + strings.Repeat("x", MaxLine), "f.yaml:2: line of"},
		{"too large", strings.Repeat("#\n", MaxBytes), "f.yaml: 33554432 bytes"},
		{"deep brackets", "a: " + strings.Repeat("[", 100000/2) + "\n", "f.yaml:1: brackets nested"},
		{"deep dashes", strings.Repeat("- ", MaxLine/2-1), "f.yaml:1: lists nested"},
		{"deep brackets, a line each", strings.Repeat("[\n", 100000), "brackets nested"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := Parse("f.yaml", []byte(c.text))
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, want one line with %q", err, c.want)
			}
		})
	}
}

// Nesting without brackets is as deep as a line is long: the parser must come
// back, whatever it thinks of it, in a time nobody minds.
func TestDeepBlockNestingComesBack(t *testing.T) {
	for _, word := range []string{"- ", "? ", "!a ", "&a ", "a: "} {
		begin := time.Now()
		_, _, err := Parse("f.yaml", []byte(strings.Repeat(word, (MaxLine-1)/len(word))))
		t.Logf("%q: %v in %v", word, err, time.Since(begin).Round(time.Millisecond))
	}
}

func TestEmptyFilesHoldNothing(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "null\n", "~"} {
		doc, v, err := Parse("f", []byte(text))
		if err != nil || v.Present() || doc.Err() != nil {
			t.Errorf("%q: present %v, errors %v, %v", text, v.Present(), err, doc.Err())
		}
	}
}

func TestFieldsReportEveryMistakeAtItsLine(t *testing.T) {
	doc, v, err := Parse("f.yaml", []byte(`
rate: 1%
ratee: 2
zzzzzzzz: 3
rate: 4
list: {x: 1}
number: ten
big: 11
deep:
  inner:
    - wrong
anchor: &a 1
alias: *a
tag: !!str x
`))
	if err != nil {
		t.Fatal(err)
	}
	f := v.Fields("rate", "list", "number", "big", "deep", "anchor", "alias", "tag", "need")
	if got := f.Get("rate").Text(); got != "1%" {
		t.Errorf("rate is %q", got)
	}
	f.Get("list").List()
	f.Get("number").Int(0, 10, 0)
	f.Get("big").Int(0, 10, 0)
	inner := f.Get("deep").Fields("inner").Get("inner")
	for _, item := range inner.List() {
		item.Fields("x").Need("x")
	}
	f.Need("need")
	want := []string{
		`f.yaml:2: need is missing`,
		`f.yaml:3: unknown key "ratee"; did you mean "rate"?`,
		`f.yaml:4: unknown key "zzzzzzzz"; known here: rate, list, number, big, deep, anchor, alias, tag, need`,
		`f.yaml:5: key "rate" is given twice`,
		`f.yaml:6: list must be a list, not a mapping`,
		`f.yaml:7: number must be a whole number, not "ten"`,
		`f.yaml:8: big is 11: give 0 to 10`,
		`f.yaml:11: inner[0] must be a mapping (key: value), not a single value`,
		`f.yaml:12: anchor: anchors, aliases and merge keys are not accepted here; write the value out`,
		`f.yaml:13: alias: anchors, aliases and merge keys are not accepted here; write the value out`,
		`f.yaml:14: tag: tags and directives are not accepted here; write the plain value`,
	}
	if got := doc.Err().Error(); got != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

func TestMistakesAreBoundedAndCounted(t *testing.T) {
	d := NewDoc("f")
	for i := range maxErrors + 5 {
		d.Errorf(i+1, "mistake")
	}
	lines := strings.Split(d.Err().Error(), "\n")
	if len(lines) != maxErrors+1 || lines[maxErrors] != "f: 5 more mistakes are not shown" {
		t.Errorf("got %d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func TestTextIsAsWritten(t *testing.T) {
	for text, want := range map[string]string{
		"v: 1e-6":                "1e-6",
		"v: 1_000":               "1_000",
		"v: 0x1F":                "0x1F",
		"v: 007":                 "007",
		"v: true":                "true",
		"v: on":                  "on",
		"v: .inf":                ".inf",
		"v: 'a''b'":              "a'b",
		`v: "a\"b\\"`:            `a"b\`,
		"v: 1..100":              "1..100",
		"v: 10/s":                "10/s",
		"v: 1%":                  "1%",
		"v: a:eth1>b:eth3":       "a:eth1>b:eth3",
		"{v: link a:e1>b:e3}":    "link a:e1>b:e3",
		"{v: fd00::1/64}":        "fd00::1/64",
		"v: # nothing":           "",
		"{v: skew(0.8, 0.25)}":   "skew(0.8, 0.25)",
		"{v: f(a, b, c), w: 1}":  "f(a, b, c)",
		"v: skew(0.8, 0.25)":     "skew(0.8, 0.25)",
		"{v: \"hot(p0, 0.5)\"}":  "hot(p0, 0.5)",
		"v: |\n  text\n":         "text\n",
		"{v: a(b, w: 1}":         "a(b", // w has a value: left alone
		"v: 1e-6 # with comment": "1e-6",
	} {
		doc, v, err := Parse("f", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := v.Fields("v", "w").Get("v").Text(); got != want || doc.Err() != nil {
			t.Errorf("%q: got %q (%v), want %q", text, got, doc.Err(), want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"connections_per_host", "packets", "pattern", "at", "for"}
	for name, want := range map[string]string{
		"conections_per_hosts": "connections_per_host",
		"packet":               "packets",
		"patern":               "pattern",
		"fro":                  "for",
		"xyz":                  "", // nothing of it is left
		"at":                   "at",
		"":                     "",
		"entirely_else":        "",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a: 1\nb: [x, {c: d}]\n", "{a: skew(0.8, 0.25), b}", "- - - a", "a: |\n  x\n", "? a\n: b", "a: &b 1\nc: *b\n<<: {d: 1}", "\"\\u00e9\": 'x'", "a: !!int 3", "%YAML 1.2\n---\na", "a: >-\n\n x\n#c"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, v, err := Parse("f", data)
		if err != nil {
			return
		}
		walk(v, 0)
		_ = doc.Err()
	})
}

// walk reads a value in every way.
func walk(v Value, depth int) {
	v.Text()
	v.Int(0, 10, 0)
	v.Fields("a", "b").Need("c")
	for _, item := range v.List() {
		walk(item, depth+1)
	}
	v.Pairs(func(_ string, value Value) { walk(value, depth+1) })
}
