package topology

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"decaf/topology/strictyaml"
)

// Names become tokens of bus subjects and parts of link names, hence the narrow
// alphabets: a letter or digit, then those and the marks given. Interface names
// take what vendors use (Ethernet1/1, ge-0/0/0.0, et-0/0/0:1); a ":" in them is
// harmless since node names have none.
const (
	nodeMarks  = "_-"
	ifaceMarks = "_./:-"
	tagMarks   = "_./-"
)

// named says whether a name is of letters, digits and these marks.
func named[T string | []byte](name T, marks string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && strings.IndexByte(marks, c) >= 0:
		default:
			return false
		}
	}
	return len(name) > 0
}

// Bounds that keep every line [Topology.Marshal] writes within what is read.
const (
	maxName      = 128
	maxTags      = 32
	maxAddresses = 256
	maxFileName  = 4096
)

// plan is a topology not yet checked, with the line of each part when it came
// from a file (0 otherwise).
type plan struct {
	site    string
	devices []*Device
	hosts   []*Host
	cables  []Cable

	siteLine   int
	deviceLine []int
	hostLine   []int
	addrLine   [][]int // per host, per address
	cableLine  []cableLines
}

type cableLines struct{ a, aAddr, aAddr6, b, bAddr, bAddr6 int }

// line reads a line table that may be absent.
func line(table []int, i int) int {
	if i < len(table) {
		return table[i]
	}
	return 0
}

func (p *plan) addressLine(host, i int) int {
	if host < len(p.addrLine) {
		return line(p.addrLine[host], i)
	}
	return 0
}

func (p *plan) cableLines(i int) cableLines {
	if i < len(p.cableLine) {
		return p.cableLine[i]
	}
	return cableLines{}
}

// build checks the plan, noting mistakes in doc, and makes the topology when
// there are none, neither old nor new.
func (p *plan) build(doc *strictyaml.Doc) (*Topology, error) {
	p.checkNames(doc)
	p.checkCables(doc)
	p.checkAddresses(doc)
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return &Topology{Site: p.site, Devices: p.devices, Hosts: p.hosts, Links: linkCables(p.cables)}, nil
}

// seen is where a name or address was first used.
type seen struct {
	what string
	line int
}

// first says so in a message: " (first on line 3)".
func (s seen) first() string {
	if s.line == 0 {
		return ""
	}
	return " (first on line " + strconv.Itoa(s.line) + ")"
}

func (p *plan) checkNames(doc *strictyaml.Doc) {
	if p.site != "" {
		checkName(doc, p.siteLine, "site", p.site)
	}
	names := make(map[string]seen, len(p.devices)+len(p.hosts))
	take := func(line int, what, name string) {
		if !checkName(doc, line, what, name) {
			return
		}
		if was, twice := names[name]; twice {
			doc.Errorf(line, "%s %q has the name of another %s%s: names must differ, of devices and hosts alike", what, name, was.what, was.first())
			return
		}
		names[name] = seen{what, line}
	}
	for i, d := range p.devices {
		at := line(p.deviceLine, i)
		take(at, "device", d.Name)
		for _, word := range []struct{ what, text string }{{"tier", d.Tier}, {"pod", d.Pod}} {
			if word.text != "" {
				checkName(doc, at, word.what+" of device "+strconv.Quote(d.Name), word.text)
			}
		}
		checkTags(doc, at, d.Name, d.Tags)
		if d.GNMI != nil {
			checkGNMI(doc, at, d.Name, d.GNMI)
		}
	}
	for i, h := range p.hosts {
		at := line(p.hostLine, i)
		take(at, "host", h.Name)
		checkTags(doc, at, h.Name, h.Tags)
		if len(h.Addresses) > maxAddresses {
			doc.Errorf(at, "host %s has %d addresses: at most %d", h.Name, len(h.Addresses), maxAddresses)
		}
	}
}

func checkName(doc *strictyaml.Doc, line int, what, name string) bool {
	switch {
	case name == "":
		doc.Errorf(line, "%s has no name", what)
	case len(name) > maxName:
		doc.Errorf(line, "%s name of %d characters: at most %d", what, len(name), maxName)
	case !named(name, nodeMarks):
		doc.Errorf(line, "%s %q: use letters, digits, - and _ only, beginning with a letter or digit", what, name)
	default:
		return true
	}
	return false
}

func checkTags(doc *strictyaml.Doc, line int, node string, tags map[string]string) {
	if len(tags) > maxTags {
		doc.Errorf(line, "%s has %d tags: at most %d", node, len(tags), maxTags)
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		value := tags[key]
		if len(key) > maxName || !named(key, tagMarks) {
			doc.Errorf(line, "tag %q of %s: use letters, digits and -_./ only", key, node)
		}
		if len(value) > 2*maxName || !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) {
			doc.Errorf(line, "tag %s of %s: its value must be printable text of at most %d bytes", key, node, 2*maxName)
		}
	}
}

func checkGNMI(doc *strictyaml.Doc, line int, node string, g *GNMI) {
	host, port, err := net.SplitHostPort(g.Address)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || host == "" || n < 1 || n > 65535 || strings.ContainsFunc(g.Address, func(r rune) bool { return !unicode.IsGraphic(r) || r == ' ' }) {
		doc.Errorf(line, "gnmi address %q of device %s: give host:port, such as 192.0.2.11:9339", g.Address, node)
	}
	if t := g.TLS; t != nil {
		if (t.Cert == "") != (t.Key == "") {
			doc.Errorf(line, "gnmi tls of device %s: give cert and key both, or neither", node)
		}
		for _, f := range []string{t.CA, t.Cert, t.Key} {
			if !fileName(f) {
				doc.Errorf(line, "gnmi tls of device %s: %q is no file name", node, f)
			}
		}
	}
	if (g.Username == "") != (g.PasswordFile == "") {
		doc.Errorf(line, "gnmi of device %s: give username and password_file both, or neither", node)
	}
	// What gRPC metadata can carry.
	if len(g.Username) > maxName || strings.ContainsFunc(g.Username, func(r rune) bool { return r <= ' ' || r > '~' }) {
		doc.Errorf(line, "gnmi username %q of device %s: use at most %d printable ASCII characters without spaces", g.Username, node, maxName)
	}
	if !fileName(g.PasswordFile) {
		doc.Errorf(line, "gnmi password_file of device %s: %q is no file name", node, g.PasswordFile)
	}
}

func fileName(f string) bool {
	return len(f) <= maxFileName && utf8.ValidString(f) && !strings.ContainsFunc(f, unicode.IsControl)
}

func (p *plan) checkCables(doc *strictyaml.Doc) {
	nodes := make(map[string]int32, len(p.devices)+len(p.hosts))
	for _, d := range p.devices {
		nodes[d.Name] = int32(len(nodes))
	}
	for _, h := range p.hosts {
		nodes[h.Name] = int32(len(nodes))
	}
	var names []string                            // sorted, made when first needed
	used := make(map[port]int32, 2*len(p.cables)) // → the line
	end := func(line int, i *Interface) {
		node, known := nodes[i.Node]
		if !known {
			if names == nil {
				names = slices.Sorted(maps.Keys(nodes))
			}
			near := strictyaml.Nearest(i.Node, names)
			if near != "" {
				doc.Errorf(line, "link end %s: no device or host is named %q; did you mean %q?", i, i.Node, near)
			} else {
				doc.Errorf(line, "link end %s: no device or host is named %q", i, i.Node)
			}
			return
		}
		if len(i.Name) > maxName || !named(i.Name, ifaceMarks) {
			doc.Errorf(line, "link end %s: interface name %q: use letters, digits and -_./: only", i, i.Name)
			return
		}
		key := port{node, i.Name}
		if was, twice := used[key]; twice {
			doc.Errorf(line, "interface %s already ends another link%s", i, seen{line: int(was)}.first())
			return
		}
		used[key] = int32(line)
	}
	for i := range p.cables {
		c, at := &p.cables[i], p.cableLines(i)
		end(at.a, &c.A)
		if c.A.Node == c.B.Node && c.A.Name != c.B.Name {
			doc.Errorf(at.b, "link joins %s to itself", c.A.Node)
		}
		end(at.b, &c.B)
	}
}

// checkAddresses finds what would make address → interface ambiguous: an address
// in two places, ends of a link that do not share a subnet, links or hosts
// inside another link's subnet.
func (p *plan) checkAddresses(doc *strictyaml.Doc) {
	owners := make(map[netip.Addr]owner, 2*len(p.cables)+len(p.hosts))
	subnets := make([]subnet, 0, len(p.cables))
	for i := range p.cables {
		c, at := &p.cables[i], p.cableLines(i)
		for _, pair := range [...]struct {
			key          string
			a, b         netip.Prefix
			aLine, bLine int
		}{{"addr", c.A.Addr, c.B.Addr, at.aAddr, at.bAddr}, {"addr6", c.A.Addr6, c.B.Addr6, at.aAddr6, at.bAddr6}} {
			okA := p.checkEnd(doc, pair.aLine, owner(2*i), pair.a, owners)
			okB := p.checkEnd(doc, pair.bLine, owner(2*i+1), pair.b, owners)
			switch a, b := pair.a, pair.b; {
			case !okA || !okB:
			case !a.IsValid() && !b.IsValid(): // unnumbered: traces cannot name it, but it may be drawn
			case !a.IsValid():
				doc.Errorf(at.a, "link %s>%s: a_%s is missing while b_%s is given", &c.A, &c.B, pair.key, pair.key)
			case !b.IsValid():
				doc.Errorf(at.b, "link %s>%s: b_%s is missing while a_%s is given", &c.A, &c.B, pair.key, pair.key)
			case a.Masked() != b.Masked():
				doc.Errorf(pair.bLine, "link %s>%s: %s and %s are not of one subnet", &c.A, &c.B, a, b)
			default:
				subnets = append(subnets, subnet{prefix: a.Masked(), cable: int32(i), line: int32(pair.aLine)})
			}
		}
		if a := c.A.Addr6; a.IsValid() && (!a.Addr().Is6() || !c.A.Addr.IsValid() || !c.A.Addr.Addr().Is4()) {
			doc.Errorf(at.aAddr6, "link %s>%s: a_addr6 is for an IPv6 address beside the IPv4 address in a_addr; a link that has one address has it in a_addr", &c.A, &c.B)
		}
	}
	subnets = p.checkSubnets(doc, subnets)
	for i, h := range p.hosts {
		for j, a := range h.Addresses {
			at := p.addressLine(i, j)
			if wrong := wrongAddr(a); wrong != "" {
				doc.Errorf(at, "address of host %s%s", h.Name, wrong)
				continue
			}
			was, taken := owners[a]
			switch {
			case taken && was == hostOwner(i):
				doc.Errorf(at, "host %s lists %s twice", h.Name, a)
				continue
			case taken && (was.isHost() || p.end(was).Node != h.Name):
				doc.Errorf(at, "overlapping addresses: %s of host %s belongs to %s%s", a, h.Name, p.ownerName(was), p.ownerLine(was, a).first())
				continue
			case !taken:
				owners[a] = hostOwner(i)
			}
			if s, ok := inside(subnets, a); ok {
				if c := &p.cables[s.cable]; c.A.Node != h.Name && c.B.Node != h.Name {
					doc.Errorf(at, "overlapping addresses: %s of host %s lies in %s of the link %s>%s%s", a, h.Name, s.prefix, &c.A, &c.B, seen{line: int(s.line)}.first())
				}
			}
		}
	}
}

// owner is what has an address: an end of a cable, two to each cable, or with
// all bits turned a host. A number, because there may be a million.
type owner int32

func hostOwner(host int) owner { return ^owner(host) }

func (o owner) isHost() bool { return o < 0 }

// end is the interface that an owner is, not being a host.
func (p *plan) end(o owner) *Interface {
	if c := &p.cables[o/2]; o%2 == 0 {
		return &c.A
	} else {
		return &c.B
	}
}

func (p *plan) ownerName(o owner) string {
	if o.isHost() {
		return "host " + p.hosts[^o].Name
	}
	return p.end(o).String()
}

// ownerLine is where the owner was given the address.
func (p *plan) ownerLine(o owner, a netip.Addr) seen {
	if o.isHost() {
		return seen{line: p.addressLine(int(^o), slices.Index(p.hosts[^o].Addresses, a))}
	}
	at, second := p.cableLines(int(o/2)), p.end(o).Addr6.IsValid() && p.end(o).Addr6.Addr() == a
	switch {
	case o%2 == 0 && second:
		return seen{line: at.aAddr6}
	case o%2 == 0:
		return seen{line: at.aAddr}
	case second:
		return seen{line: at.bAddr6}
	}
	return seen{line: at.bAddr}
}

// checkEnd checks one address of an interface, which it may not have.
func (p *plan) checkEnd(doc *strictyaml.Doc, line int, self owner, addr netip.Prefix, owners map[netip.Addr]owner) bool {
	if !addr.IsValid() {
		return true
	}
	i, a := p.end(self), addr.Addr()
	if wrong := wrongAddr(a); wrong != "" {
		doc.Errorf(line, "address of %s%s", i, wrong)
		return false
	}
	if was, taken := owners[a]; taken {
		doc.Errorf(line, "overlapping addresses: %s of %s already belongs to %s%s", a, i, p.ownerName(was), p.ownerLine(was, a).first())
		return false
	}
	owners[a] = self
	return true
}

// wrongAddr says why an address cannot be one node's own; "" when it can.
func wrongAddr(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return " is missing"
	case a.Is4In6():
		return fmt.Sprintf(": write %s as the IPv4 address %s", a, a.Unmap())
	case a.Zone() != "":
		return fmt.Sprintf(": %s has a zone; give a routable address", a)
	case a.IsUnspecified() || a.IsMulticast():
		return fmt.Sprintf(": %s cannot be one node's own address", a)
	}
	return ""
}

// subnet is a cable's.
type subnet struct {
	prefix netip.Prefix
	cable  int32
	line   int32
}

// checkSubnets notes subnets that overlap and gives those that do not, sorted.
func (p *plan) checkSubnets(doc *strictyaml.Doc, all []subnet) []subnet {
	// Prefixes overlap only by one holding the other. Sorted by address and then
	// the wider first, a prefix follows the one that holds it, with only others
	// held by the same between them: so it is enough to look at the last one kept.
	slices.SortFunc(all, func(a, b subnet) int {
		if c := a.prefix.Addr().Compare(b.prefix.Addr()); c != 0 {
			return c
		}
		if c := a.prefix.Bits() - b.prefix.Bits(); c != 0 {
			return c
		}
		return int(a.cable - b.cable)
	})
	kept := all[:0]
	for _, s := range all {
		if n := len(kept); n > 0 && kept[n-1].prefix.Overlaps(s.prefix) {
			was := kept[n-1]
			if was.line > s.line { // blame the later line, as a reader would
				was, s = s, was
			}
			c, o := &p.cables[s.cable], &p.cables[was.cable]
			doc.Errorf(int(s.line), "overlapping addresses: %s of link %s>%s overlaps %s of link %s>%s%s",
				s.prefix, &c.A, &c.B, was.prefix, &o.A, &o.B, seen{line: int(was.line)}.first())
			continue
		}
		kept = append(kept, s)
	}
	return kept
}

// inside finds the subnet that holds an address in a sorted list without overlaps.
func inside(sorted []subnet, a netip.Addr) (subnet, bool) {
	i, found := slices.BinarySearchFunc(sorted, a, func(s subnet, a netip.Addr) int { return s.prefix.Addr().Compare(a) })
	if !found {
		i-- // the last that begins at or before a
	}
	if i >= 0 && sorted[i].prefix.Contains(a) {
		return sorted[i], true
	}
	return subnet{}, false
}
