package replay

import (
	"fmt"
	"math"
	"slices"
)

// Limits of one flow line.
const (
	maxPathNodes  = 64
	maxCandidates = 1 << 15
)

// seen is the set of fields that an object has had, by their place in the list of
// its known ones.
type seen uint32

// field finds a key among the known ones and notes it.
func (s *scan) field(have *seen, key []byte, known ...string) (string, error) {
	for i, k := range known {
		if string(key) != k {
			continue
		}
		if *have&(1<<i) != 0 {
			return "", s.errorf("field %q is given twice", k)
		}
		*have |= 1 << i
		return k, nil
	}
	return "", s.errorf("unknown field %q: the known ones are %q", key, known)
}

// need says which field is missing, if any of the first n is.
func (s *scan) need(have seen, n int, known ...string) error {
	for i, k := range known[:n] {
		if have&(1<<i) == 0 {
			return s.errorf("field %q is missing", k)
		}
	}
	return nil
}

// topology reads the value of a topology line.
func (r *Reader) topology() error {
	s := &r.scan
	t := NewTopology()
	var have seen
	err := s.object(func(key []byte) error {
		name, err := s.field(&have, key, "links", "hosts")
		switch {
		case err != nil:
			return err
		case name == "links":
			return s.array(func() error {
				a, b, err := r.names()
				if err != nil {
					return err
				}
				if err := t.AddLink(a, b); err != nil {
					return s.errorf("%v", err)
				}
				return nil
			})
		}
		return s.object(func(host []byte) error {
			h := string(host)
			tor, err := s.str()
			if err != nil {
				return err
			}
			if err := t.AddHost(h, string(tor)); err != nil {
				return s.errorf("%v", err)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if err := s.need(have, 2, "links", "hosts"); err != nil {
		return err
	}
	r.topo = t
	return nil
}

// names reads a pair of names.
func (r *Reader) names() (a, b string, err error) {
	s := &r.scan
	if err := s.want('['); err != nil {
		return "", "", err
	}
	x, err := s.str()
	if err != nil {
		return "", "", err
	}
	a = string(x)
	if err := s.want(','); err != nil {
		return "", "", err
	}
	if x, err = s.str(); err != nil {
		return "", "", err
	}
	return a, string(x), s.want(']')
}

// object reads an object; each is called with every key and reads its value.
func (s *scan) object(each func(key []byte) error) error {
	if err := s.want('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := s.more('}', first)
		if err != nil || !more {
			return err
		}
		key, err := s.key()
		if err != nil {
			return err
		}
		if err := each(key); err != nil {
			return err
		}
	}
}

// array reads an array; each reads one item.
func (s *scan) array(each func() error) error {
	if err := s.want('['); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := s.more(']', first)
		if err != nil || !more {
			return err
		}
		if err := each(); err != nil {
			return err
		}
	}
}

// node reads the name of a node of the topology.
func (r *Reader) node() (NodeID, error) {
	name, err := r.scan.str()
	if err != nil {
		return 0, err
	}
	n, ok := r.topo.byName[string(name)]
	if !ok {
		return 0, r.scan.errorf("the topology has no %q", name)
	}
	return n, nil
}

// as reads the name of a node that is a host, or that is a device.
func (r *Reader) as(what role) (NodeID, error) {
	n, err := r.node()
	if err != nil || r.topo.role[n] == what {
		return n, err
	}
	if what == roleHost {
		return 0, r.scan.errorf("%q is a switch, not a host", r.topo.names[n])
	}
	return 0, r.scan.errorf("%q is a host, not a device", r.topo.names[n])
}

// link reads a link as a pair of names.
func (r *Reader) link() (LinkID, error) {
	s := &r.scan
	if err := s.want('['); err != nil {
		return 0, err
	}
	a, err := r.node()
	if err != nil {
		return 0, err
	}
	if err := s.want(','); err != nil {
		return 0, err
	}
	b, err := r.node()
	if err != nil {
		return 0, err
	}
	l, ok := r.topo.Link(a, b)
	if !ok {
		return 0, s.errorf("the topology has no link %s>%s", r.topo.names[a], r.topo.names[b])
	}
	return l, s.want(']')
}

// between reads a first and a last time.
func (r *Reader) between() (b Between, err error) {
	s := &r.scan
	if err := s.want('['); err != nil {
		return b, err
	}
	if b.FirstNS, err = s.number(); err != nil {
		return b, err
	}
	if err := s.want(','); err != nil {
		return b, err
	}
	if b.LastNS, err = s.number(); err != nil {
		return b, err
	}
	if b.LastNS < b.FirstNS {
		return b, s.errorf("between_ns ends at %d, before it starts at %d", b.LastNS, b.FirstNS)
	}
	if !b.Known() {
		return b, s.errorf("between_ns of 0 and 0: leave it out where the time is not known")
	}
	return b, s.want(']')
}

var flowFields = []string{"src", "dst", "packets", "retransmits", "path", "paths", "between_ns"}

// flow reads the value of a flow line.
func (r *Reader) flow() error {
	s, e := &r.scan, r.epoch
	if len(e.Flows) >= r.limits.Flows {
		return s.errorf("more than %d flows in one epoch", r.limits.Flows)
	}
	var have seen
	f := Flow{first: uint32(len(e.ends))}
	firstLink := len(e.links)
	err := s.object(func(key []byte) error {
		name, err := s.field(&have, key, flowFields...)
		if err != nil {
			return err
		}
		switch name {
		case "src":
			f.Src, err = r.as(roleHost)
		case "dst":
			f.Dst, err = r.as(roleHost)
		case "packets":
			f.Packets, err = s.number()
		case "retransmits":
			f.Retransmits, err = s.number()
		case "between_ns":
			f.Between, err = r.between()
		case "path":
			err = r.path(&f)
		case "paths":
			f.Candidates = true
			err = s.array(func() error {
				if f.count >= maxCandidates {
					return s.errorf("more than %d candidate paths", maxCandidates)
				}
				return r.path(&f)
			})
			if err == nil && f.count == 0 {
				err = s.errorf("no candidates in paths: leave it out where nothing is known")
			}
		}
		return err
	})
	if err == nil {
		err = s.need(have, 4, flowFields...)
	}
	if err == nil {
		err = r.checkFlow(&f, have)
	}
	if err != nil {
		e.links, e.ends = e.links[:firstLink], e.ends[:f.first]
		return err
	}
	e.Flows = append(e.Flows, f)
	return nil
}

func (r *Reader) checkFlow(f *Flow, have seen) error {
	s, t, e := &r.scan, r.topo, r.epoch
	const path, paths = 1 << 4, 1 << 5
	switch {
	case have&path != 0 && have&paths != 0:
		return s.errorf("both path and paths: give the one it took, or the candidates")
	case f.Between.Known() && f.Retransmits == 0:
		return s.errorf("between_ns of a flow without retransmits: it is when they were")
	case f.Src == f.Dst:
		return s.errorf("a flow from %q to itself", t.names[f.Src])
	}
	for k := range int(f.count) {
		p := e.Path(f, k)
		if t.from[p[0]] != f.Src {
			return s.errorf("the path begins at %q, not at the source %q", t.names[t.from[p[0]]], t.names[f.Src])
		}
		for i, l := range p {
			if to := t.to[l]; t.role[to] == roleHost && (i < len(p)-1 || to != f.Dst) {
				return s.errorf("the path goes through the host %q", t.names[to])
			}
		}
		if f.Candidates && t.to[p[len(p)-1]] != f.Dst {
			return s.errorf("a candidate path ends at %q, not at the destination %q", t.names[t.to[p[len(p)-1]]], t.names[f.Dst])
		}
	}
	return nil
}

// path reads one path into the epoch.
func (r *Reader) path(f *Flow) error {
	s, e := &r.scan, r.epoch
	nodes, last := 0, NodeID(0)
	err := s.array(func() error {
		n, err := r.node()
		if err != nil {
			return err
		}
		if nodes++; nodes > maxPathNodes {
			return s.errorf("a path of more than %d nodes", maxPathNodes)
		}
		if nodes > 1 {
			l, ok := r.topo.Link(last, n)
			if !ok {
				return s.errorf("the topology has no link %s>%s", r.topo.names[last], r.topo.names[n])
			}
			e.links = append(e.links, l)
		}
		last = n
		return nil
	})
	if err != nil {
		return err
	}
	if nodes < 2 {
		return s.errorf("a path of %d nodes has no link: leave it out where nothing is known", nodes)
	}
	if len(e.links) > min(r.limits.Links, math.MaxUint32) {
		return s.errorf("more than %d links in the paths of one epoch", r.limits.Links)
	}
	e.closePath(f)
	return nil
}

var dropFields = []string{"device", "class", "from", "to", "count", "between_ns"}

// drop reads the value of a drop line.
func (r *Reader) drop() error {
	s, e, t := &r.scan, r.epoch, r.topo
	if len(e.Drops) >= r.limits.Drops {
		return s.errorf("more than %d drops in one epoch", r.limits.Drops)
	}
	var have seen
	d := Drop{From: None, To: None, Count: 1}
	err := s.object(func(key []byte) error {
		name, err := s.field(&have, key, dropFields...)
		if err != nil {
			return err
		}
		switch name {
		case "device":
			d.Device, err = r.as(roleSwitch)
		case "from":
			d.From, err = r.node()
		case "to":
			d.To, err = r.node()
		case "class":
			d.Class, err = r.class()
		case "count":
			d.Count, err = s.number()
		case "between_ns":
			d.Between, err = r.between()
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := s.need(have, 2, dropFields...); err != nil {
		return err
	}
	for _, n := range []NodeID{d.From, d.To} {
		if _, ok := t.Link(d.Device, n); n != None && !ok {
			return s.errorf("%q is no neighbour of %q", t.names[n], t.names[d.Device])
		}
	}
	e.Drops = append(e.Drops, d)
	return nil
}

// maxClasses bounds the different class names of a file.
const maxClasses = 1 << 16

// class reads a class name, interned.
func (r *Reader) class() (string, error) {
	b, err := r.scan.str()
	if err != nil {
		return "", err
	}
	if c, ok := r.classes[string(b)]; ok {
		return c, nil
	}
	switch {
	case len(b) == 0:
		return "", r.scan.errorf("class is empty; write unknown")
	case len(b) > maxName:
		return "", r.scan.errorf("a class of %d bytes: at most %d", len(b), maxName)
	case len(r.classes) >= maxClasses:
		return "", r.scan.errorf("more than %d classes", maxClasses)
	}
	c := string(b)
	r.classes[c] = c
	return c, nil
}

// instrumented reads the value of an instrumented line.
func (r *Reader) instrumented() error {
	s := &r.scan
	var have seen
	var n NodeID
	err := s.object(func(key []byte) error {
		if _, err := s.field(&have, key, "device"); err != nil {
			return err
		}
		var err error
		n, err = r.as(roleSwitch)
		return err
	})
	if err != nil {
		return err
	}
	if err := s.need(have, 1, "device"); err != nil {
		return err
	}
	if r.agents[n] {
		return s.errorf("%q is instrumented already", r.topo.names[n])
	}
	r.agents[n] = true
	r.epoch.Instrumented = append(r.epoch.Instrumented, n)
	return nil
}

// times reads the value of an epoch line.
func (r *Reader) times() (start, end uint64, err error) {
	s := &r.scan
	var have seen
	err = s.object(func(key []byte) error {
		name, err := s.field(&have, key, "start_ns", "end_ns")
		if err != nil {
			return err
		}
		n, err := s.number()
		if name == "start_ns" {
			start = n
		} else {
			end = n
		}
		return err
	})
	if err == nil {
		err = s.need(have, 2, "start_ns", "end_ns")
	}
	if err == nil && end < start {
		err = s.errorf("the epoch ends at %d, before it starts at %d", end, start)
	}
	return start, end, err
}

// truth reads the value of a truth line. Its flows may come later: they are checked
// when the epoch ends.
func (r *Reader) truth() error {
	s := &r.scan
	if r.epoch.Truth != nil {
		return s.errorf("the epoch has its truth already")
	}
	var have seen
	var t Truth
	err := s.object(func(key []byte) error {
		name, err := s.field(&have, key, "links", "devices", "hosts", "causes")
		if err != nil {
			return err
		}
		return s.array(func() error {
			switch name {
			case "links":
				l, err := r.link()
				t.Links = append(t.Links, l)
				return err
			case "devices":
				n, err := r.as(roleSwitch)
				t.Devices = append(t.Devices, n)
				return err
			case "hosts":
				n, err := r.as(roleHost)
				t.Hosts = append(t.Hosts, n)
				return err
			}
			c, err := r.cause()
			t.Causes = append(t.Causes, c)
			return err
		})
	})
	if err != nil {
		return err
	}
	for _, twice := range []bool{repeats(t.Links), repeats(t.Devices), repeats(t.Hosts)} {
		if twice {
			return s.errorf("a component is given twice")
		}
	}
	r.epoch.Truth, r.truthLine = &t, r.line
	return nil
}

func repeats[T ~int32](list []T) bool {
	sorted := slices.Sorted(slices.Values(list))
	return len(slices.Compact(sorted)) < len(list)
}

// cause reads one; its flow counts from 1 through the file.
func (r *Reader) cause() (Cause, error) {
	s := &r.scan
	var have seen
	var c Cause
	err := s.object(func(key []byte) error {
		name, err := s.field(&have, key, "flow", "link")
		if err != nil {
			return err
		}
		if name == "link" {
			c.Link, err = r.link()
			return err
		}
		n, err := s.number()
		if first := uint64(r.epoch.FirstFlow); err == nil && (n <= first || n-first > math.MaxInt32) {
			return s.errorf("flow %d is not of this epoch, whose first is %d", n, first+1)
		}
		c.Flow = int32(n - uint64(r.epoch.FirstFlow) - 1)
		return err
	})
	if err == nil {
		err = s.need(have, 2, "flow", "link")
	}
	return c, err
}

// checkTruth looks for flows that never came.
func (r *Reader) checkTruth() error {
	e := r.epoch
	if e.Truth == nil {
		return nil
	}
	for _, c := range e.Truth.Causes {
		if int(c.Flow) >= len(e.Flows) {
			return &LineError{r.truthLine, fmt.Errorf("a cause names flow %d, but the epoch ends with %d", e.FirstFlow+int(c.Flow)+1, e.FirstFlow+len(e.Flows))}
		}
	}
	return nil
}
