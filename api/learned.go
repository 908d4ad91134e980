package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"decaf/api/decafpb"
	"decaf/topology"

	"github.com/spf13/cobra"
)

// Learner tells what hosts' surveys of equal-cost paths say of the network.
type Learner interface {
	// Learned makes a topology of the newest survey of each pair of addresses, by
	// one version of the Internet Protocol: 4 or 6, or 0 for the one that was
	// surveyed more.
	Learned(ctx context.Context, ip int) (Learned, error)
}

// Learned is a topology made of traced paths, and how far it is to be trusted.
type Learned struct {
	IP       int                // version it is of
	Topology *topology.Topology // nil where nothing could be learned
	Why      string             // why nothing could
	Learning topology.Learning
	Hosts    map[netip.Addr]string // names of the ends, where known
	Surveys  []*decafpb.Survey     // that it was made of, by source and destination
	Walks    int                   // in them
	OtherIP  int                   // surveys of the other version, left out here
	// Forgotten counts surveys that had to make room for others, Foreign those left
	// out since their source is another host's address; both since the start.
	Forgotten, Foreign uint64
	// Compared is what they say of the topology in force; nil if that has no links.
	Compared *topology.Comparison
}

// LearnedView is the network as hosts' surveys show it.
type LearnedView struct {
	IP       int `json:"ip"` // version of the Internet Protocol
	Devices  int `json:"devices"`
	Hosts    int `json:"hosts"`
	Links    int `json:"links"` // directed
	Walks    int `json:"walks"` // paths that it is made of
	Complete int `json:"complete"`
	// Confidence is the least of the complete surveys, in percent: with which
	// probability none of the next hops of a node was missed.
	Confidence uint32        `json:"confidence,omitempty"`
	Missing    []string      `json:"missing"` // what it lacks or had to assume, in words
	Surveys    []SurveyView  `json:"surveys"`
	Compared   *ComparedView `json:"compared,omitempty"`
	// Topology and File are the same, File as YAML for `decaf serve`; neither is
	// there where nothing could be learned.
	Topology *TopologyView `json:"topology,omitempty"`
	File     string        `json:"file,omitempty"`
}

// SurveyView is one search for all equal-cost paths between two hosts.
type SurveyView struct {
	Host        string    `json:"host"` // that made it
	Source      string    `json:"src"`
	Destination string    `json:"dst"` // name or address, and port
	Time        time.Time `json:"time"`
	Walks       int       `json:"walks"` // paths found
	LeftOut     uint32    `json:"left_out,omitempty"`
	Flows       uint32    `json:"flows"`
	Probes      uint32    `json:"probes"`
	Confidence  uint32    `json:"confidence"` // percent
	Complete    bool      `json:"complete"`
	Why         string    `json:"why,omitempty"`
}

// ComparedView is what was walked beside what the topology in force has.
type ComparedView struct {
	Pairs   int           `json:"pairs"` // of hosts walked
	Seen    int           `json:"seen"`  // directed links of it that were walked
	Unseen  []string      `json:"unseen"`
	Unknown []UnknownView `json:"unknown"`
	Foreign int           `json:"foreign,omitempty"` // walks with an end that is none of its hosts
}

// UnknownView is a step that was walked and is no link of the topology in force.
type UnknownView struct {
	Step  string `json:"step"`
	Walks int    `json:"walks"`
}

// Learned maps what was learned; the error is a topology that cannot be written.
func (v Views) Learned(in Learned) (LearnedView, error) {
	out := LearnedView{IP: in.IP, Walks: in.Walks, Missing: []string{}, Surveys: []SurveyView{}}
	name := func(addr []byte, port uint32) string {
		a, _ := netip.AddrFromSlice(addr)
		text := a.String()
		if n := in.Hosts[a.Unmap()]; n != "" {
			text = n
		} else if a.Is6() {
			text = "[" + text + "]"
		}
		if port != 0 {
			text += ":" + strconv.Itoa(int(port))
		}
		return text
	}
	type ends struct{ src, dst string }
	walked := make(map[ends]bool)
	from := make(map[string]bool)
	var leftOut uint32
	for _, s := range in.Surveys {
		out.Surveys = append(out.Surveys, SurveyView{
			Host: s.GetOrigin().GetProducer(), Source: name(s.GetSrc(), 0), Destination: name(s.GetDst(), s.GetDstPort()),
			Time: time.Unix(0, int64(s.GetTimeNs())).UTC(), Walks: len(s.GetWalks()), LeftOut: s.GetLeftOut(), Flows: s.GetFlows(),
			Probes: s.GetProbes(), Confidence: s.GetConfidence(), Complete: s.GetComplete(), Why: s.GetWhy(),
		})
		walked[ends{name(s.GetSrc(), 0), name(s.GetDst(), 0)}] = true
		from[s.GetOrigin().GetProducer()] = true
		leftOut += s.GetLeftOut()
		if s.GetComplete() {
			out.Complete++
			if out.Confidence == 0 || s.GetConfidence() < out.Confidence {
				out.Confidence = s.GetConfidence()
			}
		}
	}
	miss := func(n int, format string, args ...any) {
		if n > 0 {
			out.Missing = append(out.Missing, fmt.Sprintf(format, args...))
		}
	}
	if in.Why != "" {
		out.Missing = append(out.Missing, in.Why)
	}
	if len(in.Surveys) == 0 {
		out.Missing = append(out.Missing, `no survey came yet: have hosts make some with "decaf agents config set all survey=10m,ADDRESS:PORT,…"`)
	}
	incomplete := len(in.Surveys) - out.Complete
	miss(incomplete, "%s not every node was seen often enough: next hops may be missing there", surveysWere(incomplete))
	oneWay := 0
	for e := range walked {
		if !walked[ends{e.dst, e.src}] {
			oneWay++
		}
	}
	miss(oneWay, "%s walked one way only: the far side of their links has no address, and what lies there may be two devices instead of one", plural(oneWay, "pair")+were(oneWay))
	var silent []string
	for _, h := range v.topo.Hosts {
		if !from[h.Name] {
			silent = append(silent, h.Name)
		}
	}
	if len(in.Surveys) > 0 {
		miss(len(silent), "%s of the topology in force made no survey: %s", plural(len(silent), "host"), firstOf(silent))
	}
	l := in.Learning
	miss(l.Cut, "%s used in part, for a hop that did not answer", plural(l.Cut, "walk")+were(l.Cut))
	miss(l.Looped, "%s left out, since an address was in them twice", plural(l.Looped, "walk")+were(l.Looped))
	miss(l.Through, "%s left out, since more hosts walked through the address they begin at than say that it is a host's", plural(l.Through, "walk")+were(l.Through))
	miss(l.Doubted, "%s not believed: few walks show what many say is otherwise, as while routes change", plural(l.Doubted, "step")+were(l.Doubted))
	miss(l.Alone, "%s known alone of a device, which may in truth be another's", plural(l.Alone, "interface")+were(l.Alone))
	miss(l.Unaddressed, "%s no addresses: traces do not tell that they went over these", plural(l.Unaddressed, "cable")+have(l.Unaddressed))
	miss(int(leftOut), "%s found and not told of: a survey tells of some hundred", plural(int(leftOut), "path")+were(int(leftOut)))
	miss(in.OtherIP, "%s of the other version of the Internet Protocol: walks do not tell which addresses are one interface's", plural(in.OtherIP, "survey")+is(in.OtherIP))
	miss(int(in.Forgotten), "%s forgotten for newer ones", plural(int(in.Forgotten), "survey")+were(int(in.Forgotten)))
	miss(int(in.Foreign), "%s left out, since their source is another host's address", plural(int(in.Foreign), "survey")+were(int(in.Foreign)))

	if c := in.Compared; c != nil {
		view := &ComparedView{Pairs: c.Pairs, Seen: c.Seen, Unseen: []string{}, Unknown: []UnknownView{}, Foreign: c.Foreign}
		for _, link := range c.Unseen {
			view.Unseen = append(view.Unseen, link.Name)
		}
		for _, s := range c.Unknown {
			view.Unknown = append(view.Unknown, UnknownView{Step: s.String(), Walks: s.Walks})
		}
		out.Compared = view
	}
	if in.Topology == nil {
		return out, nil
	}
	out.Devices, out.Hosts, out.Links = len(in.Topology.Devices), len(in.Topology.Hosts), len(in.Topology.Links)
	text, err := in.Topology.Marshal()
	if err != nil {
		return out, fmt.Errorf("write the learned topology: %w", err)
	}
	top := NewViews(in.Topology).Topology()
	out.Topology, out.File = &top, string(text)
	return out, nil
}

func surveysWere(n int) string {
	if n == 1 {
		return "in 1 survey"
	}
	return fmt.Sprintf("in %d surveys", n)
}

// The verb behind a number of things.
func were(n int) string { return verb(n, " was", " were") }
func have(n int) string { return verb(n, " has", " have") }
func is(n int) string   { return verb(n, " is", " are") }

func verb(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// firstOf lists a few names, and how many more there are.
func firstOf(names []string) string {
	const few = 5
	slices.Sort(names)
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// How sure in words, also the head of a file.
func (v *LearnedView) sure() string {
	text := fmt.Sprintf("%s, %s and %s learned from %s of %s over IPv%d", plural(v.Devices, "device"), plural(v.Hosts, "host"),
		plural(v.Links, "directed link"), plural(v.Walks, "path"), plural(len(v.Surveys), "survey"), v.IP)
	if v.Complete > 0 {
		text += fmt.Sprintf("; %d complete: at each node of these no next hop was missed with %d %% probability or more", v.Complete, v.Confidence)
	}
	return text
}

// yaml is the topology file with what is to be known of it before.
func (v *LearnedView) yaml() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", plain(v.sure()))
	for _, m := range v.Missing {
		fmt.Fprintf(&b, "# %s\n", plain(m))
	}
	return b.String() + v.File
}

func (s *Server) getLearned(w http.ResponseWriter, r *http.Request) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return BadRequest("the query after ? cannot be read; encode it as in ?ip=6&format=yaml")
	}
	for key := range q {
		if key != "ip" && key != "format" {
			return BadRequest("unknown parameter %q%s", clip(key), among(key, []string{"ip", "format"}))
		}
	}
	ip := 0
	if text := q.Get("ip"); text != "" {
		if ip, err = strconv.Atoi(text); err != nil || ip != 4 && ip != 6 {
			return BadRequest("ip is %q; write 4 or 6, or leave it out for the version surveyed more", clip(text))
		}
	}
	format := cmp.Or(q.Get("format"), "json")
	if format != "json" && format != "yaml" {
		return BadRequest("format is %q; write json or yaml", clip(format))
	}
	learned, err := s.backend.Learned(r.Context(), ip)
	if err != nil {
		return fmt.Errorf("learn the topology: %w", err)
	}
	view, err := s.views().Learned(learned)
	if err != nil {
		return err
	}
	if format == "json" {
		return writeJSON(w, http.StatusOK, view)
	}
	if view.Topology == nil {
		return NotFound("nothing could be learned: %s", strings.Join(view.Missing, "; "))
	}
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, view.yaml()) // the client may have gone
	return nil
}

// learnCommand gives `decaf topology learn`.
func learnCommand() *cobra.Command {
	var a ask
	var file string
	var ip int
	var compare bool
	cmd := &cobra.Command{
		Use:   "learn",
		Short: "Make a topology file of the paths that hosts found",
		Long: `Make a topology of the equal-cost paths that all hosts found on schedule, and say
how sure it is and what is missing. --file writes it as a topology file, for
"decaf topology check" and "decaf serve". It has no tiers, pods and tags, and its
devices are named by an address.

Hosts look for paths where they are told to, with "decaf agents config set all
survey=10m,ADDRESS:PORT,…". Each pair of hosts, both ways, makes it whole.

--compare says what was walked that the topology in force does not have, and
which links of its ECMP sets between the hosts surveyed no path was seen to take.`,
		Example: `  decaf agents config set all survey=10m,10.0.0.2:22,10.0.1.2:22,99%
  decaf topology learn
  decaf topology learn --file learned.yaml && decaf topology check learned.yaml
  decaf topology learn --compare --output json | jq .compared.unknown`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := "topology/learned"
			q := url.Values{}
			switch ip {
			case 0:
			case 4, 6:
				q.Set("ip", strconv.Itoa(ip))
			default:
				return fmt.Errorf("--ip is %d; write 4 or 6", ip)
			}
			return oneOf(cmd, &a, path, q, func(w io.Writer, output string, raw json.RawMessage, v LearnedView) error {
				if file != "" {
					if v.Topology == nil {
						return fmt.Errorf("nothing could be learned, %s is not written: %s", file, strings.Join(v.Missing, "; "))
					}
					if err := writeLearned(w, file, v.yaml()); err != nil {
						return err
					}
					if file == "-" {
						return nil
					}
				}
				return showLearned(w, output, raw, v, compare)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "write the topology to this file; - is standard output")
	f.BoolVar(&compare, "compare", false, "show what differs from the topology in force")
	f.IntVar(&ip, "ip", 0, "version of the Internet Protocol: 4 or 6 (default the one surveyed more)")
	return a.verb(cmd)
}

func writeLearned(w io.Writer, file, text string) error {
	if file == "-" {
		_, err := io.WriteString(w, text)
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func surveyColumns() []column[SurveyView] {
	return []column[SurveyView]{
		{name: "host", text: func(v SurveyView) string { return v.Host }},
		{name: "from", text: func(v SurveyView) string { return v.Source }},
		{name: "to", text: func(v SurveyView) string { return v.Destination }},
		{name: "at", text: func(v SurveyView) string { return v.Time.Format(time.RFC3339) }},
		{name: "paths", text: func(v SurveyView) string { return strconv.Itoa(v.Walks + int(v.LeftOut)) }},
		{name: "probes", text: func(v SurveyView) string { return strconv.Itoa(int(v.Probes)) }},
		{name: "sure", text: func(v SurveyView) string {
			if !v.Complete {
				return "incomplete"
			}
			return strconv.Itoa(int(v.Confidence)) + " %"
		}, raw: func(v SurveyView) string { return strconv.FormatBool(v.Complete) }},
		{name: "why", text: func(v SurveyView) string { return v.Why }},
	}
}

func showLearned(w io.Writer, output string, raw json.RawMessage, v LearnedView, compare bool) error {
	switch output {
	case "json":
		return writeIndented(w, raw)
	case "csv":
		return writePart(w, output, surveyColumns(), v.Surveys)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", v.sure())
	for _, m := range v.Missing {
		fmt.Fprintf(&b, "missing: %s\n", plain(m))
	}
	c := v.Compared
	switch {
	case c == nil:
		if compare {
			b.WriteString("the topology in force has no links to compare with\n")
		}
	case !compare:
		if len(c.Unknown)+len(c.Unseen) > 0 {
			fmt.Fprintf(&b, "%s walked and %s unseen differ from the topology in force; --compare lists them\n", plural(len(c.Unknown), "link"), plural(len(c.Unseen), "link"))
		}
	default:
		fmt.Fprintf(&b, "\nthe topology in force, by %s of its hosts: %s walked\n", plural(c.Pairs, "pair"), plural(c.Seen, "directed link"))
		for _, u := range c.Unknown {
			fmt.Fprintf(&b, "not in it: %s, on %s\n", plain(u.Step), plural(u.Walks, "path"))
		}
		for _, l := range c.Unseen {
			fmt.Fprintf(&b, "not walked: %s\n", plain(l))
		}
		if len(c.Unknown)+len(c.Unseen) == 0 && c.Pairs > 0 {
			b.WriteString("nothing differs\n")
		}
	}
	if len(v.Surveys) > 0 {
		b.WriteString("\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil || len(v.Surveys) == 0 {
		return err
	}
	return writePart(w, output, surveyColumns(), v.Surveys)
}
