package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"decaf/api/service"
)

const (
	defaultServer = "http://127.0.0.1:8080"
	serverEnv     = "DECAF_SERVER"
)

// ClientCommands are the verbs that ask a running server: report, reports,
// findings, links, drops, paths, flows, agents and topology.
func ClientCommands() []*cobra.Command {
	return []*cobra.Command{
		reportCommand(), reportsCommand(), findingsCommand(), linksCommand(),
		dropsCommand(), pathsCommand(), flowsCommand(), agentsCommand(), topologyCommand(),
	}
}

// outputs are the forms of what a verb prints: table for people, wide with every
// column, and two for programs.
var outputs = []string{"table", "wide", "json", "csv"}

// ask holds the flags that every verb has.
type ask struct {
	server  string
	output  string
	tls     service.TLSFiles
	timeout time.Duration
}

// verb finishes a command: the common flags, and errors without the usage
// text, which would bury what to do.
func (a *ask) verb(cmd *cobra.Command) *cobra.Command {
	cmd.SilenceUsage = true
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&a.output, "output", "o", "table", "table, wide (every column), json or csv")
	f.StringVar(&a.server, "server", "", "address of the server (default $"+serverEnv+", else "+defaultServer+")")
	f.StringVar(&a.tls.CA, "ca", "", "PEM file of the authority that signed the server's certificate")
	f.StringVar(&a.tls.Cert, "cert", "", "PEM file of this client's certificate, where the server wants one")
	f.StringVar(&a.tls.Key, "key", "", "PEM file of its key")
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for an answer")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// open checks the common flags and returns a client.
func (a *ask) open() (*Client, error) {
	if !slices.Contains(outputs, a.output) {
		return nil, fmt.Errorf("--output %s is not known; write table, wide, json or csv", plain(clip(a.output)))
	}
	if a.timeout <= 0 {
		return nil, fmt.Errorf("--timeout %s is not a time to wait; write 30s", a.timeout)
	}
	server := a.server
	if server == "" {
		server = os.Getenv(serverEnv)
	}
	if server == "" {
		server = defaultServer
	}
	var config *tls.Config
	if a.tls != (service.TLSFiles{}) {
		if !strings.HasPrefix(server, "https://") {
			return nil, fmt.Errorf("--ca, --cert and --key are for https, and the server is %s", clip(server))
		}
		u, err := url.Parse(server)
		if err != nil {
			return nil, fmt.Errorf("server %q is no address; write https://host:port", clip(server))
		}
		if config, err = a.tls.Client(u.Hostname()); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	return NewClient(server, config)
}

// spanFlags holds the flags of lists over time.
type spanFlags struct {
	since, until string
	limit        int
}

func (s *spanFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.since, "since", "", "only from this time on: -5m, -1h30m, 2026-01-31T08:00:00Z, Unix seconds")
	f.StringVar(&s.until, "until", "", "only before this time, likewise")
	f.IntVar(&s.limit, "limit", defaultLimit, "rows at most")
}

func (s *spanFlags) query(now time.Time) (url.Values, error) {
	q := url.Values{}
	for _, t := range []struct{ flag, in string }{{"since", s.since}, {"until", s.until}} {
		v, err := sendTime("--"+t.flag, t.in, now)
		if err != nil {
			return nil, err
		}
		if v != "" {
			q.Set(t.flag, v)
		}
	}
	q.Set("limit", strconv.Itoa(s.limit))
	return q, nil
}

// sendTime makes a time ready for the server: one relative to now stays so,
// since the server's clock is the evidence's; one in local time is resolved
// here, since the server may be in another time zone.
func sendTime(flag, s string, now time.Time) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return "", nil
	}
	t, err := parseTime(s, now)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	relative := strings.HasPrefix(s, "-") || strings.HasPrefix(s, "now") || (s[len(s)-1] > '9' && !strings.HasSuffix(s, "Z"))
	if relative {
		return s, nil
	}
	return stamp(t), nil
}

// filter is a parameter of lists that chooses rows, as a flag: the parameter's name
// with hyphens.
type filter struct {
	name, usage string
	kind        filterKind
	words       []string // what it may be, for completion
}

type filterKind uint8

const (
	filterText filterKind = iota
	filterPort
	filterBool
)

// Filters of lists, each with the parameters that go with it.
var (
	filterEnds = []filter{
		{name: "src", usage: "only conversations of this host, address or prefix"},
		{name: "dst", usage: "only conversations with this host, address or prefix, in either direction"},
		{name: "src_port", usage: "port at --src's end", kind: filterPort},
		{name: "dst_port", usage: "port at --dst's end", kind: filterPort},
	}
	filterComponent = filter{name: "component", usage: `only of this link, device or host: "link a>b"`}
	filterClass     = filter{name: "class", usage: "only of this class or below: policy/l3"}
)

// filterFlags are the flags of some filters, by parameter.
type filterFlags struct {
	text map[string]*string
	port map[string]*uint16
	is   map[string]*bool
}

func newFilterFlags(cmd *cobra.Command, filters []filter) *filterFlags {
	f := &filterFlags{text: map[string]*string{}, port: map[string]*uint16{}, is: map[string]*bool{}}
	fl := cmd.Flags()
	for _, one := range filters {
		name := strings.ReplaceAll(one.name, "_", "-")
		switch one.kind {
		case filterText:
			f.text[one.name] = fl.String(name, "", one.usage)
		case filterPort:
			f.port[one.name] = fl.Uint16(name, 0, one.usage)
		case filterBool:
			f.is[one.name] = fl.Bool(name, false, one.usage)
		}
		if one.words != nil {
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(one.words, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	return f
}

func (f *filterFlags) query(q url.Values) {
	for name, v := range f.text {
		if *v != "" {
			q.Set(name, *v)
		}
	}
	for name, v := range f.port {
		if *v != 0 {
			q.Set(name, strconv.Itoa(int(*v)))
		}
	}
	for name, v := range f.is {
		if *v {
			q.Set(name, "true")
		}
	}
}

// listing is a verb that lists what there is over time, and may show one.
type listing[V any] struct {
	use, short, long, example string
	path                      string // under /api/v1
	columns                   []column[V]
	none                      string // said when there is nothing
	filters                   []filter
	evidence                  bool // rows have some, of which tables need the counts alone
	one                       func(io.Writer, string, json.RawMessage, V) error
}

func (l listing[V]) command() *cobra.Command {
	var a ask
	var s spanFlags
	cmd := &cobra.Command{Use: l.use, Short: l.short, Long: l.long, Example: l.example, Args: cobra.NoArgs}
	if l.one != nil {
		cmd.Args = cobra.MaximumNArgs(1)
	}
	s.add(cmd)
	f := newFilterFlags(cmd, l.filters)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return one(cmd, &a, l.path+"/"+url.PathEscape(args[0]), l.one)
		}
		q, err := s.query(time.Now())
		if err != nil {
			return err
		}
		f.query(q)
		if l.evidence && a.forPeople() {
			q.Set("evidence", "counts")
		}
		return list(cmd, &a, l.path, q, l.columns, l.none)
	}
	return a.verb(cmd)
}

// list fetches one list and writes it as asked.
func list[V any](cmd *cobra.Command, a *ask, path string, q url.Values, columns []column[V], none string) error {
	c, err := a.open()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	var got struct {
		List[V]
		Abstained        []string `json:"abstained"` // of rankings only
		Forgotten        uint64   `json:"forgotten"` // of connections and services only
		ForgottenTrouble uint64   `json:"forgotten_trouble"`
	}
	raw, err := c.Get(ctx, path, q, &got)
	if err != nil {
		return err
	}
	if err := write(cmd.OutOrStdout(), a.output, raw, columns, got.Items); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if a.forPeople() && len(got.Abstained) > 0 {
		p := &prose{w: cmd.OutOrStdout()}
		p.line("\nnot told")
		for _, why := range got.Abstained {
			p.line("  %s", plain(why))
		}
		if p.err != nil {
			return fmt.Errorf("write: %w", p.err)
		}
	}
	if a.forPeople() && len(got.Items) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), none)
	}
	if got.LeftOut > 0 && a.output != "json" {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d more were left out; raise --limit, or narrow with --since\n", got.LeftOut)
	}
	if got.Forgotten > 0 && a.output != "json" {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d more were forgotten for want of room (tables.max_bytes of the service) since it started, %d of them with trouble\n", got.Forgotten, got.ForgottenTrouble)
	}
	return nil
}

// forPeople says whether a table is written.
func (a *ask) forPeople() bool { return a.output == "table" || a.output == "wide" }

func write[V any](w io.Writer, output string, raw json.RawMessage, columns []column[V], rows []V) error {
	switch output {
	case "json":
		return writeIndented(w, raw)
	case "csv":
		return writeCSV(w, columns, rows)
	case "wide":
		return writeTable(w, wide(columns), rows)
	}
	return writeTable(w, columns, rows)
}

func reportCommand() *cobra.Command {
	var a ask
	var req ReportRequest
	var wait bool
	var atMost time.Duration
	cmd := &cobra.Command{
		Use:   "report SRC DST",
		Short: "File a fault report and get its verdict",
		Long: `File a fault report: it was slow, or it failed, between SRC and DST, then.
The answer is a verdict (was it the network, and which link or device?) and
the evidence it rests on. Late evidence can change a verdict until it is final:
--wait stays until then, ` + "`decaf reports ID`" + ` shows it later.

SRC and DST are names of hosts in the topology, or addresses.`,
		Example: `  decaf report web-1 db-1
  decaf report web-1 db-1 --port 5432 --from -15m --to -5m --says "queries hang"
  decaf report 10.0.0.1 10.0.1.3 --from 2026-01-31T08:00:00Z --wait
  decaf report web-1 db-1 --output json | jq .verdict.component`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("give two hosts, as in `decaf report web-1 db-1`; %d given", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Src, req.Dst = args[0], args[1]
			now := time.Now()
			var err error
			if req.From, err = sendTime("--from", req.From, now); err != nil {
				return err
			}
			if req.To, err = sendTime("--to", req.To, now); err != nil {
				return err
			}
			c, err := a.open()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
			defer cancel()
			view, raw, err := c.FileReport(ctx, req)
			if err != nil {
				return err
			}
			unfinished := error(nil)
			if wait {
				view, raw, unfinished = untilFinal(cmd.Context(), c, view, raw, a.timeout, atMost, cmd.ErrOrStderr())
			}
			if err := showReport(cmd.OutOrStdout(), a.output, raw, view); err != nil {
				return fmt.Errorf("write: %w", err)
			}
			return unfinished
		},
	}
	f := cmd.Flags()
	f.Uint16Var(&req.DstPort, "port", 0, "port at DST (default any)")
	f.Uint16Var(&req.SrcPort, "src-port", 0, "port at SRC (default any)")
	f.StringVar(&req.From, "from", "", "when it began: -5m, -1h30m, 2026-01-31T08:00:00Z, Unix seconds (default 5 minutes before --to)")
	f.StringVar(&req.To, "to", "", "when it ended, likewise (default now)")
	f.StringVar(&req.Says, "says", "", "what the user said")
	f.BoolVar(&wait, "wait", false, "wait until the verdict is final")
	f.DurationVar(&atMost, "wait-at-most", 3*time.Minute, "how long --wait waits")
	return a.verb(cmd)
}

// untilFinal asks again each second until the verdict is final, and says on
// progress when it changed. It returns the latest report even with an error.
func untilFinal(ctx context.Context, c *Client, view ReportView, raw json.RawMessage, timeout, atMost time.Duration, progress io.Writer) (ReportView, json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said := ""
	for {
		if v := view.Verdict; v != nil {
			if now := strings.TrimSpace(v.Verdict + " " + v.Component); now != said {
				fmt.Fprintf(progress, "%s %s\n", view.ID, plain(now))
				said = now
			}
			if v.Final {
				return view, raw, nil
			}
		}
		select {
		case <-ctx.Done():
			return view, raw, fmt.Errorf("the verdict of %s was not final after %s; see it later with `decaf reports %s`", view.ID, atMost, view.ID)
		case <-tick.C:
		}
		once, cancel := context.WithTimeout(ctx, timeout)
		next, nextRaw, err := c.Report(once, view.ID)
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				continue
			}
			return view, raw, err
		}
		view, raw = next, nextRaw
	}
}

func reportsCommand() *cobra.Command {
	return listing[ReportView]{
		use:   "reports [ID]",
		short: "List fault reports and their verdicts, or show one",
		example: `  decaf reports --since -1h
  decaf reports 01hx3p4b
  decaf reports --output csv > reports.csv`,
		path: "reports", columns: reportColumns(), none: "no reports", evidence: true, one: showReport,
	}.command()
}

// one fetches one thing and shows it.
func one[V any](cmd *cobra.Command, a *ask, path string, show func(io.Writer, string, json.RawMessage, V) error) error {
	return oneOf(cmd, a, path, nil, show)
}

// oneOf is one with a query.
func oneOf[V any](cmd *cobra.Command, a *ask, path string, q url.Values, show func(io.Writer, string, json.RawMessage, V) error) error {
	c, err := a.open()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	var got V
	raw, err := c.Get(ctx, path, q, &got)
	if err != nil {
		return err
	}
	if err := show(cmd.OutOrStdout(), a.output, raw, got); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func findingsCommand() *cobra.Command {
	return listing[FindingView]{
		use:   "findings [ID]",
		short: "List links, devices and hosts that are or were at fault, or show one",
		example: `  decaf findings
  decaf findings --since -1h --class policy
  decaf findings --component "link p0-t1-0>t2-1" --output json`,
		path: "findings", columns: findingColumns(), none: "no findings", filters: []filter{filterComponent, filterClass}, evidence: true, one: showFinding,
	}.command()
}

func linksCommand() *cobra.Command {
	return listing[LinkView]{
		use:   "links",
		short: "Rank links by the votes of flows that lost packets",
		long: `Rank links by votes. Each flow that lost packets spreads one vote over the h
links of its path, 1/h each. Without --since and --until it is the live ranking
of the last 30 seconds.

With the method fused a link also has the probability that it, or one that
cannot be told from it, is at fault; and what could not be told is said below
the table, with the reason.`,
		example: `  decaf links --limit 10
  decaf links --since -10m --until -5m --output csv`,
		path: "links", columns: linkColumns(), none: "no votes: no flow sent anything again",
	}.command()
}

func dropsCommand() *cobra.Command {
	return listing[DropView]{
		use:   "drops",
		short: "List packets that devices dropped, newest first",
		example: `  decaf drops --since -5m
  decaf drops --src web-1 --dst db-1 --dst-port 5432
  decaf drops --component "device t2-0" --class policy --output json`,
		path: "drops", columns: dropColumns(), none: "no device drops", filters: slices.Concat(filterEnds, []filter{filterComponent, filterClass}),
	}.command()
}

func pathsCommand() *cobra.Command {
	return listing[RetransmitView]{
		use:   "paths",
		short: "List retransmits and the paths traced for them, newest first",
		example: `  decaf paths --since -5m
  decaf paths --src web-1 --dst db-1
  decaf paths --component "link p0-t1-0>t2-1" --output csv`,
		path: "paths", columns: pathColumns(), none: "no retransmits", filters: slices.Concat(filterEnds, []filter{filterComponent}),
	}.command()
}

// flowsCommand is `decaf flows`: connections, or with --services their sums.
func flowsCommand() *cobra.Command {
	var a ask
	var s spanFlags
	var services bool
	cmd := &cobra.Command{
		Use:   "flows [HOST]",
		Short: "Show connections and what TCP saw of them, or their sums per service",
		Long: `Show what hosts tell of their connections: how much was sent again, how long a
round trip took, whether the other end's window was closed, how it ended. With
HOST, only what that host tells; a connection between two hosts with agents is
told of by both, each from its own end. It is summed up over the time asked for,
in steps of the hosts' intervals (30 s, or as ` + "`decaf agents config`" + ` says).

Of each the most retransmits come first; --sort has other orders. --trouble
leaves only what was sent again, timed out, was reset or failed, or waited 10 ms at a
closed window. --services sums up all connections to one port, which includes
those that a busy host does not list one by one.

Columns: share is retransmits of all segments with data, rtt and rtt max the mean
and the longest round trip, cwnd and rwnd the mean congestion and receive windows,
zero window how long the other end's was closed. --output wide and csv have more,
among them the lowest round trip and how far they differ (rtt min, rtt var), how the
congestion window grew (cwnd delta), this end's own receive window (own rwnd), for
how long it is established (duration) and whose socket it is (uid). The path is of a
trace made when the connection sent something again.`,
		Example: `  decaf flows web-1 --trouble --since -5m
  decaf flows --src web-1 --dst 10.2.0.0/16 --sort rtt
  decaf flows --component "link p0-t1-0>t2-1" --output wide
  decaf flows --state failed --output csv
  decaf flows web-1 --services --sort bytes`,
		Args: cobra.MaximumNArgs(1),
	}
	s.add(cmd)
	f := newFilterFlags(cmd, slices.Concat(filterEnds, []filter{
		{name: "port", usage: "port at either end", kind: filterPort},
		filterComponent,
		{name: "state", usage: "only connections that are " + strings.Join(stateNames(), ", "), words: stateNames()},
		{name: "trouble", usage: "only what had trouble", kind: filterBool},
		{name: "sort", usage: "the most first: " + strings.Join(Orders(), ", "), words: Orders()},
	}))
	cmd.Flags().BoolVar(&services, "services", false, "sums per service")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		q, err := s.query(time.Now())
		if err != nil {
			return err
		}
		f.query(q)
		if len(args) == 1 {
			q.Set("host", args[0])
		}
		if !services {
			return list(cmd, &a, "flows", q, connectionColumns(), "no such connections")
		}
		for _, name := range []string{"state", "component"} {
			if q.Has(name) {
				return fmt.Errorf("--%s is of single connections: leave out --services", name)
			}
		}
		return list(cmd, &a, "services", q, serviceColumns(), "no such services")
	}
	return a.verb(cmd)
}

func agentsCommand() *cobra.Command {
	var a ask
	cmd := &cobra.Command{
		Use:   "agents [NAME]",
		Short: "Show which devices and hosts send evidence, and what was lost of it",
		Long: `Show which devices and hosts send evidence, and what was lost of it; with a NAME
all that one agent tells of itself: what its fuse allows, which classes of drops
it tells nothing of, how many drops had no event of their own, every counter.`,
		Example: `  decaf agents
  decaf agents t2-0
  decaf agents --output json | jq '.items[] | select(.fresh | not)'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return one(cmd, &a, "agents/"+url.PathEscape(args[0]), showAgent)
			}
			return list(cmd, &a, "agents", nil, agentColumns(time.Now()), "no agents: no device or host is known to send evidence")
		},
	}
	cmd.AddCommand(agentsConfigCommand())
	return a.verb(cmd)
}

func topologyCommand() *cobra.Command {
	var a ask
	parts := []cobra.Completion{"devices", "hosts", "links"}
	cmd := &cobra.Command{
		Use:   "topology [devices|hosts|links]",
		Short: "Show the network as the server knows it",
		Example: `  decaf topology
  decaf topology links --output csv`,
		ValidArgs: parts,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return fmt.Errorf("give one of devices, hosts and links; %d given", len(args))
			case len(args) == 1 && !slices.Contains(parts, args[0]):
				return fmt.Errorf("there is no %q in a topology%s", clip(args[0]), among(args[0], parts))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			part := ""
			if len(args) == 1 {
				part = args[0]
			}
			return one(cmd, &a, "topology", func(w io.Writer, output string, raw json.RawMessage, t TopologyView) error {
				return showTopology(w, output, part, raw, t)
			})
		},
	}
	cmd.AddCommand(learnCommand())
	return a.verb(cmd)
}
