package scenario

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"decaf/topology"
	"decaf/topology/strictyaml"
)

// Bounds of a scenario file.
const (
	maxBytes   = 1 << 20
	maxItems   = 1000 // faults, reports, expectations of each kind
	maxWindows = 10000
	maxSays    = 1000
	// maxClosSide bounds each number of the fabric; the Clos builder bounds their
	// products.
	maxClosSide = 1 << 10
)

var (
	scenarioName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	className    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)*$`)
)

// Load reads a scenario file. Errors are lines of "file:line: what".
func Load(path string) (*Scenario, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("scenario: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("scenario: read %s: %w", path, err)
	}
	return Parse(path, data)
}

// Default is the scenario of an empty file, but for the name and the duration
// that every file must give: the traffic of the small Clos.
func Default() *Scenario {
	return &Scenario{
		Fabric: Fabric{Kind: "clos", ClosSpec: topology.ClosSpec{Site: "sim", Pods: 2, ToRs: 2, T1s: 2, T2s: 2, Hosts: 2}},
		Traffic: Traffic{
			ConnectionsPerHost: 10,
			PacketsMin:         1,
			PacketsMax:         100,
			Pattern:            Pattern{Kind: "uniform"},
		},
		Instrumented: 1,
	}
}

// Parse reads a scenario; file serves messages only. All that can be known
// without running it is checked: components, hosts and tiers exist in the
// fabric, faults and reports that are referred to exist, times lie within the
// run. The error joins one "file:line: what" for each thing wrong, up to a limit.
func Parse(file string, data []byte) (*Scenario, error) {
	if len(data) > maxBytes {
		return nil, &strictyaml.Error{File: file, What: fmt.Sprintf("more than %d bytes: no scenario is that long", maxBytes)}
	}
	doc, root, err := strictyaml.Parse(file, data)
	if err != nil {
		return nil, err
	}
	if !root.Present() {
		root.Errorf("the scenario is empty: give at least name, fabric and duration")
		return nil, doc.Err()
	}
	r := &reader{s: Default()}
	r.read(root)
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return r.s, nil
}

// reader fills a scenario from a file.
type reader struct {
	s *Scenario
	t *topology.Topology // nil when the fabric cannot be built
}

func (r *reader) read(root strictyaml.Value) {
	f := root.Fields("name", "fabric", "traffic", "noise", "duration", "seed", "faults", "reports", "expect",
		"instrumented", "lying", "agents_late", "trace_budget")
	if !f.Present() {
		return
	}
	s := r.s
	if v := f.Need("name"); v.Present() {
		if s.Name = v.Text(); len(s.Name) > 100 || !scenarioName.MatchString(s.Name) {
			v.Errorf("name %q: use letters, digits, -, _ and . only", s.Name)
		}
	}
	if v := f.Need("duration"); v.Present() {
		if s.Duration = duration(v); s.Duration == 0 {
			v.Errorf("duration must be above 0")
		}
	}
	// What the traffic speaks is what the fabric's interfaces have addresses of.
	traffic := f.Get("traffic").Fields("ip", "connections_per_host", "packets", "pattern")
	s.Fabric.IP = read(traffic.Get("ip"), topology.ParseIP, s.Fabric.IP)
	r.fabric(f.Need("fabric"))
	r.traffic(traffic)
	s.Noise = read(f.Get("noise"), parseShare, 0)
	s.Instrumented = read(f.Get("instrumented"), parseShare, 1)
	s.Lying = read(f.Get("lying"), parseShare, 0)
	s.AgentsLate = duration(f.Get("agents_late"))
	if v := f.Get("trace_budget"); v.Present() {
		if s.TraceBudget = read(v, parseRate, 0); s.TraceBudget == 0 {
			v.Errorf("trace_budget must be above 0; leave it out for the agents' own")
		}
	}
	s.Seed = read(f.Get("seed"), func(t string) (uint64, error) {
		n, err := strconv.ParseUint(t, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("seed %q is no whole number from 0 to 2^64-1", t)
		}
		return n, nil
	}, 0)
	for _, v := range items(f.Get("faults")) {
		r.fault(v)
	}
	for _, v := range items(f.Get("reports")) {
		r.report(v)
	}
	r.expect(f.Get("expect"))
}

// read parses a value's text, or gives otherwise when it is missing.
func read[T any](v strictyaml.Value, parse func(string) (T, error), otherwise T) T {
	text, ok := v.Scalar()
	if !ok {
		return otherwise // missing, or noted
	}
	if text == "" {
		v.Errorf("%s is empty", v.Name())
		return otherwise
	}
	got, err := parse(text)
	if err != nil {
		v.Errorf("%s: %v", v.Name(), err)
		return otherwise
	}
	return got
}

func duration(v strictyaml.Value) time.Duration { return read(v, parseDuration, 0) }

func items(v strictyaml.Value) []strictyaml.Value {
	all := v.List()
	if len(all) > maxItems {
		v.Errorf("%s has %d items: at most %d", v.Name(), len(all), maxItems)
		return nil
	}
	return all
}

func (r *reader) fabric(v strictyaml.Value) {
	f := v.Fields("kind", "pods", "tors", "t1", "t2", "hosts")
	if !f.Present() {
		return
	}
	kind := f.Need("kind")
	if kind.Present() && kind.Text() != "clos" {
		kind.Errorf("fabric kind %q is not known; use clos", kind.Text())
		return
	}
	d := r.s.Fabric.ClosSpec
	r.s.Fabric.ClosSpec = topology.ClosSpec{
		Site:  d.Site,
		Pods:  f.Get("pods").Int(1, maxClosSide, d.Pods),
		ToRs:  f.Get("tors").Int(1, maxClosSide, d.ToRs),
		T1s:   f.Get("t1").Int(0, maxClosSide, d.T1s),
		T2s:   f.Get("t2").Int(0, maxClosSide, d.T2s),
		Hosts: f.Get("hosts").Int(1, maxClosSide, d.Hosts),
		IP:    d.IP,
	}
	t, err := topology.Clos(r.s.Fabric.ClosSpec)
	if err != nil {
		v.Errorf("fabric: %v", err)
		return
	}
	r.t = t
}

func (r *reader) traffic(f strictyaml.Fields) {
	tr := &r.s.Traffic
	tr.ConnectionsPerHost = read(f.Get("connections_per_host"), parseRate, tr.ConnectionsPerHost)
	packets := read(f.Get("packets"), parseRange, span{tr.PacketsMin, tr.PacketsMax})
	tr.PacketsMin, tr.PacketsMax = packets.lo, packets.hi
	p := f.Get("pattern")
	tr.Pattern = read(p, parsePattern, tr.Pattern)
	if tr.Pattern.Kind == "hot" && r.t != nil {
		if d, ok := r.t.Device(tr.Pattern.ToR); !ok || d.Tier != "tor" {
			p.Errorf("pattern: no tor is named %q%s", tr.Pattern.ToR, r.near(tr.Pattern.ToR, r.tierNodes("tor")))
		}
	}
}

func (r *reader) tierNodes(tier string) []string {
	var names []string
	for _, d := range r.t.Devices {
		if d.Tier == tier {
			names = append(names, d.Name)
		}
	}
	return names
}

// near is the end of a message about an unknown name.
func (r *reader) near(name string, known []string) string {
	if n := strictyaml.Nearest(name, known); n != "" {
		return fmt.Sprintf("; did you mean %q?", n)
	}
	return " in this fabric"
}

func (r *reader) fault(v strictyaml.Value) {
	f := v.Fields("at", "for", "every", "on", "kind", "rate", "match")
	ft := Fault{Rate: 1}
	// Appended whatever is wrong with it, so that later "fault N" count right.
	defer func() { r.s.Faults = append(r.s.Faults, ft) }()
	if !f.Present() {
		if !v.Present() {
			v.Errorf("%s is empty", v.Name())
		}
		return
	}
	ft.At, ft.For, ft.Every = duration(f.Need("at")), duration(f.Get("for")), duration(f.Get("every"))
	if ft.At >= r.s.Duration && r.s.Duration > 0 {
		f.Get("at").Errorf("at: the fault starts at %s, when the run of %s is over", ft.At, r.s.Duration)
	}
	if v := f.Get("for"); v.Present() && ft.For == 0 {
		v.Errorf("for must be above 0; leave it out for a fault that lasts to the end")
	}
	if v := f.Get("every"); v.Present() {
		switch {
		case ft.For == 0:
			v.Errorf("every: a fault that comes again needs for, how long it stays each time")
		case ft.Every <= ft.For:
			v.Errorf("every: the fault comes again after %s but stays for %s; give more than that", ft.Every, ft.For)
		case r.s.Duration/ft.Every > maxWindows:
			v.Errorf("every: the fault comes more than %d times in the run", maxWindows)
		}
	}
	kind := f.Need("kind")
	word, ok := kind.Scalar()
	ft.Kind = word
	happensOn := HappensOn(ft.Kind)
	if ok && happensOn == "" {
		if near := strictyaml.Nearest(ft.Kind, Kinds()); near != "" {
			kind.Errorf("fault kind %q is not known; did you mean %q?", ft.Kind, near)
		} else {
			kind.Errorf("fault kind %q is not known; known: %s", ft.Kind, strings.Join(Kinds(), ", "))
		}
	}
	on := f.Need("on")
	ft.On = r.on(on, ft.Kind, happensOn)
	if v := f.Get("rate"); v.Present() {
		if ft.Rate = read(v, parseShare, 1); ft.Rate == 0 {
			v.Errorf("rate must be above 0; leave the fault out instead")
		}
	}
	ft.Match = r.match(f.Get("match"))
}

// on reads what a fault happens on and gives it in its plain form.
func (r *reader) on(v strictyaml.Value, kind, happensOn string) string {
	scalar, ok := v.Scalar()
	if !ok {
		return "" // missing, or noted
	}
	text := strings.Join(strings.Fields(scalar), " ")
	if r.t == nil {
		return text
	}
	example := text
	if IsRandom(text) {
		all, err := candidates(r.t, text)
		if err != nil {
			v.Errorf("on: %v", err)
			return text
		}
		example = all[0]
	} else if err := r.component(text); err != nil {
		v.Errorf("on: %v", err)
		return text
	}
	if is, _, _ := SplitComponent(example); happensOn != "" && is != happensOn {
		v.Errorf("on: %s happens on a %s, not on a %s", kind, happensOn, is)
	}
	// A mixed draw, such as random device or host, must fit whatever is drawn.
	if IsRandom(text) && strings.Contains(text, " or ") && happensOn != "" {
		all, _ := candidates(r.t, text)
		if i := slices.IndexFunc(all, func(c string) bool { is, _, _ := SplitComponent(c); return is != happensOn }); i > 0 {
			v.Errorf("on: %s happens on a %s, but %s may be drawn", kind, happensOn, all[i])
		}
	}
	return text
}

// component checks that "link a>b", "device d" or "host h" is of the fabric.
func (r *reader) component(text string) error {
	kind, name, ok := SplitComponent(text)
	if !ok {
		return fmt.Errorf("%q: write link a>b, device d, host h, or random …", text)
	}
	if r.t == nil {
		return nil
	}
	var known []string
	switch kind {
	case "link":
		if _, ok := r.t.Link(name); ok {
			return nil
		}
		for _, l := range r.t.Links {
			known = append(known, l.Name)
		}
	case "device":
		if _, ok := r.t.Device(name); ok {
			return nil
		}
		for _, d := range r.t.Devices {
			known = append(known, d.Name)
		}
	case "host":
		if _, ok := r.t.Host(name); ok {
			return nil
		}
		known = hostNames(r.t)
	}
	return fmt.Errorf("no %s is named %q%s", kind, name, r.near(name, known))
}

func (r *reader) match(v strictyaml.Value) Match {
	f := v.Fields("src", "dst", "port")
	m := Match{Port: f.Get("port").Int(1, 65535, 0)}
	for _, end := range []struct {
		key string
		to  *string
	}{{"src", &m.Src}, {"dst", &m.Dst}} {
		v := f.Get(end.key)
		*end.to = v.Text()
		if *end.to == "" || r.t == nil {
			continue
		}
		if _, err := prefixes(r.t, *end.to); err != nil {
			v.Errorf("match %s: %v", end.key, err)
		}
	}
	return m
}

func (r *reader) report(v strictyaml.Value) {
	f := v.Fields("at", "src", "dst", "says", "src_port", "dst_port")
	var rep Report
	defer func() { r.s.Reports = append(r.s.Reports, rep) }()
	if !f.Present() {
		if !v.Present() {
			v.Errorf("%s is empty", v.Name())
		}
		return
	}
	rep.At = duration(f.Need("at"))
	if rep.At > r.s.Duration && r.s.Duration > 0 {
		f.Get("at").Errorf("at: the report comes at %s, when the run of %s is over", rep.At, r.s.Duration)
	}
	rep.Src, rep.Dst = r.end(f.Need("src")), r.end(f.Need("dst"))
	rep.SrcPort, rep.DstPort = f.Get("src_port").Int(1, 65535, 0), f.Get("dst_port").Int(1, 65535, 0)
	rep.Says = f.Get("says").Text()
	if len(rep.Says) > maxSays || strings.ContainsFunc(rep.Says, func(c rune) bool { return unicode.IsControl(c) && c != '\n' }) {
		f.Get("says").Errorf("says must be text of at most %d bytes", maxSays)
	}
}

// end reads one end of a report: a host of the fabric, an address (which may be
// of no host: what lies outside is a case to test), or "through fault N".
func (r *reader) end(v strictyaml.Value) string {
	text := strings.Join(strings.Fields(v.Text()), " ")
	if text == "" {
		return ""
	}
	if _, ok, err := r.s.through(text); err != nil {
		v.Errorf("%s: %v", v.Name(), err)
		return text
	} else if ok {
		return text
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return text
	}
	if r.t != nil {
		if _, err := r.t.ResolveHost(text); err != nil {
			v.Errorf("%s: %v", v.Name(), err)
		}
	}
	return text
}

func (r *reader) expect(v strictyaml.Value) {
	f := v.Fields("findings", "verdicts", "false_findings")
	for _, v := range items(f.Get("findings")) {
		f := v.Fields("component", "class", "from", "by")
		e := ExpectFinding{
			Component: r.expected(f.Need("component")),
			Class:     class(f.Get("class")),
			From:      duration(f.Get("from")),
			By:        duration(f.Get("by")),
		}
		if by := f.Get("by"); by.Present() {
			switch {
			case e.By < e.From:
				by.Errorf("by: %s is before from: %s", e.By, e.From)
			case e.By > r.s.Duration && r.s.Duration > 0:
				by.Errorf("by: %s is after the end of the run, %s", e.By, r.s.Duration)
			}
		}
		r.s.Expect.Findings = append(r.s.Expect.Findings, e)
	}
	for _, v := range items(f.Get("verdicts")) {
		f := v.Fields("report", "verdict", "component", "class")
		e := ExpectVerdict{
			Verdict:   f.Need("verdict").Text(),
			Component: r.expected(f.Get("component")),
			Class:     class(f.Get("class")),
		}
		if n := len(r.s.Reports); n == 0 {
			f.Need("report").Errorf("report: the scenario has no reports")
		} else {
			e.Report = f.Need("report").Int(0, n-1, 0)
		}
		if e.Verdict != "" && !slices.Contains(verdicts, e.Verdict) {
			v := f.Get("verdict")
			if near := strictyaml.Nearest(e.Verdict, verdicts); near != "" {
				v.Errorf("verdict %q is not known; did you mean %q?", e.Verdict, near)
			} else {
				v.Errorf("verdict %q is not known; known: %s", e.Verdict, strings.Join(verdicts, ", "))
			}
		}
		r.s.Expect.Verdicts = append(r.s.Expect.Verdicts, e)
	}
	if v := f.Get("false_findings"); v.Present() {
		n := v.Int(0, 1<<20, 0)
		r.s.Expect.FalseFindings = &n
	}
}

// expected reads a component of an expectation: of the fabric, or "fault N".
func (r *reader) expected(v strictyaml.Value) string {
	text := strings.Join(strings.Fields(v.Text()), " ")
	if text == "" {
		return ""
	}
	if _, ok, err := r.s.faultNumber(text); err != nil {
		v.Errorf("component: %v", err)
	} else if !ok {
		if err := r.component(text); err != nil {
			v.Errorf("component: %v", err)
		}
	}
	return text
}

func class(v strictyaml.Value) string {
	c := v.Text()
	if c != "" && !className.MatchString(c) {
		v.Errorf("class %q: write it like no-buffer or policy/l3/acl", c)
	}
	return c
}
