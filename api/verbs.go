package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
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
// findings, links, drops, paths, agents and topology.
func ClientCommands() []*cobra.Command {
	return []*cobra.Command{
		reportCommand(), reportsCommand(), findingsCommand(), linksCommand(),
		dropsCommand(), pathsCommand(), agentsCommand(), topologyCommand(),
	}
}

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
	f.StringVarP(&a.output, "output", "o", "table", "table, json or csv")
	f.StringVar(&a.server, "server", "", "address of the server (default $"+serverEnv+", else "+defaultServer+")")
	f.StringVar(&a.tls.CA, "ca", "", "PEM file of the authority that signed the server's certificate")
	f.StringVar(&a.tls.Cert, "cert", "", "PEM file of this client's certificate, where the server wants one")
	f.StringVar(&a.tls.Key, "key", "", "PEM file of its key")
	f.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long to wait for an answer")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]cobra.Completion{"table", "json", "csv"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// open checks the common flags and returns a client.
func (a *ask) open() (*Client, error) {
	switch a.output {
	case "table", "json", "csv":
	default:
		return nil, fmt.Errorf("--output %s is not known; write table, json or csv", plain(clip(a.output)))
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

// filterFlags are the flags of lists of packets.
type filterFlags struct {
	component, class, src, dst string
	srcPort, dstPort           uint16
}

func (f *filterFlags) add(cmd *cobra.Command, class bool) {
	fl := cmd.Flags()
	fl.StringVar(&f.src, "src", "", "only conversations of this host or address")
	fl.StringVar(&f.dst, "dst", "", "only conversations with this host or address, in either direction")
	fl.Uint16Var(&f.srcPort, "src-port", 0, "port at --src's end")
	fl.Uint16Var(&f.dstPort, "dst-port", 0, "port at --dst's end")
	fl.StringVar(&f.component, "component", "", `only of this link, device or host: "link a>b"`)
	if class {
		fl.StringVar(&f.class, "class", "", "only of this class or below: policy/l3")
	}
}

func (f *filterFlags) query(q url.Values) {
	for _, p := range []struct{ name, value string }{{"component", f.component}, {"class", f.class}, {"src", f.src}, {"dst", f.dst}} {
		if p.value != "" {
			q.Set(p.name, p.value)
		}
	}
	for _, p := range []struct {
		name string
		port uint16
	}{{"src_port", f.srcPort}, {"dst_port", f.dstPort}} {
		if p.port != 0 {
			q.Set(p.name, strconv.Itoa(int(p.port)))
		}
	}
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
		Abstained []string `json:"abstained"` // of rankings only
	}
	raw, err := c.Get(ctx, path, q, &got)
	if err != nil {
		return err
	}
	if err := write(cmd.OutOrStdout(), a.output, raw, columns, got.Items); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if a.output == "table" && len(got.Abstained) > 0 {
		p := &prose{w: cmd.OutOrStdout()}
		p.line("\nnot told")
		for _, why := range got.Abstained {
			p.line("  %s", plain(why))
		}
		if p.err != nil {
			return fmt.Errorf("write: %w", p.err)
		}
	}
	if a.output == "table" && len(got.Items) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), none)
	}
	if got.LeftOut > 0 && a.output != "json" {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d more were left out; raise --limit, or narrow with --since\n", got.LeftOut)
	}
	return nil
}

func write[V any](w io.Writer, output string, raw json.RawMessage, columns []column[V], rows []V) error {
	switch output {
	case "json":
		return writeIndented(w, raw)
	case "csv":
		return writeCSV(w, columns, rows)
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
	var a ask
	var s spanFlags
	cmd := &cobra.Command{
		Use:   "reports [ID]",
		Short: "List fault reports and their verdicts, or show one",
		Example: `  decaf reports --since -1h
  decaf reports 01hx3p4b
  decaf reports --output csv > reports.csv`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return one(cmd, &a, "reports/"+url.PathEscape(args[0]), showReport)
			}
			q, err := s.query(time.Now())
			if err != nil {
				return err
			}
			if a.output == "table" {
				q.Set("evidence", "counts")
			}
			return list(cmd, &a, "reports", q, reportColumns(), "no reports")
		},
	}
	s.add(cmd)
	return a.verb(cmd)
}

// one fetches one thing and shows it.
func one[V any](cmd *cobra.Command, a *ask, path string, show func(io.Writer, string, json.RawMessage, V) error) error {
	c, err := a.open()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	var got V
	raw, err := c.Get(ctx, path, nil, &got)
	if err != nil {
		return err
	}
	if err := show(cmd.OutOrStdout(), a.output, raw, got); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func findingsCommand() *cobra.Command {
	var a ask
	var s spanFlags
	var component, class string
	cmd := &cobra.Command{
		Use:   "findings [ID]",
		Short: "List links, devices and hosts that are or were at fault, or show one",
		Example: `  decaf findings
  decaf findings --since -1h --class policy
  decaf findings --component "link p0-t1-0>t2-1" --output json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return one(cmd, &a, "findings/"+url.PathEscape(args[0]), showFinding)
			}
			q, err := s.query(time.Now())
			if err != nil {
				return err
			}
			f := filterFlags{component: component, class: class}
			f.query(q)
			if a.output == "table" {
				q.Set("evidence", "counts")
			}
			return list(cmd, &a, "findings", q, findingColumns(), "no findings")
		},
	}
	s.add(cmd)
	cmd.Flags().StringVar(&component, "component", "", `only of this link, device or host: "link a>b"`)
	cmd.Flags().StringVar(&class, "class", "", "only of this class or below: policy/l3")
	return a.verb(cmd)
}

func linksCommand() *cobra.Command {
	var a ask
	var s spanFlags
	cmd := &cobra.Command{
		Use:   "links",
		Short: "Rank links by the votes of flows that lost packets",
		Long: `Rank links by votes. Each flow that lost packets spreads one vote over the h
links of its path, 1/h each. Without --since and --until it is the live ranking
of the last 30 seconds.

With the method fused a link also has the probability that it, or one that
cannot be told from it, is at fault; and what could not be told is said below
the table, with the reason.`,
		Example: `  decaf links --limit 10
  decaf links --since -10m --until -5m --output csv`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := s.query(time.Now())
			if err != nil {
				return err
			}
			return list(cmd, &a, "links", q, linkColumns(), "no votes: no flow sent anything again")
		},
	}
	s.add(cmd)
	return a.verb(cmd)
}

func dropsCommand() *cobra.Command {
	var a ask
	var s spanFlags
	var f filterFlags
	cmd := &cobra.Command{
		Use:   "drops",
		Short: "List packets that devices dropped, newest first",
		Example: `  decaf drops --since -5m
  decaf drops --src web-1 --dst db-1 --dst-port 5432
  decaf drops --component "device t2-0" --class policy --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := s.query(time.Now())
			if err != nil {
				return err
			}
			f.query(q)
			return list(cmd, &a, "drops", q, dropColumns(), "no device drops")
		},
	}
	s.add(cmd)
	f.add(cmd, true)
	return a.verb(cmd)
}

func pathsCommand() *cobra.Command {
	var a ask
	var s spanFlags
	var f filterFlags
	cmd := &cobra.Command{
		Use:   "paths",
		Short: "List retransmits and the paths traced for them, newest first",
		Example: `  decaf paths --since -5m
  decaf paths --src web-1 --dst db-1
  decaf paths --component "link p0-t1-0>t2-1" --output csv`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := s.query(time.Now())
			if err != nil {
				return err
			}
			f.query(q)
			return list(cmd, &a, "paths", q, pathColumns(), "no retransmits")
		},
	}
	s.add(cmd)
	f.add(cmd, false)
	return a.verb(cmd)
}

func agentsCommand() *cobra.Command {
	var a ask
	cmd := &cobra.Command{
		Use:   "agents",
		Short: "Show which devices and hosts send evidence, and what was lost of it",
		Example: `  decaf agents
  decaf agents --output json | jq '.items[] | select(.fresh | not)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return list(cmd, &a, "agents", nil, agentColumns(time.Now()), "no agents: no device or host is known to send evidence")
		},
	}
	cmd.AddCommand(agentsConfigCommand())
	return a.verb(cmd)
}

func topologyCommand() *cobra.Command {
	var a ask
	parts := []string{"devices", "hosts", "links"}
	cmd := &cobra.Command{
		Use:   "topology [devices|hosts|links]",
		Short: "Show the network as the server knows it",
		Example: `  decaf topology
  decaf topology links --output csv`,
		ValidArgs: []cobra.Completion{"devices", "hosts", "links"},
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return fmt.Errorf("give one of devices, hosts and links; %d given", len(args))
			case len(args) == 1 && args[0] != "devices" && args[0] != "hosts" && args[0] != "links":
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
	return a.verb(cmd)
}
