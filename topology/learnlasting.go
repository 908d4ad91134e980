package topology

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Lasting is the topology of a network of which no file tells, learned again and again
// while it is in use. Devices keep their names, and what the latest walks do not show
// stays for a time: walks go around a link just when it is at fault.
type Lasting struct {
	Topology *Topology
	// Seen is when a part was shown last, ns since 1970: of a cable by its interfaces,
	// "a:eth1 b:eth2", of a host by its name.
	Seen map[string]int64
}

// Shown is what is known of a network at a moment.
type Shown struct {
	Topology *Topology            // [Learn]'s; nil where there is nothing to learn from
	At       map[netip.Addr]int64 // when an address answered, or was an end of a walk, ns
	Hosts    map[string]int64     // hosts that were heard of, whatever they walked, ns
}

// Next is what follows when this is shown at a moment, ns. A cable that is not shown
// stays until it was not for the age given, unless what is shown has its addresses,
// its interfaces or its host elsewhere: then it has gone. So does a host that is at no
// cable, after it was not heard of for as long. The order of all parts follows from
// their names alone. Where what is not shown does not go with what is, all of it goes,
// and dropped says why. Errors: those of [New], of what is shown by itself.
func (l Lasting) Next(site string, s Shown, now int64, age time.Duration) (next Lasting, dropped, err error) {
	if s.Topology == nil {
		s.Topology = &Topology{Site: site}
	}
	if next, dropped = l.next(site, s, now, int64(age)); dropped != nil {
		next, err = Lasting{Topology: l.Topology}.next(site, s, now, int64(age))
	}
	return next, dropped, err
}

func (l Lasting) next(site string, s Shown, now, age int64) (Lasting, error) {
	old := l.Topology
	if old == nil {
		old = &Topology{}
	}
	m := merging{old: old, fresh: s.Topology, seen: make(map[string]int64), used: make(map[string]bool), joined: make(map[[2]string]bool)}
	m.name()
	m.take(s)
	for _, c := range cablesOf(old) {
		if at, ok := l.Seen[c.key()]; ok && now-at < age {
			m.keep(c, at)
		}
	}
	heard := maps.Clone(s.Hosts)
	for name, at := range l.Seen {
		if _, ok := old.Host(name); ok && at > heard[name] {
			if heard == nil {
				heard = make(map[string]int64)
			}
			heard[name] = at
		}
	}
	for name, at := range heard {
		if now-at < age {
			m.hear(name, at)
		}
	}
	top, err := m.build(site)
	return Lasting{Topology: top, Seen: m.seen}, err
}

// oriented turns a cable so that the lesser interface comes first.
func (c Cable) oriented() Cable {
	if c.B.String() < c.A.String() {
		c.A, c.B = c.B, c.A
	}
	return c
}

// key names a cable that is oriented.
func (c Cable) key() string { return c.A.String() + " " + c.B.String() }

// cablesOf gives a topology's, oriented and in order.
func cablesOf(t *Topology) []Cable {
	out := make([]Cable, 0, len(t.Links)/2)
	for i := 0; i+1 < len(t.Links); i += 2 {
		out = append(out, Cable{A: *t.Links[i].From, B: *t.Links[i].To}.oriented())
	}
	sortCables(out)
	return out
}

func sortCables(list []Cable) {
	slices.SortFunc(list, func(a, b Cable) int { return cmp.Compare(a.key(), b.key()) })
}

// merging makes one topology of what was and what is shown.
type merging struct {
	old, fresh *Topology
	now        map[string]string // device as it is shown → its name from now on
	was        map[string]string // device of before → what it is called from now on

	devices map[string]*Device
	hosts   map[string]*Host
	cables  []Cable
	seen    map[string]int64
	used    map[string]bool    // interfaces that have their cable
	joined  map[[2]string]bool // nodes that share one
}

// name finds which device is which: by the addresses of their interfaces. One that
// turns out to be two, or two to be one, keeps the name of the larger part.
func (m *merging) name() {
	shared := make(map[[2]string]int) // device of before, device as shown
	for _, l := range m.old.Links {
		if !l.From.Addr.IsValid() {
			continue
		}
		if i, ok := m.fresh.InterfaceAt(l.From.Addr.Addr()); ok && m.old.isDevice(l.From.Node) && m.fresh.isDevice(i.Node) {
			shared[[2]string{l.From.Node, i.Node}]++
		}
	}
	pairs := slices.SortedFunc(maps.Keys(shared), func(a, b [2]string) int {
		return cmp.Or(-cmp.Compare(shared[a], shared[b]), cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	})
	best := make(map[string]string) // device of before → as shown
	m.now, m.was = make(map[string]string), make(map[string]string)
	taken := make(map[string]bool)
	for _, p := range pairs {
		if best[p[0]] != "" {
			continue
		}
		if best[p[0]] = p[1]; m.now[p[1]] == "" {
			m.now[p[1]], taken[p[0]] = p[0], true
		}
	}
	for _, d := range m.fresh.Devices {
		if m.now[d.Name] != "" {
			continue
		}
		name := d.Name
		for n := 2; taken[name]; n++ {
			name = d.Name + "-" + strconv.Itoa(n)
		}
		m.now[d.Name], taken[name] = name, true
	}
	for before, now := range best {
		m.was[before] = m.now[now]
	}
}

func (t *Topology) isDevice(name string) bool {
	_, ok := t.Device(name)
	return ok
}

// take takes all that is shown.
func (m *merging) take(s Shown) {
	m.devices, m.hosts = make(map[string]*Device), make(map[string]*Host)
	for _, d := range m.fresh.Devices {
		m.devices[m.now[d.Name]] = &Device{Name: m.now[d.Name]}
	}
	for _, h := range m.fresh.Hosts {
		m.hosts[h.Name] = h
	}
	newest := int64(0)
	for _, at := range s.At {
		newest = max(newest, at)
	}
	at := func(i Interface) int64 {
		at := s.At[i.Addr.Addr()]
		if h, ok := m.fresh.Host(i.Node); ok {
			for _, a := range h.Addresses {
				at = max(at, s.At[a])
			}
		}
		return at
	}
	for _, c := range cablesOf(m.fresh) {
		last := max(at(c.A), at(c.B))
		if last == 0 {
			last = newest // a cable without addresses
		}
		for _, end := range []*Interface{&c.A, &c.B} {
			if name, ok := m.now[end.Node]; ok {
				end.Node = name
			}
		}
		m.add(c, last)
	}
}

func (m *merging) add(c Cable, at int64) {
	c = c.oriented()
	m.cables = append(m.cables, c)
	m.seen[c.key()] = at
	m.used[c.A.String()], m.used[c.B.String()] = true, true
	m.joined[[2]string{c.A.Node, c.B.Node}], m.joined[[2]string{c.B.Node, c.A.Node}] = true, true
}

// keep keeps a cable that is not shown, if nothing of it is anywhere else.
func (m *merging) keep(c Cable, at int64) {
	before := [2]string{c.A.Node, c.B.Node}
	for i, end := range []*Interface{&c.A, &c.B} {
		if end.Addr.IsValid() && m.owned(end.Addr.Addr()) {
			return
		}
		if name, ok := m.was[end.Node]; ok {
			end.Node = name
		}
		if h, ok := m.old.Host(before[i]); ok && slices.ContainsFunc(h.Addresses, m.owned) {
			return // it has its one cable, by whatever name
		}
	}
	unaddressed := !c.A.Addr.IsValid() || !c.B.Addr.IsValid()
	if c.A.Node == c.B.Node || m.used[c.A.String()] || m.used[c.B.String()] || unaddressed && m.joined[[2]string{c.A.Node, c.B.Node}] {
		return
	}
	for i, end := range []Interface{c.A, c.B} {
		if h, ok := m.old.Host(before[i]); ok {
			m.hosts[h.Name] = h
		} else if m.devices[end.Node] == nil {
			m.devices[end.Node] = &Device{Name: end.Node}
		}
	}
	m.add(c, at)
}

// owned says whether an address is one of what is shown.
func (m *merging) owned(a netip.Addr) bool {
	if _, ok := m.fresh.InterfaceAt(a); ok {
		return true
	}
	_, ok := m.fresh.HostAt(a)
	return ok
}

// hear takes a host that may be at no cable yet.
func (m *merging) hear(name string, at int64) {
	if m.devices[name] != nil || len(name) > maxName || !named(name, nodeMarks) {
		return
	}
	if m.hosts[name] == nil {
		m.hosts[name] = &Host{Name: name}
	}
	m.seen[name] = at
}

func (m *merging) build(site string) (*Topology, error) {
	devices, hosts := []*Device{}, []*Host{}
	for _, name := range slices.Sorted(maps.Keys(m.devices)) {
		devices = append(devices, m.devices[name])
	}
	for _, name := range slices.Sorted(maps.Keys(m.hosts)) {
		hosts = append(hosts, m.hosts[name])
	}
	sortCables(m.cables)
	return New(site, devices, hosts, m.cables)
}

// lastingFile is a Lasting as it is written.
type lastingFile struct {
	Topology string           `json:"topology"` // YAML
	Seen     map[string]int64 `json:"seen"`
}

// Encode gives the form that [DecodeLasting] reads.
func (l Lasting) Encode() ([]byte, error) {
	text, err := l.Topology.Marshal()
	if err != nil {
		return nil, err
	}
	return json.Marshal(lastingFile{string(text), l.Seen})
}

// DecodeLasting reads what [Lasting.Encode] gave; name is the file's, for errors.
func DecodeLasting(name string, data []byte) (Lasting, error) {
	var f lastingFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Lasting{}, fmt.Errorf("%s: %w", name, err)
	}
	t, err := Parse(name, []byte(f.Topology))
	if err != nil {
		return Lasting{}, err
	}
	return Lasting{Topology: t, Seen: f.Seen}, nil
}
