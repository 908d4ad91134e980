package topology

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// plainWord needs no quotes in a flow mapping, whatever YAML version reads it.
var plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)

// reserved words that some YAML version takes for something else than text.
var reserved = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"}

// Marshal writes the topology as YAML, one line for each device, host and cable.
// [Parse] reads it back equal. The error names a link without its way back,
// which only a topology put together by hand can have.
func (t *Topology) Marshal() ([]byte, error) {
	var b bytes.Buffer
	if t.Site != "" {
		fmt.Fprintf(&b, "site: %s\n", quote(t.Site))
	}
	if len(t.Devices) > 0 {
		b.WriteString("devices:\n")
	}
	for _, d := range t.Devices {
		fields := []string{"name: " + quote(d.Name)}
		if d.Tier != "" {
			fields = append(fields, "tier: "+quote(d.Tier))
		}
		if d.Pod != "" {
			fields = append(fields, "pod: "+quote(d.Pod))
		}
		fields = appendTags(fields, d.Tags)
		if g := d.GNMI; g != nil {
			target := []string{"address: " + quote(g.Address)}
			if g.TLS != nil {
				var files []string
				for _, f := range []struct{ key, name string }{{"ca", g.TLS.CA}, {"cert", g.TLS.Cert}, {"key", g.TLS.Key}} {
					if f.name != "" {
						files = append(files, f.key+": "+quote(f.name))
					}
				}
				target = append(target, "tls: {"+strings.Join(files, ", ")+"}")
			}
			fields = append(fields, "gnmi: {"+strings.Join(target, ", ")+"}")
		}
		fmt.Fprintf(&b, "  - {%s}\n", strings.Join(fields, ", "))
	}
	if len(t.Hosts) > 0 {
		b.WriteString("hosts:\n")
	}
	for _, h := range t.Hosts {
		fields := []string{"name: " + quote(h.Name)}
		if len(h.Addresses) > 0 {
			addrs := make([]string, len(h.Addresses))
			for i, a := range h.Addresses {
				addrs[i] = a.String()
				if a.Is6() {
					addrs[i] = quote(addrs[i])
				}
			}
			fields = append(fields, "addresses: ["+strings.Join(addrs, ", ")+"]")
		}
		fields = appendTags(fields, h.Tags)
		fmt.Fprintf(&b, "  - {%s}\n", strings.Join(fields, ", "))
	}
	if len(t.Links) > 0 {
		b.WriteString("links:\n")
	}
	written := make(map[*Link]bool, len(t.Links))
	for _, l := range t.Links {
		if written[l] {
			continue
		}
		back := t.Reverse(l)
		if back == nil {
			return nil, fmt.Errorf("topology: link %s has no way back: links come in pairs", l.Name)
		}
		written[back] = true
		fields := []string{"a: " + quote(l.From.String())}
		if l.From.Addr.IsValid() {
			fields = append(fields, "a_addr: "+quote(l.From.Addr.String()))
		}
		fields = append(fields, "b: "+quote(l.To.String()))
		if l.To.Addr.IsValid() {
			fields = append(fields, "b_addr: "+quote(l.To.Addr.String()))
		}
		fmt.Fprintf(&b, "  - {%s}\n", strings.Join(fields, ", "))
	}
	if b.Len() == 0 {
		return []byte("devices: []\n"), nil
	}
	return b.Bytes(), nil
}

func appendTags(fields []string, tags map[string]string) []string {
	if len(tags) == 0 {
		return fields
	}
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		pairs = append(pairs, quote(key)+": "+quote(tags[key]))
	}
	return append(fields, "tags: {"+strings.Join(pairs, ", ")+"}")
}

// quote writes text so that it reads back as the same text. Control characters
// do not occur: the check refuses them.
func quote(s string) string {
	if plainWord.MatchString(s) && !slices.Contains(reserved, strings.ToLower(s)) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
