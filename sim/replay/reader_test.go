package replay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// small is the network of the format's own examples.
const small = `{"topology":{"links":[["t0","s1"],["t0","s2"],["s1","t4"],["s2","t4"]],"hosts":{"h1":"t0","h2":"t4","h3":"t0"}}}` + "\n"

func read(t testing.TB, text string) (*Topology, []*Epoch) {
	t.Helper()
	topo, epochs, err := Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return topo, epochs
}

// words writes an epoch out in names, to compare with.
func words(t *Topology, e *Epoch) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d..%d after %d\n", e.StartNS, e.EndNS, e.FirstFlow)
	for i := range e.Flows {
		f := &e.Flows[i]
		fmt.Fprintf(&b, "flow %s>%s %d/%d", t.Name(f.Src), t.Name(f.Dst), f.Retransmits, f.Packets)
		if f.Between.Known() {
			fmt.Fprintf(&b, " between %d and %d", f.Between.FirstNS, f.Between.LastNS)
		}
		for k := range f.Paths() {
			if f.Candidates {
				b.WriteString(" or")
			}
			for _, l := range e.Path(f, k) {
				b.WriteString(" " + t.LinkName(l))
			}
			if !e.Complete(t, f, k) {
				b.WriteString(" …")
			}
		}
		b.WriteString("\n")
	}
	for _, d := range e.Drops {
		fmt.Fprintf(&b, "drop %s: %s %s ×%d", t.Name(d.Device), t.ComponentName(d.Component(t)), d.Class, d.Count)
		if d.Between.Known() {
			fmt.Fprintf(&b, " between %d and %d", d.Between.FirstNS, d.Between.LastNS)
		}
		b.WriteString("\n")
	}
	for _, n := range e.Instrumented {
		fmt.Fprintf(&b, "instrumented %s\n", t.Name(n))
	}
	if e.Truth != nil {
		b.WriteString("truth")
		for _, l := range e.Truth.Links {
			b.WriteString(" " + t.LinkName(l))
		}
		for _, n := range append(append([]NodeID{}, e.Truth.Devices...), e.Truth.Hosts...) {
			b.WriteString(" " + t.Name(n))
		}
		for _, c := range e.Truth.Causes {
			fmt.Fprintf(&b, " %d:%s", c.Flow, t.LinkName(c.Link))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestReadsTheFormat(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"every line of the format", `
{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1,"path":["h1","t0","s1","t4","h2"]}}
{"flow":{"src":"h1","dst":"h2","packets":80,"retransmits":0,"paths":[["h1","t0","s1","t4","h2"],["h1","t0","s2","t4","h2"]]}}
{"flow":{"src":"h1","dst":"h2","packets":80,"retransmits":0}}
{"drop":{"device":"s1","from":"t0","to":"t4","class":"no-buffer","count":3}}
{"instrumented":{"device":"s1"}}
{"truth":{"links":[["t0","s1"]],"devices":["s2"],"hosts":["h3"],"causes":[{"flow":1,"link":["t0","s1"]}]}}
`, `epoch 0..0 after 0
flow h1>h2 1/57 h1>t0 t0>s1 s1>t4 t4>h2
flow h1>h2 0/80 or h1>t0 t0>s1 s1>t4 t4>h2 or h1>t0 t0>s2 s2>t4 t4>h2
flow h1>h2 0/80
drop s1: link s1>t4 no-buffer ×3
instrumented s1
truth t0>s1 s2 h3 0:t0>s1
`},
		{"nothing but a topology", "", "epoch 0..0 after 0\n"},
		{"a path that stops early", `{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1,"path":["h1","t0","s1"]}}`,
			"epoch 0..0 after 0\nflow h1>h2 1/57 h1>t0 t0>s1 …\n"},
		{"where a drop was", `{"drop":{"device":"s1","class":"no-buffer"}}
{"drop":{"device":"s1","from":"t0","class":"errors/l2/rx/crc-error","count":1}}
{"drop":{"device":"t0","to":"h3","class":"no-buffer","count":2}}`,
			"epoch 0..0 after 0\ndrop s1: device s1 no-buffer ×1\ndrop s1: link t0>s1 errors/l2/rx/crc-error ×1\ndrop t0: link t0>h3 no-buffer ×2\n"},
		{"times of losses and drops", `{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":2,"between_ns":[5,9],"path":["h1","t0","s1"]}}
{"drop":{"device":"s1","class":"no-buffer","between_ns":[7,7]}}`,
			"epoch 0..0 after 0\nflow h1>h2 2/57 between 5 and 9 h1>t0 t0>s1 …\ndrop s1: device s1 no-buffer ×1 between 7 and 7\n"},
		{"epochs", `{"epoch":{"start_ns":0,"end_ns":30000000000}}
{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0}}
{"instrumented":{"device":"s1"}}
{"epoch":{"start_ns":30000000000,"end_ns":60000000000}}
{"truth":{"causes":[{"flow":2,"link":["h3","t0"]}]}}
{"instrumented":{"device":"s1"}}
{"flow":{"src":"h3","dst":"h2","packets":1,"retransmits":0}}
{"epoch":{"end_ns":9,"start_ns":9}}`,
			`epoch 0..30000000000 after 0
flow h1>h2 0/1
instrumented s1
epoch 30000000000..60000000000 after 1
flow h3>h2 0/1
instrumented s1
truth 0:h3>t0
epoch 9..9 after 2
`},
		{"evidence before the first epoch line", `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0}}
{"epoch":{"start_ns":1,"end_ns":2}}`, "epoch 0..0 after 0\nflow h1>h2 0/1\nepoch 1..2 after 1\n"},
		{"any order, spaces, carriage returns, escapes", "\n\r\n  { \"flow\" : {\"retransmits\":0 ,\"path\":[ \"h1\" , \"t\\u0030\" ],\"packets\": 7,\t\"dst\":\"\\u00682\",\"src\":\"h1\"} } \r\n\n",
			"epoch 0..0 after 0\nflow h1>h2 0/7 h1>t0 …\n"},
		{"a trace through a loop", `{"flow":{"src":"h1","dst":"h2","packets":9,"retransmits":9,"path":["h1","t0","s1","t0","s1"]}}`,
			"epoch 0..0 after 0\nflow h1>h2 9/9 h1>t0 t0>s1 s1>t0 t0>s1 …\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			topo, epochs := read(t, small+c.text)
			got := ""
			for _, e := range epochs {
				got += words(topo, e)
			}
			if got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
}

func TestTopology(t *testing.T) {
	topo, _ := read(t, small)
	if topo.Nodes() != 7 || topo.Hosts() != 3 || topo.Links() != 14 {
		t.Errorf("%d nodes, %d hosts, %d links", topo.Nodes(), topo.Hosts(), topo.Links())
	}
	for l := range LinkID(topo.Links()) {
		c := LinkComponent(l)
		if got, ok := topo.Component(topo.ComponentName(c)); !ok || got != c {
			t.Errorf("%s is not found by name", topo.ComponentName(c))
		}
		if topo.From(l) != topo.To(topo.Reverse(l)) {
			t.Errorf("%s has no way back", topo.LinkName(l))
		}
	}
	for n := range NodeID(topo.Nodes()) {
		c := topo.NodeComponent(n)
		if got, ok := topo.Component(topo.ComponentName(c)); !ok || got != c {
			t.Errorf("%s is not found by name", topo.ComponentName(c))
		}
		if tor := topo.ToR(n); (tor != None) != topo.IsHost(n) {
			t.Errorf("ToR of %s: %d", topo.Name(n), tor)
		}
	}
	for _, name := range []string{"", "link", "link t0>t4", "link h1>h2", "device h1", "host t0", "host", "router t0", "link >", "t0"} {
		if c, ok := topo.Component(name); ok {
			t.Errorf("%q is taken for %s", name, topo.ComponentName(c))
		}
	}
	if twice, _ := read(t, `{"topology":{"links":[["a","b"],["b","a"],["a","b"]],"hosts":{}}}`); twice.Links() != 2 {
		t.Errorf("a link given three times is %d", twice.Links())
	}
	again := NewTopology()
	for _, l := range topo.SwitchLinks() {
		if err := again.AddLink(l[0], l[1]); err != nil {
			t.Fatal(err)
		}
	}
	for h, tor := range topo.HostToRs() {
		if err := again.AddHost(h, tor); err != nil {
			t.Fatal(err)
		}
	}
	if again.Links() != topo.Links() || again.Hosts() != topo.Hosts() {
		t.Errorf("made again by name: %d links, %d hosts", again.Links(), again.Hosts())
	}
	read(t, `{"topology":{"hosts":{"h1":"t0","h2":"t0"},"links":[]}}`) // one switch, in no link
}

// Whatever is wrong is an error that says where and what.
func TestRefusesBrokenLines(t *testing.T) {
	const flow = `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0}}` + "\n"
	for _, c := range []struct {
		text string
		line int
		want string
	}{
		{"", 1, "without a topology"},
		{"\n\n", 3, "without a topology"},
		{flow, 1, "before the topology"},
		{small + small, 2, "second topology"},
		{small + "{}", 2, "empty record"},
		{small + "[]", 2, `want "{"`},
		{small + "nonsense", 2, `want "{"`},
		{small + "{", 2, "end of the line"},
		{small + flow + flow[:30] + "\n" + flow, 3, "end of the line"},
		{small + flow[:len(flow)-2] + "\n", 2, "end of the line"},
		{small + strings.TrimSuffix(flow, "\n") + flow, 2, "one record a line"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0},"drop":{"device":"s1","class":"x"}}`, 2, "two records"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0},"flow":{}}`, 2, "given twice"},
		{small + `{"retransmit":{}}`, 2, `unknown field "retransmit"`},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"port":80}}`, 2, `unknown field "port"`},
		{small + `{"flow":{"src":"h1","src":"h1","dst":"h2","packets":1,"retransmits":0}}`, 2, `"src" is given twice`},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1}}`, 2, `"retransmits" is missing`},
		{small + `{"flow":{"src":"h9","dst":"h2","packets":1,"retransmits":0}}`, 2, `no "h9"`},
		{small + `{"flow":{"src":"t0","dst":"h2","packets":1,"retransmits":0}}`, 2, "switch, not a host"},
		{small + `{"flow":{"src":"h1","dst":"h1","packets":1,"retransmits":0}}`, 2, "to itself"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":-1,"retransmits":0}}`, 2, "whole number"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1.5,"retransmits":0}}`, 2, "whole number"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1e3,"retransmits":0}}`, 2, "whole number"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":01,"retransmits":0}}`, 2, "whole number"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":"1","retransmits":0}}`, 2, "whole number"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":99999999999999999999,"retransmits":0}}`, 2, "too large"},
		{small + `{"flow":{"src":"h1","dst":null,"packets":1,"retransmits":0}}`, 2, `want "\""`},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,}}`, 2, "after the comma"},
		{small + `{"flow":{"src":"h1" "dst":"h2","packets":1,"retransmits":0}}`, 2, `want ","`},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"path":[]}}`, 2, "0 nodes"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"path":["h1"]}}`, 2, "1 nodes"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"path":["h1","s1"]}}`, 2, "no link h1>s1"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"path":["t0","s1"]}}`, 2, "begins at"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"path":["h1","t0","h3"]}}`, 2, "through the host"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"path":["h1","t0","h3","t0"]}}`, 2, "through the host"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"path":["h1","t0` + strings.Repeat(`","s1","t0`, 40) + `"]}}`, 2, "more than 64 nodes"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"paths":[]}}`, 2, "no candidates"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"paths":[["h1","t0"]]}}`, 2, "candidate path ends"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"path":["h1","t0"],"paths":[["h1","t0","s1","t4","h2"]]}}`, 2, "both path and paths"},
		{small + flow + `{"drop":{"device":"s1"}}`, 3, `"class" is missing`},
		{small + `{"drop":{"device":"h1","class":"x"}}`, 2, "host, not a device"},
		{small + `{"drop":{"device":"s1","class":""}}`, 2, "class is empty"},
		{small + `{"drop":{"device":"s1","class":"x","to":"h1"}}`, 2, "no neighbour"},
		{small + `{"instrumented":{"device":"h1"}}`, 2, "host, not a device"},
		{small + `{"instrumented":{}}`, 2, "missing"},
		{small + "{\"instrumented\":{\"device\":\"s1\"}}\n{\"instrumented\":{\"device\":\"s1\"}}", 3, "already"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":1,"between_ns":[9,5]}}`, 2, "before it starts"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":1,"between_ns":[0,0]}}`, 2, "leave it out"},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":1,"between_ns":[5]}}`, 2, "want \",\""},
		{small + `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0,"between_ns":[5,9]}}`, 2, "without retransmits"},
		{small + `{"epoch":{"start_ns":5,"end_ns":4}}`, 2, "before it starts"},
		{small + `{"epoch":{"start_ns":5}}`, 2, `"end_ns" is missing`},
		{small + `{"truth":{"links":[["t0","t4"]]}}`, 2, "no link t0>t4"},
		{small + `{"truth":{"links":[["t0","s1","t4"]]}}`, 2, `want "]"`},
		{small + `{"truth":{"devices":["s1","s1"]}}`, 2, "twice"},
		{small + "{\"truth\":{}}\n{\"truth\":{}}", 3, "truth already"},
		{small + `{"truth":{"causes":[{"flow":0,"link":["t0","s1"]}]}}`, 2, "not of this epoch"},
		{small + `{"truth":{"causes":[{"flow":1}]}}`, 2, `"link" is missing`},
		{small + "\n" + `{"truth":{"causes":[{"flow":2,"link":["t0","s1"]}]}}` + "\n" + flow, 3, "names flow 2, but the epoch ends with 1"},
		{small + flow + `{"epoch":{"start_ns":0,"end_ns":1}}` + "\n" + `{"truth":{"causes":[{"flow":1,"link":["t0","s1"]}]}}`, 4, "not of this epoch"},
		{small + "{\"drop\":{\"device\":\"s1\",\"class\":\"\xff\"}}", 2, "not UTF-8"},
		{small + "{\"drop\":{\"device\":\"s1\",\"class\":\"\\n\xff\"}}", 2, "not UTF-8"},
		{small + "{\"drop\":{\"device\":\"s1\",\"class\":\"a\tb\"}}", 2, "control character"},
		{small + `{"drop":{"device":"s1","class":"\ud800"}}`, 2, "surrogate"},
		{small + `{"drop":{"device":"s1","class":"\ud800\u0041"}}`, 2, "surrogate"},
		{small + `{"drop":{"device":"s1","class":"\x"}}`, 2, "no such escape"},
		{small + `{"drop":{"device":"s1","class":"\u00g0"}}`, 2, "hexadecimal"},
		{`{"topology":{"links":[["a","b"]]}}`, 1, `"hosts" is missing`},
		{`{"topology":{"links":[["a","a"]],"hosts":{}}}`, 1, "to itself"},
		{`{"topology":{"links":[["a>b","c"]],"hosts":{}}}`, 1, "ambiguous"},
		{`{"topology":{"links":[["a","b"]],"hosts":{"a":"b"}}}`, 1, "both a switch and a host"},
		{`{"topology":{"links":[],"hosts":{"a":"a"}}}`, 1, "both a switch and a host"},
		{`{"topology":{"links":[],"hosts":{"a":"b","b":"c"}}}`, 1, "both a switch and a host"},
		{`{"topology":{"links":[],"hosts":{"a":"b","a":"c"}}}`, 1, "given twice"},
		{`{"topology":{"links":[["","b"]],"hosts":{}}}`, 1, "empty"},
		{`{"topology":{"links":[["` + strings.Repeat("x", 300) + `","b"]],"hosts":{}}}`, 1, "300 bytes"},
		{`{"topology":{"links":[["a"]],"hosts":{}}}`, 1, `want ","`},
		{"\ufeff" + small, 1, `want "{"`},
	} {
		_, _, err := Read(strings.NewReader(c.text))
		var at *LineError
		if !errors.As(err, &at) || at.Line != c.line || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.150q:\n  %v\n  want line %d, %q", c.text, err, c.line, c.want)
		}
	}
}

func TestReaderLimits(t *testing.T) {
	flow := `{"flow":{"src":"h1","dst":"h2","packets":1,"retransmits":0}}` + "\n"
	drop := `{"drop":{"device":"s1","class":"x"}}` + "\n"
	for _, c := range []struct {
		text   string
		limits Limits
		want   string
	}{
		{small + strings.Repeat(flow, 3), Limits{Line: 1000, Flows: 2, Drops: 2}, "line 4: column 9: more than 2 flows"},
		{small + strings.Repeat(drop, 3), Limits{Line: 1000, Flows: 2, Drops: 2}, "line 4: column 9: more than 2 drops"},
		{small + strings.Replace(flow, "0}", `0,"path":["h1","t0","s1"]}`, 1), Limits{Line: 1000, Flows: 2, Links: 1}, "line 2: column 83: more than 1 links"},
		{small + strings.Repeat(" ", 1001), Limits{Line: 1000, Flows: 2, Drops: 2}, "line 2: more than 1000 bytes"},
		{small + strings.Repeat(" ", 1<<20), Limits{Line: 1 << 19, Flows: 2, Drops: 2}, "line 2: more than 524288 bytes"},
	} {
		r := NewReader(strings.NewReader(c.text), c.limits)
		_, err := r.Next()
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
		if _, again := r.Next(); !errors.Is(again, err) {
			t.Errorf("then %v", again)
		}
	}
	// A line longer than the buffer is a line.
	_, epochs := read(t, small+strings.Repeat(" ", 1<<20)+flow)
	if len(epochs[0].Flows) != 1 {
		t.Error("a long line is lost")
	}
}

func TestReaderPassesErrorsOn(t *testing.T) {
	broken := errors.New("disk gone")
	_, _, err := Read(io.MultiReader(strings.NewReader(small), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}

// Any input is read or refused; what is read is written and read back the same.
func FuzzReader(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte(small + `{"epoch":{"start_ns":0,"end_ns":30000000000}}
{"instrumented":{"device":"s1"}}
{"flow":{"src":"h1","dst":"h2","packets":57,"retransmits":1,"path":["h1","t0","s1","t4","h2"]}}
{"flow":{"src":"h1","dst":"h2","packets":80,"retransmits":0,"paths":[["h1","t0","s1","t4","h2"],["h1","t0","s2","t4","h2"]]}}
{"flow":{"src":"h1","dst":"h2","packets":80,"retransmits":0}}
{"drop":{"device":"s1","from":"t0","to":"t4","class":"no-buffer","count":3}}
{"truth":{"links":[["t0","s1"]],"devices":["s2"],"hosts":["h3"],"causes":[{"flow":1,"link":["t0","s1"]}]}}
{"epoch":{"start_ns":1,"end_ns":2}}`))
	f.Add([]byte(`{"topology":{"links":[["\u00e9\"\\\n","b"]],"hosts":{"\ud83d\ude00":"b"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		topo, epochs, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		var first, second bytes.Buffer
		if err := Write(&first, topo, epochs...); err != nil {
			t.Fatal(err)
		}
		again, epochs2, err := Read(bytes.NewReader(first.Bytes()))
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, first.Bytes())
		}
		for i := range epochs {
			if got, want := words(again, epochs2[i]), words(topo, epochs[i]); got != want {
				t.Fatalf("got\n%swant\n%s", got, want)
			}
			for k := range epochs[i].Flows {
				epochs[i].Score(topo, []Blamed{{Component: LinkComponent(0)}}, func(int) (Component, bool) { return topo.NodeComponent(0), topo.Nodes() > 0 })
				if k > 3 {
					break
				}
			}
		}
		if err := Write(&second, again, epochs2...); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatalf("written twice:\n%s\n%s", first.Bytes(), second.Bytes())
		}
	})
}
