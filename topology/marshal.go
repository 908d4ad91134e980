package topology

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// reserved words that some YAML version takes for something else than text.
var reserved = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"}

// Marshal writes the topology as YAML, one line for each device, host and cable.
// [Parse] reads it back equal. The error names a link without its way back,
// which only a topology put together by hand can have.
func (t *Topology) Marshal() ([]byte, error) {
	var b bytes.Buffer
	if err := t.write(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// write is Marshal line by line, so that a large topology is never in memory
// twice.
func (t *Topology) write(to io.Writer) error {
	w := bufio.NewWriter(to)
	var line []byte
	put := func() {
		w.Write(append(line, "}\n"...))
		line = line[:0]
	}
	if t.Site != "" {
		line = append(appendQuoted(append(line, "site: "...), t.Site), '\n')
	}
	if len(t.Devices) > 0 {
		line = append(line, "devices:\n"...)
	}
	for _, d := range t.Devices {
		line = appendQuoted(append(line, "  - {name: "...), d.Name)
		if d.Tier != "" {
			line = appendQuoted(append(line, ", tier: "...), d.Tier)
		}
		if d.Pod != "" {
			line = appendQuoted(append(line, ", pod: "...), d.Pod)
		}
		line = appendTags(line, d.Tags)
		line = appendGNMI(line, d.GNMI)
		put()
	}
	if len(t.Hosts) > 0 {
		line = append(line, "hosts:\n"...)
	}
	for _, h := range t.Hosts {
		line = appendQuoted(append(line, "  - {name: "...), h.Name)
		for i, a := range h.Addresses {
			if i == 0 {
				line = append(line, ", addresses: ["...)
			} else {
				line = append(line, ", "...)
			}
			if a.Is4() {
				line = a.AppendTo(line)
			} else {
				line = appendQuoted(line, a.String())
			}
		}
		if len(h.Addresses) > 0 {
			line = append(line, ']')
		}
		line = appendTags(line, h.Tags)
		put()
	}
	if len(t.Links) > 0 {
		line = append(line, "links:\n"...)
	}
	written := make(map[*Link]bool) // ways back that do not come next
	for i := 0; i < len(t.Links); i++ {
		l := t.Links[i]
		if written[l] {
			continue
		}
		if comesBack(t.Links, i) {
			i++
		} else if back := t.Reverse(l); back != nil {
			written[back] = true
		} else {
			return fmt.Errorf("topology: link %s has no way back: links come in pairs", l.Name)
		}
		line = appendEnd(append(line, "  - {a: "...), "a_addr", l.From)
		line = appendEnd(append(line, ", b: "...), "b_addr", l.To)
		put()
	}
	if t.Site == "" && len(t.Devices)+len(t.Hosts)+len(t.Links) == 0 {
		line = append(line, "devices: []\n"...)
	}
	w.Write(line)
	if err := w.Flush(); err != nil { // or any of the writes before
		return fmt.Errorf("write topology: %w", err)
	}
	return nil
}

// appendEnd writes node:interface and its addresses, if it has any.
func appendEnd(b []byte, key string, i *Interface) []byte {
	b = append(b, '"')
	b = appendEscaped(b, i.Node)
	b = append(b, ':')
	b = append(appendEscaped(b, i.Name), '"')
	if i.Addr.IsValid() {
		b = append(append(append(b, ", "...), key...), `: "`...)
		b = append(i.Addr.AppendTo(b), '"')
	}
	if i.Addr6.IsValid() {
		b = append(append(append(b, ", "...), key...), `6: "`...)
		b = append(i.Addr6.AppendTo(b), '"')
	}
	return b
}

func appendGNMI(b []byte, g *GNMI) []byte {
	if g == nil {
		return b
	}
	b = appendQuoted(append(b, ", gnmi: {address: "...), g.Address)
	if g.TLS != nil {
		var files []byte
		for _, f := range []struct{ key, name string }{{"ca", g.TLS.CA}, {"cert", g.TLS.Cert}, {"key", g.TLS.Key}} {
			if f.name == "" {
				continue
			}
			if len(files) > 0 {
				files = append(files, ", "...)
			}
			files = append(append(files, f.key...), ": "...)
			files = appendQuoted(files, f.name)
		}
		b = append(append(append(b, ", tls: {"...), files...), '}')
	}
	if g.Username != "" {
		b = appendQuoted(append(b, ", username: "...), g.Username)
		b = appendQuoted(append(b, ", password_file: "...), g.PasswordFile)
	}
	return append(b, '}')
}

func appendTags(b []byte, tags map[string]string) []byte {
	if len(tags) == 0 {
		return b
	}
	b = append(b, ", tags: {"...)
	for i, key := range slices.Sorted(maps.Keys(tags)) {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendQuoted(b, key)
		b = appendQuoted(append(b, ": "...), tags[key])
	}
	return append(b, '}')
}

// plainWord says whether text needs no quotes in a flow mapping, whatever YAML
// version reads it: a letter, then letters, digits, - and _.
func plainWord[T string | []byte](s T) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case i > 0 && ('0' <= c && c <= '9' || c == '-' || c == '_'):
		default:
			return false
		}
	}
	return len(s) > 0 && (len(s) > 5 || !slices.Contains(reserved, strings.ToLower(string(s))))
}

// appendQuoted writes text so that it reads back as the same text. Control
// characters do not occur: the check refuses them.
func appendQuoted(b []byte, s string) []byte {
	if plainWord(s) {
		return append(b, s...)
	}
	return append(appendEscaped(append(b, '"'), s), '"')
}

func appendEscaped(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return b
}
