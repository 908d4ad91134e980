package topology

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// summary is what `decaf topology check` says of a topology.
type summary struct {
	Site      string      `json:"site"`
	Devices   int         `json:"devices"`
	Tiers     []tierCount `json:"tiers"` // in the order of the file
	GNMI      int         `json:"with_gnmi"`
	Hosts     int         `json:"hosts"`
	Links     int         `json:"links"`      // directed
	HostLinks int         `json:"host_links"` // of them, to or from hosts
	Addresses int         `json:"addresses"`
	Warnings  []string    `json:"warnings"`
	Detection detection   `json:"detection"`
}

type tierCount struct {
	Tier    string `json:"tier"`
	Devices int    `json:"devices"`
}

// detection is [Detection] with figures, or why there are none.
type detection struct {
	Method  string   `json:"method"`
	Applies bool     `json:"applies"`
	Why     string   `json:"why_not,omitempty"`
	Outside []string `json:"outside_proof"`

	Pods        int `json:"pods,omitempty"`
	ToRs        int `json:"tors_per_pod,omitempty"`
	T1s         int `json:"t1_per_pod,omitempty"`
	T2s         int `json:"t2,omitempty"`
	HostsPerToR int `json:"hosts_per_tor,omitempty"`

	PacketsMin int          `json:"packets_min"`
	PacketsMax int          `json:"packets_max"`
	MaxBad     int          `json:"max_bad_links"`
	Bounds     []badBound   `json:"bounds"`
	Traces     *traceBudget `json:"trace_budget,omitempty"`
}

// badBound is the row of the table for so many bad links.
type badBound struct {
	BadLinks int         `json:"bad_links"`
	Alpha    float64     `json:"alpha"`
	Good     []goodBound `json:"good_rate_at_most"`
}

type goodBound struct {
	BadRate  float64 `json:"bad_rate"`
	GoodRate float64 `json:"good_rate"`
}

type traceBudget struct {
	ICMP    float64 `json:"icmp_per_switch_per_s"`
	PerHost float64 `json:"traces_per_host_per_s"`
}

// badRates are the loss rates of bad links that the table has columns for.
var badRates = []float64{.01, .001, .0005}

// detect works the figures out for a topology; icmp is in replies per second and
// switch.
func (t *Topology) detect(packetsMin, packetsMax int, icmp float64) detection {
	out := detection{Method: "vote", Outside: []string{}, Bounds: []badBound{}, PacketsMin: packetsMin, PacketsMax: packetsMax}
	spec, err := t.ClosShape()
	if err != nil {
		out.Why = "not a regular Clos: " + err.Error()
		return out
	}
	d := Detection{ClosSpec: spec, PacketsMin: packetsMin, PacketsMax: packetsMax}
	out.Pods, out.ToRs, out.T1s, out.T2s, out.HostsPerToR = spec.Pods, spec.ToRs, spec.T1s, spec.T2s, spec.Hosts
	if ct := d.TraceBudget(icmp); ct > 0 {
		out.Traces = &traceBudget{ICMP: icmp, PerHost: ct}
	}
	if err := d.Check(); err != nil {
		out.Why = err.Error()
		return out
	}
	if out.MaxBad = d.MaxBad(); out.MaxBad < 1 {
		out.Why = "with so few t2 the theorem holds for no bad link at all"
		return out
	}
	out.Applies = true
	out.Outside = append(out.Outside, d.Outside()...)
	for _, k := range d.BadCounts(4) {
		row := badBound{BadLinks: k, Alpha: d.Alpha(k)}
		for _, bad := range badRates {
			row.Good = append(row.Good, goodBound{bad, d.GoodMax(bad, k)})
		}
		out.Bounds = append(out.Bounds, row)
	}
	return out
}

// summarize counts what the topology holds.
func (t *Topology) summarize() summary {
	s := summary{Site: t.Site, Devices: len(t.Devices), Hosts: len(t.Hosts), Links: len(t.Links), Warnings: []string{}, Tiers: []tierCount{}}
	place := make(map[string]int)
	for _, d := range t.Devices {
		i, ok := place[d.Tier]
		if !ok {
			i = len(s.Tiers)
			place[d.Tier] = i
			s.Tiers = append(s.Tiers, tierCount{Tier: d.Tier})
		}
		s.Tiers[i].Devices++
		if d.GNMI != nil {
			s.GNMI++
		}
	}
	g := t.graph()
	for n, to := range g.to {
		for _, m := range to {
			if g.host[n] || g.host[m] {
				s.HostLinks++
			}
		}
	}
	for _, l := range t.Links {
		for _, a := range [...]netip.Prefix{l.From.Addr, l.From.Addr6} {
			if a.IsValid() {
				s.Addresses++
			}
		}
	}
	for _, h := range t.Hosts {
		links := t.LinksFrom(h.Name)
		for _, a := range h.Addresses {
			if !slices.ContainsFunc(links, func(l *Link) bool { return l.From.Owns(a) }) {
				s.Addresses++
			}
		}
	}
	s.Warnings = append(s.Warnings, t.warnings()...)
	return s
}

func (s *summary) writeJSON(w io.Writer) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		_, err = w.Write(append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("print summary: %w", err)
	}
	return nil
}

func (s *summary) writeTable(w io.Writer) error {
	var perTier []string
	for _, c := range s.Tiers {
		tier := c.Tier
		if tier == "" {
			tier = "no tier"
		}
		perTier = append(perTier, fmt.Sprintf("%d %s", c.Devices, tier))
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(what string, n int, more string) {
		if more != "" {
			more = "  (" + more + ")"
		}
		fmt.Fprintf(tw, "%s\t%d%s\n", what, n, more)
	}
	if s.Site != "" {
		fmt.Fprintf(tw, "site\t%s\n", s.Site)
	}
	row("devices", s.Devices, strings.Join(perTier, ", "))
	row("with gNMI", s.GNMI, "")
	row("hosts", s.Hosts, "")
	row("links", s.Links, fmt.Sprintf("directed; %d of them to or from hosts", s.HostLinks))
	row("addresses", s.Addresses, "")
	tw.Flush()
	for _, warning := range s.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	b.WriteByte('\n')
	s.Detection.write(&b)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print summary: %w", err)
	}
	return nil
}

// write prints the figures as a table, its rows numbers of bad links.
func (d *detection) write(b *strings.Builder) {
	b.WriteString("What votes alone (007, Theorem 2) are sure to find between switches, given enough flows:\n")
	if !d.Applies {
		fmt.Fprintf(b, "  does not apply: %s\n", d.Why)
	} else {
		fmt.Fprintf(b, "  up to %s at once, %d..%d packets a connection; all bad links rank first\n  while no good link loses more than\n",
			counted(d.MaxBad, "bad link"), d.PacketsMin, d.PacketsMax)
		tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprint(tw, "  bad links\t")
		for _, rate := range badRates {
			fmt.Fprintf(tw, "if they lose %s\t", percent(rate))
		}
		fmt.Fprint(tw, "alpha\t\n")
		for _, k := range d.Bounds {
			fmt.Fprintf(tw, "  %d\t", k.BadLinks)
			for _, g := range k.Good {
				fmt.Fprintf(tw, "%.2g\t", g.GoodRate)
			}
			fmt.Fprintf(tw, "%.3g\t\n", k.Alpha)
		}
		tw.Flush()
		for _, o := range d.Outside {
			fmt.Fprintf(b, "  a guide only, the proof does not cover this fabric: %s\n", o)
		}
	}
	if t := d.Traces; t != nil {
		fmt.Fprintf(b, "Traces: at most %.3g per second from each host, so that no switch answers more than %g per second.\n", t.PerHost, t.ICMP)
	}
}

func percent(rate float64) string { return strconv.FormatFloat(100*rate, 'g', 3, 64) + "%" }

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

// maxNamed is how many nodes a warning names.
const maxNamed = 5

// warnings are about what is allowed but will leave evidence without a place.
func (t *Topology) warnings() []string {
	var unlinked, unaddressed, bare, apart []string
	reach := t.reached()
	for _, d := range t.Devices {
		if len(t.LinksFrom(d.Name)) == 0 {
			unlinked = append(unlinked, d.Name)
		}
	}
	for _, h := range t.Hosts {
		switch links := t.LinksFrom(h.Name); {
		case len(links) == 0:
			unlinked = append(unlinked, h.Name)
		case !reach[t.graph().node[h.Name]]:
			apart = append(apart, h.Name)
		}
		if len(h.Addresses) == 0 && !slices.ContainsFunc(t.LinksFrom(h.Name), func(l *Link) bool { return l.From.Addr.IsValid() }) {
			unaddressed = append(unaddressed, h.Name)
		}
	}
	for _, l := range t.Links {
		if !l.From.Addr.IsValid() {
			bare = append(bare, l.From.String())
		}
	}
	var out []string
	for _, w := range []struct {
		nodes []string
		what  string
	}{
		{unlinked, "without a link, so on no path"},
		{apart, "that the first linked host cannot reach"},
		{unaddressed, "without an address, so no flow can be told to be theirs"},
		{bare, "without an address, so traced paths cannot name them"},
	} {
		if n := len(w.nodes); n > 0 {
			named := strings.Join(w.nodes[:min(n, maxNamed)], ", ")
			if n > maxNamed {
				named += fmt.Sprintf(" and %d more", n-maxNamed)
			}
			out = append(out, fmt.Sprintf("%d %s: %s", n, w.what, named))
		}
	}
	return out
}

// reached says of each node whether it has a path to the first host that has a link.
func (t *Topology) reached() []bool {
	g := t.graph()
	reach := make([]bool, len(g.names))
	i := slices.IndexFunc(t.Hosts, func(h *Host) bool { return len(t.LinksFrom(h.Name)) > 0 })
	if i < 0 {
		return reach
	}
	for n, d := range t.field(g.node[t.Hosts[i].Name]).dist {
		reach[n] = d >= 0
	}
	return reach
}
