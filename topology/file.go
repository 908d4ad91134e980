package topology

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"decaf/topology/strictyaml"
)

// Load reads a topology file. Relative names of TLS and password files in it are
// made relative to the folder of the topology file. Errors are lines of "file:line: what".
func Load(path string) (*Topology, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	defer f.Close()
	t, err := read(path, f)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	for _, d := range t.Devices {
		if d.GNMI == nil {
			continue
		}
		names := []*string{&d.GNMI.PasswordFile}
		if t := d.GNMI.TLS; t != nil {
			names = append(names, &t.CA, &t.Cert, &t.Key)
		}
		for _, name := range names {
			if *name != "" && !filepath.IsAbs(*name) {
				*name = filepath.Join(dir, *name)
			}
		}
	}
	return t, nil
}

// maxFile bounds what is read of one file; a Clos of [MaxClosLinks] is some 75 MB.
const maxFile = 256 << 20

func read(name string, r io.Reader) (*Topology, error) {
	var b bytes.Buffer
	if f, ok := r.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			b.Grow(int(min(info.Size(), maxFile)) + bytes.MinRead)
		}
	}
	if _, err := b.ReadFrom(io.LimitReader(r, maxFile+1)); err != nil {
		return nil, fmt.Errorf("topology: read %s: %w", name, err)
	}
	return Parse(name, b.Bytes())
}

// Parse reads a topology; file serves messages only. The error joins one
// "file:line: what" for each thing wrong, up to a limit.
func Parse(file string, data []byte) (*Topology, error) {
	if len(data) > maxFile {
		return nil, &strictyaml.Error{File: file, What: fmt.Sprintf("more than %d bytes: larger topologies are not read", maxFile)}
	}
	p, odd := parseLines(data)
	if odd == 0 {
		return p.build(strictyaml.NewDoc(file))
	}
	if len(data) > strictyaml.MaxBytes {
		return nil, &strictyaml.Error{File: file, Line: odd, What: fmt.Sprintf("this line is not in the form that `decaf topology clos` writes, one device, host or link a line, which a file of more than %d bytes must be in", strictyaml.MaxBytes)}
	}
	return parseYAML(file, data)
}

// parseYAML reads a topology in any form of YAML.
func parseYAML(file string, data []byte) (*Topology, error) {
	doc, root, err := strictyaml.Parse(file, data)
	if err != nil {
		return nil, err
	}
	if !root.Present() {
		root.Errorf("the topology is empty: give site, devices, hosts and links")
		return nil, doc.Err()
	}
	p := &plan{}
	top := root.Fields("site", "devices", "hosts", "links")
	p.site, p.siteLine = top.Get("site").Text(), top.Get("site").Line()
	for _, v := range top.Get("devices").List() {
		p.addDevice(v)
	}
	for _, v := range top.Get("hosts").List() {
		p.addHost(v)
	}
	for _, v := range top.Get("links").List() {
		p.addCable(v)
	}
	return p.build(doc)
}

func (p *plan) addDevice(v strictyaml.Value) {
	f := v.Fields("name", "tier", "pod", "tags", "gnmi")
	if !f.Present() && v.Present() {
		return // not a mapping, and noted
	}
	d := &Device{
		Name: f.Get("name").Text(),
		Tier: f.Get("tier").Text(),
		Pod:  f.Get("pod").Text(),
		Tags: readTags(f.Get("tags")),
	}
	if g := f.Get("gnmi"); g.Present() {
		gf := g.Fields("address", "tls", "username", "password_file")
		if a := gf.Need("address"); a.Present() {
			d.GNMI = &GNMI{Address: a.Text(), Username: gf.Get("username").Text(), PasswordFile: gf.Get("password_file").Text()}
		}
		if t := gf.Get("tls"); t.Present() && d.GNMI != nil {
			tf := t.Fields("ca", "cert", "key")
			d.GNMI.TLS = &TLS{CA: tf.Get("ca").Text(), Cert: tf.Get("cert").Text(), Key: tf.Get("key").Text()}
		}
	}
	p.devices = append(p.devices, d)
	p.deviceLine = append(p.deviceLine, v.Line())
}

func (p *plan) addHost(v strictyaml.Value) {
	f := v.Fields("name", "addresses", "tags")
	if !f.Present() && v.Present() {
		return // not a mapping, and noted
	}
	h := &Host{Name: f.Get("name").Text(), Tags: readTags(f.Get("tags"))}
	var lines []int
	for _, a := range f.Get("addresses").List() {
		addr, err := netip.ParseAddr(a.Text())
		if err != nil {
			a.Errorf("address %q of host %s is not an IP address such as 10.0.0.2", a.Text(), h.Name)
			continue
		}
		h.Addresses = append(h.Addresses, addr)
		lines = append(lines, a.Line())
	}
	p.hosts = append(p.hosts, h)
	p.hostLine = append(p.hostLine, v.Line())
	p.addrLine = append(p.addrLine, lines)
}

func readTags(v strictyaml.Value) map[string]string {
	var tags map[string]string
	v.Pairs(func(key string, value strictyaml.Value) {
		if tags == nil {
			tags = make(map[string]string)
		}
		tags[key] = value.Text()
	})
	return tags
}

func (p *plan) addCable(v strictyaml.Value) {
	f := v.Fields("a", "a_addr", "a_addr6", "b", "b_addr", "b_addr6")
	a, okA := readEnd(f.Need("a"), f.Get("a_addr"), f.Get("a_addr6"))
	b, okB := readEnd(f.Need("b"), f.Get("b_addr"), f.Get("b_addr6"))
	if !okA || !okB {
		return // noted; half a link would only bring more messages of the same
	}
	p.cables = append(p.cables, Cable{A: a, B: b})
	p.cableLine = append(p.cableLine, cableLines{
		a: f.Get("a").Line(), aAddr: f.Get("a_addr").Line(), aAddr6: f.Get("a_addr6").Line(),
		b: f.Get("b").Line(), bAddr: f.Get("b_addr").Line(), bAddr6: f.Get("b_addr6").Line(),
	})
}

func readEnd(end, addr, addr6 strictyaml.Value) (Interface, bool) {
	if !end.Present() {
		return Interface{}, false
	}
	node, name, ok := strings.Cut(end.Text(), ":")
	if !ok || node == "" || name == "" {
		end.Errorf("link end %q: write node:interface, such as p0-tor0:eth1", end.Text())
		return Interface{}, false
	}
	i := Interface{Node: node, Name: name}
	for _, a := range []struct {
		text    strictyaml.Value
		to      *netip.Prefix
		example string
	}{{addr, &i.Addr, "10.128.0.0/31"}, {addr6, &i.Addr6, "fd0a::a80:0/127"}} {
		if !a.text.Present() {
			continue
		}
		p, err := netip.ParsePrefix(a.text.Text())
		if err != nil {
			a.text.Errorf("address %q of %s: write address/length, such as %s", a.text.Text(), &i, a.example)
			return Interface{}, false
		}
		*a.to = p
	}
	return i, true
}
