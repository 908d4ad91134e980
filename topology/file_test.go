package topology

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The form of the design document, with the one switch declared that its
// excerpt leaves out.
const example = `
site: east
devices:
  - {name: p0-t1-0, tier: t1, pod: p0, tags: {dc: a}, gnmi: {address: "192.0.2.11:9339", tls: {ca: ca.pem, cert: c.pem, key: k.pem}}}
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
		*d.GNMI.TLS != (TLS{"ca.pem", "c.pem", "k.pem"}) || d.GNMI.Address != "192.0.2.11:9339" {
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
		", gnmi: {address: \"192.0.2.11:9339\", tls: {ca: ca.pem, cert: c.pem, key: k.pem}}": "",
		", tls: {ca: ca.pem, cert: c.pem, key: k.pem}":                                       "",
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

func TestLoadTakesTLSFilesFromTheTopologysFolder(t *testing.T) {
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
	if _, err := Load(filepath.Join(dir, "none.yaml")); err == nil || !strings.Contains(err.Error(), "none.yaml: no such file") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(dir); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a folder: %v", err)
	}
}

// A large fabric's file must be read in a time that a service's start can bear.
func TestLargeFile(t *testing.T) {
	topo := build(t, ClosSpec{Pods: 2, ToRs: 40, T1s: 16, T2s: 32, Hosts: 10})
	roundTrip(t, topo)
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
	f.Fuzz(func(t *testing.T, data []byte) {
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
