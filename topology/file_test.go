package topology

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"decaf/topology/strictyaml"
)

// The form of the design document, with the one switch declared that its
// excerpt leaves out.
const example = `
site: east
devices:
  - {name: p0-t1-0, tier: t1, pod: p0, tags: {dc: a}, gnmi: {address: "192.0.2.11:9339", tls: {ca: ca.pem, cert: c.pem, key: k.pem}, username: collector, password_file: p}}
  - {name: p0-tor0, tier: tor, pod: p0}
hosts:
  - {name: p0-tor0-h0, addresses: [10.0.0.2], tags: {rack: r1, cluster: web}}
links:                                   # each becomes two directed links, named a>b (a:eth1>b:eth3 when parallel)
  - {a: "p0-tor0:eth1", a_addr: 10.128.0.0/31, b: "p0-t1-0:eth3", b_addr: 10.128.0.1/31}
`

func TestExampleOfTheDesign(t *testing.T) {
	topo, err := Parse("east.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	d, _ := topo.Device("p0-t1-0")
	if topo.Site != "east" || d.Tier != "t1" || d.Pod != "p0" || d.Tags["dc"] != "a" ||
		*d.GNMI.TLS != (TLS{"ca.pem", "c.pem", "k.pem"}) || d.GNMI.Address != "192.0.2.11:9339" ||
		d.GNMI.Username != "collector" || d.GNMI.PasswordFile != "p" {
		t.Errorf("device: %+v %+v", d, d.GNMI)
	}
	h, _ := topo.HostAt(netip.MustParseAddr("10.0.0.2"))
	if h == nil || h.Tags["cluster"] != "web" {
		t.Errorf("host: %+v", h)
	}
	l, ok := topo.Link("p0-t1-0>p0-tor0")
	if !ok || l.From.String() != "p0-t1-0:eth3" || l.To.Addr != netip.MustParsePrefix("10.128.0.0/31") {
		t.Errorf("link: %+v", l)
	}
}

// Without that switch the link dangles, and its line is named.
func TestExampleWithoutItsSwitch(t *testing.T) {
	_, err := Parse("east.yaml", []byte(strings.Replace(example, "  - {name: p0-tor0, tier: tor, pod: p0}\n", "", 1)))
	want := `east.yaml:8: link end p0-tor0:eth1: no device or host is named "p0-tor0"`
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestMarshalParsesBackEqual(t *testing.T) {
	for _, s := range sizes {
		roundTrip(t, build(t, s))
	}
	odd, err := Parse("odd.yaml", []byte(`
site: "1e6"
devices:
  - name: "null"
    tier: "1"
    tags: {a.b/c: "x: {y}, [z] # \"quoted\" \\ 100%", empty: "", "1": "é 丶", "yes": "- a", t: "&a *b !c |d >e"}
    gnmi: {address: "[2001:db8::1]:9339", tls: {}}
  - {name: "0x1F", gnmi: {address: "sw1.example:9339"}}
hosts:
  - {name: "on", addresses: ["2001:db8::2", 10.0.0.1, "::1"]}
  - {name: alone}
links:
  - {a: "null:ge-0/0/0.0", b: "0x1F:et-0/0/0:1"}
  - {b: "null:Ethernet1/1", b_addr: 2001:db8:1::/127, a: "0x1F:e2", a_addr: "2001:db8:1::1/127"}
  - {a: "0x1F:e9", a_addr: 198.51.100.1/24, b: "on:eth0", b_addr: 198.51.100.2/24}
`))
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, odd)
	empty, err := New("", nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, empty)
}

func roundTrip(t *testing.T, topo *Topology) {
	t.Helper()
	text, err := topo.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("again.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !again.Equal(topo) {
		t.Fatalf("reads back as another topology:\n%s", text)
	}
	text2, err := again.Marshal()
	if err != nil || !bytes.Equal(text, text2) {
		t.Fatalf("writes differently the second time (%v):\n%s\n%s", err, text, text2)
	}
}

func TestEqualSeesEveryDifference(t *testing.T) {
	parse := func(old, new string) *Topology {
		if !strings.Contains(example, old) {
			t.Fatalf("%q is not in the example", old)
		}
		topo, err := Parse("t", []byte(strings.Replace(example, old, new, 1)))
		if err != nil {
			t.Fatal(err)
		}
		return topo
	}
	base := parse("east", "east")
	for old, new := range map[string]string{
		"east": "west", "tier: t1": "tier: t2", "pod: p0,": "pod: p1,", "dc: a": "dc: b", "9339": "9340", "ca.pem": "d.pem",
		"10.0.0.2": "10.0.0.4", "rack: r1": "rack: r2", "tor0:eth1": "tor0:eth2", "p0-tor0-h0": "h0",
		"username: collector": "username: other", "password_file: p": "password_file: q",
		", gnmi: {address: \"192.0.2.11:9339\", tls: {ca: ca.pem, cert: c.pem, key: k.pem}, username: collector, password_file: p}": "",
		", tls: {ca: ca.pem, cert: c.pem, key: k.pem}": "",
	} {
		if base.Equal(parse(old, new)) {
			t.Errorf("%s for %s goes unseen", new, old)
		}
	}
	if !base.Equal(parse("east", "east")) || base.Equal(nil) || !(*Topology)(nil).Equal(nil) {
		t.Error("equality of the same, or of none, is wrong")
	}
}

func TestMarshalRefusesHalfACable(t *testing.T) {
	topo := &Topology{Links: []*Link{{Name: "a>b", From: &Interface{Node: "a", Name: "e"}, To: &Interface{Node: "b", Name: "e"}}}}
	if _, err := topo.Marshal(); err == nil || !strings.Contains(err.Error(), "a>b has no way back") {
		t.Errorf("got %v", err)
	}
}

func TestLoadTakesFilesFromTheTopologysFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "east.yaml")
	if err := os.WriteFile(path, []byte(strings.Replace(example, "c.pem", "/etc/c.pem", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	topo, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	d, _ := topo.Device("p0-t1-0")
	if want := (TLS{filepath.Join(dir, "ca.pem"), "/etc/c.pem", filepath.Join(dir, "k.pem")}); *d.GNMI.TLS != want {
		t.Errorf("got %+v, want %+v", *d.GNMI.TLS, want)
	}
	if want := filepath.Join(dir, "p"); d.GNMI.PasswordFile != want {
		t.Errorf("got %s, want %s", d.GNMI.PasswordFile, want)
	}
	if _, err := Load(filepath.Join(dir, "none.yaml")); err == nil || !strings.Contains(err.Error(), "none.yaml: no such file") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(dir); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a folder: %v", err)
	}
}

// What one reader of the two takes both take, alike.
func alike(t *testing.T, data []byte) {
	t.Helper()
	p, odd := parseLines(data)
	if odd > 0 {
		return
	}
	lines, errLines := p.build(strictyaml.NewDoc("f"))
	whole, errWhole := parseYAML("f", data)
	if fmt.Sprint(errLines) != fmt.Sprint(errWhole) {
		t.Fatalf("line by line: %v\nas YAML: %v\n%s", errLines, errWhole, data)
	}
	if errLines == nil && !lines.Equal(whole) {
		t.Fatalf("read line by line it is another topology:\n%s", data)
	}
}

// What Marshal writes is read line by line; what is written otherwise is not.
func TestLinesAreReadAsYAMLIs(t *testing.T) {
	for _, s := range append(sizes[:len(sizes):len(sizes)], ClosSpec{Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2, IP: IPBoth}) {
		text, err := build(t, s).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, odd := parseLines(text); odd != 0 {
			t.Errorf("%v: line %d is not in its own form:\n%s", s, odd, text)
		}
		alike(t, text)
	}
	for want, text := range map[int][]string{
		0: {
			"site: lab\ndevices:\n  - {tier: t1, name: \"a\"}\n",
			"hosts:\n  - {name: h, addresses: [10.0.0.1, \"::1\"], tags: {\"a.b/c\": \"x, {y}\", d: \"é \\\\ \\\" 丶\"}}\n",
			"devices:\n  - {name: a, gnmi: {address: \"1.2.3.4:5\", tls: {ca: c, cert: d, key: \"e/f\"}}}\n",
			"devices:\n  - {name: a, gnmi: {username: noc, password_file: \"e/f\", address: \"1.2.3.4:5\"}}\n",
			"devices:\n  - {name: a, gnmi: {username: noc, address: \"1.2.3.4:5\"}}\n", // wrong, and both say so
			"devices:\n  - {name: a}\n  - {name: b}\nlinks:\n  - {a: \"a:1\", a_addr: 10.0.0.0/31, b: \"b:1\", b_addr: \"10.0.0.1/31\"}\n",
			"devices:\n  - {name: a}\n  - {name: a}\n",                 // wrong, and both say so
			"hosts:\n  - {name: a, addresses: [10.0.0.1, 10.0.0.1]}\n", // the same
		},
		1: {"", "- a\n", "site: \"a\" # b\n", "hosts: []\n", "{}\n", "hosts:", "site: 1.2.3\n", "site: null\n"},
		2: {
			"hosts:\n  - {name: h }\n", "hosts:\n  - {name: h, name: g}\n", "hosts:\n  - {name: ~}\n", "hosts:\n  - name: h\n",
			"hosts:\n  - {name: h}", "hosts:\n- {name: h}\n", "hosts:\n  - {name: h, nme: g}\n", "hosts:\n  - {name: h, addresses: [10.0.0]}\n",
			"hosts:\n  - {name: \"\\u0041\"}\n", "hosts:\n  - {name: h, tags: {\"<<\": a}}\n", "hosts:\n  - {name: h, tags: {a: b, a: c}}\n",
			"hosts:\n  - {name: h}\r\n", "hosts:\n  - {name: yes}\n", "links:\n  - {a: \"a:1\"}\n", "links:\n  - {a: \"a\", b: \"b:1\"}\n",
			"devices:\n  - {name: a, gnmi: {tls: {ca: b}}}\n", "devices:\n  - {name: a, gnmi: {address: \"1.2.3.4:5\", username: b, username: b}}\n", "hosts:\nlinks:\n",
		},
		3: {"hosts:\n  - {name: h}\n\n", "links:\n  - {a: \"a:1\", b: \"b:1\"}\nhosts:\n", "hosts:\n  - {name: h}\nhosts:\n", "hosts:\n  - {name: h}\nsite: x\n"},
	} {
		for _, text := range text {
			if _, odd := parseLines([]byte(text)); odd != want {
				t.Errorf("gave up at line %d, want %d:\n%s", odd, want, text)
			}
			alike(t, []byte(text))
		}
	}
}

// A file beyond what the YAML reader takes is read line by line, and only so.
func TestLargeFile(t *testing.T) {
	topo := build(t, ClosSpec{Pods: 15, ToRs: 64, T1s: 16, T2s: 16, Hosts: 128})
	text, err := topo.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if len(text) <= strictyaml.MaxBytes {
		t.Fatalf("%d bytes are not large", len(text))
	}
	again, err := Parse("large.yaml", text)
	if err != nil || !again.Equal(topo) {
		t.Errorf("reads back as another topology: %v", err)
	}
	lines := bytes.Count(text, []byte("\n"))
	if _, err := Parse("large.yaml", append(text, "  - {a: \"x:1\", b: \"p0-tor0:e\"}\n"...)); err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("large.yaml:%d: link end x:1: no device or host is named \"x\"", lines+1)) {
		t.Errorf("a dangling link at the end: %v", err)
	}
	if _, err := Parse("large.yaml", append(text, "  - {a: x}\n"...)); err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("large.yaml:%d: this line is not in the form that `decaf topology clos` writes", lines+1)) {
		t.Errorf("another form at the end: %v", err)
	}
}

// million is a Clos close to the limit: 983,040 directed links.
var million = ClosSpec{Pods: 40, ToRs: 64, T1s: 32, T2s: 64, Hosts: 128}

func BenchmarkMillionLinks(b *testing.B) {
	topo := build(b, million)
	text, err := topo.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("clos", func(b *testing.B) {
		for b.Loop() {
			build(b, million)
		}
	})
	b.Run("write", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			if err := topo.write(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Parse("b", text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("summary", func(b *testing.B) { // with the graph
		for b.Loop() {
			again := &Topology{Devices: topo.Devices, Hosts: topo.Hosts, Links: topo.Links}
			again.summarize()
			again.detect(1, 100, 100)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text, err := build(b, ClosSpec{Pods: 2, ToRs: 20, T1s: 16, T2s: 20, Hosts: 8}).Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := Parse("b", text); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever is accepted can be written, reads back equal, and can be asked
// anything.
func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	small, err := build(f, ClosSpec{Pods: 1, ToRs: 1, T1s: 1, Hosts: 1}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(small)
	f.Add([]byte("devices: [{name: a, tags: {x: \"\\u00e9\"}}, {name: b}]\nlinks: [{a: a:1, b: b:1}, {a: a:2, b: b:2}]"))
	f.Add([]byte("hosts: [{name: h, addresses: [\"::1\", 10.0.0.1]}]\nlinks: []"))
	f.Add([]byte("hosts:\n  - {name: h, addresses: [10.0.0.1], tags: {a: \"b\"}}\n"))
	f.Add([]byte("site: s\ndevices:\n  - {name: d, gnmi: {address: \"a:1\", tls: {ca: x}}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		alike(t, data)
		topo, err := Parse("f", data)
		if err != nil {
			return
		}
		roundTrip(t, topo)
		topo.warnings()
		for i, a := range topo.Hosts {
			for _, b := range topo.Hosts[:min(i, 4)] {
				topo.Paths(a.Name, b.Name)
				topo.Shares(b.Name, a.Name)
				topo.CountPaths(a.Name, b.Name)
			}
		}
	})
}
