package topology

import (
	"bytes"
	"net/netip"
	"unicode"
	"unicode/utf8"

	"decaf/topology/strictyaml"
)

// parseLines reads the form that [Topology.Marshal] writes: one device, host or
// cable a line, in flow style, keys in any order. A topology of a million links
// is read in seconds, which a general YAML parser needs minutes and many GiB for.
//
// It takes nothing that the general reader takes otherwise: at the first line
// that is not of this form, wrong or merely written in another way, it gives up
// and returns the line's number; the general reader then has the word, and finds
// what to say about it. 0 is success.
func parseLines(data []byte) (p *plan, odd int) {
	r := lineReader{p: &plan{}, words: make(map[string]string)}
	sections := []struct {
		head string
		item func(*cursor) bool
	}{
		{"devices:", r.device}, {"hosts:", r.host}, {"links:", r.cable},
	}
	n := bytes.Count(data, []byte("\n  - {a: "))
	r.p.cables, r.p.cableLine = make([]Cable, 0, n), make([]cableLines, 0, n)
	section, items := -1, 1
	for len(data) > 0 {
		r.line++
		text, rest, ended := bytes.Cut(data, []byte{'\n'})
		data = rest
		if !ended || len(text) >= strictyaml.MaxLine {
			return nil, r.line
		}
		c := cursor{rest: text}
		if section >= 0 && c.skip("  - ") {
			if !sections[section].item(&c) || len(c.rest) > 0 {
				return nil, r.line
			}
			items++
			continue
		}
		if r.line == 1 && c.skip("site: ") {
			site, ok := c.scalar()
			if !ok || len(c.rest) > 0 {
				return nil, r.line
			}
			r.p.site, r.p.siteLine = string(site), r.line
			continue
		}
		next := section + 1
		for next < len(sections) && string(text) != sections[next].head {
			next++
		}
		if next == len(sections) || items == 0 {
			return nil, r.line
		}
		section, items = next, 0
	}
	if section < 0 || items == 0 {
		return nil, max(1, r.line)
	}
	return r.p, 0
}

// lineReader fills a plan.
type lineReader struct {
	p     *plan
	line  int
	words map[string]string // each name once, however often it stands in the file
}

func (r *lineReader) word(b []byte) string {
	if s, ok := r.words[string(b)]; ok {
		return s
	}
	s := string(b)
	r.words[s] = s
	return s
}

// text reads a scalar into a field that is given once at most.
func (r *lineReader) text(c *cursor, field *string, given *bool) bool {
	b, ok := c.scalar()
	if !ok || *given {
		return false
	}
	*field, *given = r.word(b), true
	return true
}

func (r *lineReader) device(c *cursor) bool {
	d := &Device{}
	var name, tier, pod, tags, gnmi bool
	ok := c.mapping(func(key []byte) bool {
		switch string(key) {
		case "name":
			return r.text(c, &d.Name, &name)
		case "tier":
			return r.text(c, &d.Tier, &tier)
		case "pod":
			return r.text(c, &d.Pod, &pod)
		case "tags":
			return r.tags(c, &d.Tags, &tags)
		case "gnmi":
			if gnmi {
				return false
			}
			gnmi, d.GNMI = true, &GNMI{}
			return r.gnmi(c, d.GNMI)
		}
		return false
	})
	r.p.devices = append(r.p.devices, d)
	r.p.deviceLine = append(r.p.deviceLine, r.line)
	return ok
}

func (r *lineReader) gnmi(c *cursor, g *GNMI) bool {
	var address, tls, ca, cert, key, username, password bool
	return c.mapping(func(k []byte) bool {
		switch string(k) {
		case "address":
			return r.text(c, &g.Address, &address)
		case "username":
			return r.text(c, &g.Username, &username)
		case "password_file":
			return r.text(c, &g.PasswordFile, &password)
		case "tls":
			if tls {
				return false
			}
			tls, g.TLS = true, &TLS{}
			return c.mapping(func(k []byte) bool {
				switch string(k) {
				case "ca":
					return r.text(c, &g.TLS.CA, &ca)
				case "cert":
					return r.text(c, &g.TLS.Cert, &cert)
				case "key":
					return r.text(c, &g.TLS.Key, &key)
				}
				return false
			})
		}
		return false
	}) && address
}

func (r *lineReader) host(c *cursor) bool {
	h := &Host{}
	var name, addresses, tags bool
	ok := c.mapping(func(key []byte) bool {
		switch string(key) {
		case "name":
			return r.text(c, &h.Name, &name)
		case "addresses":
			if addresses {
				return false
			}
			addresses = true
			return c.list(func() bool {
				b, ok := c.scalar()
				if !ok {
					return false
				}
				a, err := netip.ParseAddr(string(b))
				h.Addresses = append(h.Addresses, a)
				return err == nil
			})
		case "tags":
			return r.tags(c, &h.Tags, &tags)
		}
		return false
	})
	lines := make([]int, len(h.Addresses))
	for i := range lines {
		lines[i] = r.line
	}
	r.p.hosts = append(r.p.hosts, h)
	r.p.hostLine = append(r.p.hostLine, r.line)
	r.p.addrLine = append(r.p.addrLine, lines)
	return ok
}

func (r *lineReader) tags(c *cursor, tags *map[string]string, given *bool) bool {
	if *given {
		return false
	}
	*given, *tags = true, make(map[string]string)
	return c.mapping(func(key []byte) bool {
		if _, twice := (*tags)[string(key)]; twice {
			return false
		}
		k := r.word(key)
		value, ok := c.scalar()
		(*tags)[k] = r.word(value)
		return ok
	})
}

func (r *lineReader) cable(c *cursor) bool {
	var cable Cable
	var a, aAddr, aAddr6, b, bAddr, bAddr6 bool
	ok := c.mapping(func(key []byte) bool {
		switch string(key) {
		case "a":
			return r.end(c, &cable.A, &a)
		case "b":
			return r.end(c, &cable.B, &b)
		case "a_addr":
			return endAddress(c, &cable.A.Addr, &aAddr)
		case "b_addr":
			return endAddress(c, &cable.B.Addr, &bAddr)
		case "a_addr6":
			return endAddress(c, &cable.A.Addr6, &aAddr6)
		case "b_addr6":
			return endAddress(c, &cable.B.Addr6, &bAddr6)
		}
		return false
	})
	r.p.cables = append(r.p.cables, cable)
	r.p.cableLine = append(r.p.cableLine, cableLines{r.line, r.line, r.line, r.line, r.line, r.line})
	return ok && a && b
}

func (r *lineReader) end(c *cursor, i *Interface, given *bool) bool {
	text, ok := c.scalar()
	node, name, cut := bytes.Cut(text, []byte{':'})
	if !ok || *given || !cut || len(node) == 0 || len(name) == 0 {
		return false
	}
	i.Node, i.Name, *given = r.word(node), r.word(name), true
	return true
}

func endAddress(c *cursor, to *netip.Prefix, given *bool) bool {
	text, ok := c.scalar()
	if !ok || *given {
		return false
	}
	prefix, err := netip.ParsePrefix(string(text))
	*to, *given = prefix, true
	return err == nil
}

// cursor reads a line from the left.
type cursor struct {
	rest []byte
	buf  []byte // for text with escapes
}

// skip takes exactly this, if it comes next.
func (c *cursor) skip(s string) bool {
	if len(c.rest) < len(s) || string(c.rest[:len(s)]) != s {
		return false
	}
	c.rest = c.rest[len(s):]
	return true
}

// mapping reads {key: value, …}, at least one; each reads the value of a key.
func (c *cursor) mapping(each func(key []byte) bool) bool {
	if !c.skip("{") {
		return false
	}
	for {
		key, ok := c.scalar()
		// Of keys YAML has some of its own, such as "<<"; none is a word.
		if !ok || !named(key, tagMarks) || !c.skip(": ") || !each(key) {
			return false
		}
		if c.skip("}") {
			return true
		}
		if !c.skip(", ") {
			return false
		}
	}
}

// list reads [value, …], at least one.
func (c *cursor) list(each func() bool) bool {
	if !c.skip("[") {
		return false
	}
	for each() {
		if c.skip("]") {
			return true
		}
		if !c.skip(", ") {
			return false
		}
	}
	return false
}

// scalar reads text in double quotes, a plain word, or a plain IPv4 address with
// or without a length. It is valid until the next call.
func (c *cursor) scalar() ([]byte, bool) {
	if c.skip(`"`) {
		return c.quoted()
	}
	n := 0
	for n < len(c.rest) && plainByte(c.rest[n]) {
		n++
	}
	word := c.rest[:n]
	c.rest = c.rest[n:]
	return word, plainWord(word) || plainAddress(word)
}

func plainByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '_' || b == '.' || b == '/'
}

// plainAddress says whether text is digits, three dots among them, and perhaps a
// length: nothing that YAML takes for a number.
func plainAddress(b []byte) bool {
	addr, length, cut := bytes.Cut(b, []byte{'/'})
	dots := 0
	for i, d := range addr {
		switch {
		case '0' <= d && d <= '9':
		case d == '.' && i > 0 && addr[i-1] != '.':
			dots++
		default:
			return false
		}
	}
	for _, d := range length {
		if d < '0' || d > '9' {
			return false
		}
	}
	return dots == 3 && addr[len(addr)-1] != '.' && cut == (len(length) > 0)
}

// quoted reads on after an opening quote, through the closing one.
func (c *cursor) quoted() ([]byte, bool) {
	c.buf = c.buf[:0]
	escaped, ascii := false, true
	for i := 0; i < len(c.rest); i++ {
		switch b := c.rest[i]; {
		case b == '"':
			text := c.rest[:i]
			if escaped {
				text = c.buf
			}
			c.rest = c.rest[i+1:]
			return text, ascii || utf8.Valid(text) && !bytes.ContainsFunc(text, unprintable)
		case b == '\\':
			if !escaped {
				escaped, c.buf = true, append(c.buf, c.rest[:i]...)
			}
			if i++; i == len(c.rest) || c.rest[i] != '"' && c.rest[i] != '\\' {
				return nil, false
			}
			c.buf = append(c.buf, c.rest[i])
		case b < ' ' || b == 0x7f:
			return nil, false
		default:
			if b >= utf8.RuneSelf {
				ascii = false
			}
			if escaped {
				c.buf = append(c.buf, b)
			}
		}
	}
	return nil, false
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
