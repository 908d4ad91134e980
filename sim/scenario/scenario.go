package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"decaf/topology"
)

// Scenario is one scenario file.
type Scenario struct {
	Name    string
	Fabric  Fabric
	Traffic Traffic
	// Noise is the share of packets lost on every link at all times, [0, 1].
	Noise    float64
	Duration time.Duration
	// Seed is the file's own; a runner may put another in its place.
	Seed    uint64
	Faults  []Fault
	Reports []Report
	Expect  Expect
	// Instrumented is the share of devices that run an agent, [0, 1]; default 1.
	Instrumented float64
	// Lying is the share of the instrumented devices that report a wrong
	// interface or nothing, [0, 1]; default 0.
	Lying float64
	// AgentsLate is how long after the traffic the agents start.
	AgentsLate time.Duration
	// TraceBudget is what each host's tracer may send, in traces per second; 0
	// leaves the agent's own default.
	TraceBudget float64
}

// Fabric is what the scenario runs on. Its IP is the file's traffic.ip: interfaces
// and hosts have addresses of what the hosts speak, and with both a connection is of
// one or the other, as likely.
type Fabric struct {
	Kind string // "clos"
	topology.ClosSpec
}

// Topology builds the fabric's topology.
func (f Fabric) Topology() (*topology.Topology, error) {
	if f.Kind != "clos" {
		return nil, fmt.Errorf("fabric kind %q is not known; use clos", f.Kind)
	}
	return topology.Clos(f.ClosSpec)
}

// Traffic is what every host sends: short TCP connections to other hosts.
type Traffic struct {
	ConnectionsPerHost float64 // new connections per second and host
	PacketsMin         int     // data packets of a connection are drawn evenly
	PacketsMax         int     // from PacketsMin..PacketsMax
	Pattern            Pattern
}

// Pattern says which hosts a connection goes to. Share and ToRs are in [0, 1].
type Pattern struct {
	// Kind is "uniform" (any other host), "skew" or "hot".
	Kind string
	// Args are the words in parentheses as written.
	Args []string
	// Share is the part of the connections that skew and hot direct.
	Share float64
	// ToRs is, for skew, the part of the ToRs whose hosts they go to.
	ToRs float64
	// ToR is, for hot, the ToR whose hosts they go to.
	ToR string
}

// String gives the pattern as the file has it.
func (p Pattern) String() string {
	if len(p.Args) == 0 {
		return p.Kind
	}
	return p.Kind + "(" + strings.Join(p.Args, ", ") + ")"
}

// Fault is something that goes wrong on one component.
type Fault struct {
	At    time.Duration // since the start of the run
	For   time.Duration // 0: to the end of the run
	Every time.Duration // 0: once; otherwise again at At+Every, At+2·Every, …
	// On is "link a>b", "device d" or "host h"; before [Scenario.Draw] also
	// "random …".
	On    string
	Kind  string
	Rate  float64 // share of the packets it hits, (0, 1]; default 1
	Match Match
}

// Match says which packets a fault hits: those that fit all that is given.
type Match struct {
	Src  string // host name, address or prefix; "" any
	Dst  string
	Port int // destination port; 0 any
}

// Report is what a user says, and when.
type Report struct {
	At       time.Duration
	Src, Dst string // host name or address; before [Scenario.Draw] also "through fault N"
	Says     string
	SrcPort  int // 0: not given
	DstPort  int
}

// Expect is what decaf must conclude for the run to pass.
type Expect struct {
	Findings []ExpectFinding
	Verdicts []ExpectVerdict
	// FalseFindings is how many findings of other components are allowed; nil:
	// not looked at.
	FalseFindings *int
}

// ExpectFinding is a finding that must come up.
type ExpectFinding struct {
	Component string // "link a>b", "device d", "host h"; before Draw also "fault N"
	Class     string // "" any
	// From is the earliest it may be detected, By the latest, since the start of
	// the run; By 0 is the end of the run.
	From, By time.Duration
}

// ExpectVerdict is the answer a report must get.
type ExpectVerdict struct {
	Report    int    // index into Reports
	Verdict   string // "network", "not-network", …
	Component string // "" any; as in ExpectFinding
	Class     string // "" any
}

// Window is one time that a fault is there, since the start of the run.
type Window struct{ Start, End time.Duration }

// Windows gives the times that the fault is there in a run of this length, in
// order; they end with the run at the latest.
func (f Fault) Windows(run time.Duration) []Window {
	var all []Window
	for start := f.At; start < run; start += f.Every {
		end := run
		if f.For > 0 {
			end = min(start+f.For, run)
		}
		all = append(all, Window{start, end})
		if f.Every <= 0 {
			break
		}
	}
	return all
}

// Component names the component to blame for the fault, in the form of
// [Fault.On]: for kinds that happen on a link or a host, the same; for a queue,
// the link whose sending end overflows. "" while On is random still.
func (f Fault) Component() string {
	if IsRandom(f.On) {
		return ""
	}
	return f.On
}

// SplitComponent takes "link a>b" apart into "link" and "a>b"; ok is false when
// the kind is none of link, device and host.
func SplitComponent(component string) (kind, name string, ok bool) {
	kind, name, ok = strings.Cut(strings.TrimSpace(component), " ")
	name = strings.TrimSpace(name)
	return kind, name, ok && name != "" && slices.Contains([]string{"link", "device", "host"}, kind)
}

// Prefixes resolves the match on a topology: the source and destination prefixes
// it takes, nil for any. A host's name stands for all its addresses.
func (m Match) Prefixes(t *topology.Topology) (src, dst []netip.Prefix, err error) {
	if src, err = prefixes(t, m.Src); err != nil {
		return nil, nil, fmt.Errorf("match src: %w", err)
	}
	if dst, err = prefixes(t, m.Dst); err != nil {
		return nil, nil, fmt.Errorf("match dst: %w", err)
	}
	return src, dst, nil
}

func prefixes(t *topology.Topology, s string) ([]netip.Prefix, error) {
	if s == "" {
		return nil, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return []netip.Prefix{p.Masked()}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, nil
	}
	h, err := t.ResolveHost(s)
	if err != nil {
		return nil, fmt.Errorf("%w (a host's name, an address or a prefix is meant)", err)
	}
	all := make([]netip.Prefix, 0, len(h.Addresses))
	for _, a := range h.Addresses {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all, nil
}

// clone copies the scenario so far that nothing Draw changes is shared.
func (s *Scenario) clone() *Scenario {
	c := *s
	c.Faults = slices.Clone(s.Faults)
	c.Reports = slices.Clone(s.Reports)
	c.Expect.Findings = slices.Clone(s.Expect.Findings)
	c.Expect.Verdicts = slices.Clone(s.Expect.Verdicts)
	return &c
}
