package tracer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
)

// options are the flags of "decaf trace".
type options struct {
	cfg        Config
	from       string
	label      uint32
	oneLabel   bool // the label was given
	distance   int
	allPaths   bool
	confidence int
	maxFlows   int
	every      time.Duration
	names      bool
	noNames    bool
	topology   string
	learn      string
	asJSON     bool
}

// Command is "decaf trace": one trace, or all paths, printed.
func Command() *cobra.Command {
	o := options{cfg: DefaultConfig(), confidence: 95, maxFlows: defaultMaxFlows}
	o.cfg.Timeout = 250 * time.Millisecond // a person can wait for a far end
	o.cfg.Rate, o.cfg.Burst = 1e6, 1e6     // and asks for what is wanted
	cmd := &cobra.Command{
		Use:   "trace HOST:PORT",
		Short: "Find the path that a TCP flow takes, or all paths",
		Long: `Find the path that a TCP flow takes, switch by switch, without disturbing it.

Switches that balance over several links choose by a packet's addresses and
ports: two connections between the same two hosts may go different ways, and the
usual traceroute shows yet another. Here all probes carry the five-tuple of one
flow. All TTLs are probed at once; what stays unanswered is probed again after
2 ms, then after twice that, and so on.

With --flow of a connection that is open on this host the probes cannot harm it:
their TCP checksum is wrong, so that the other end drops what reaches it, and
where its distance is known (--distance, --topology, or the TTL of what it sends
meanwhile) none gets that far. Any other flow is one that a connection could be:
its probes have SYN set, and one of them goes all the way, so that the last line
shows the destination and whether the port is open.

--all-paths varies the source port and finds every way there is, by the multipath
detection algorithm: behind every switch as many flows are sent as make it 95 %
(or 99 %) sure that no next hop was missed. It prints a picture, and for each path
source ports that go over it, so that you can send a flow over the link you suspect;
of IPv6 also flow labels, by which some switches balance.

How to read it:
  - a hop is the interface by which the probe came in, where switches say so (RFC
    5837, or Linux with icmp_errors_use_inbound_ifaddr=1), else any of its addresses;
  - LOST counts probes without answer. Switches answer few probes a second, and
    some none: loss at one hop that the hops behind it do not have is no packet loss;
  - several addresses for one TTL mean packet-by-packet balancing, or a path that
    changed meanwhile. Which of them is said, and no path is made up of both.

Needs Linux and root, or the capability CAP_NET_RAW.`,
		Example: `  # is the port open, and which way does a new connection go?
  decaf trace www.example.com:443

  # the path of an open connection: take its local end from "ss -tn"
  decaf trace 10.0.1.1:443 --flow 10.0.0.1:40000

  # all paths, 99 % sure at every switch; again each minute, as one JSON object a line
  decaf trace 10.0.1.1:443 --all-paths --confidence 99
  decaf trace 10.0.1.1:443 --all-paths --every 1m --json

  # no topology file yet: one from what is there
  decaf trace 10.0.1.1:443 --all-paths --learn learnt.yaml

  # five switches away, so that no probe goes further; for programs
  decaf trace 10.0.1.1:443 --flow 10.0.0.1:40000 --distance 5 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "flow", "", "the flow's own end as ADDRESS:PORT (default: this host's address towards HOST, any port)")
	f.BoolVar(&o.allPaths, "all-paths", false, "find all paths, not only the flow's")
	f.IntVar(&o.confidence, "confidence", o.confidence, "with --all-paths: how sure to be of every next hop, 95 or 99 percent")
	f.IntVar(&o.maxFlows, "max-flows", o.maxFlows, "with --all-paths: most source ports to use")
	f.DurationVar(&o.every, "every", 0, "trace again each time this has passed, until interrupted")
	f.IntVar(&o.cfg.MaxTTL, "max-ttl", o.cfg.MaxTTL, "highest TTL to probe")
	f.IntVar(&o.distance, "distance", 0, "switches between the two ends; 0 means not known")
	f.StringVar(&o.topology, "topology", "", "topology file: tells distances and the switches' names")
	f.StringVar(&o.learn, "learn", "", "with --all-paths: write what was found as a topology file")
	f.DurationVar(&o.cfg.Timeout, "timeout", o.cfg.Timeout, "how long to wait for answers")
	f.Uint32Var(&o.label, "flow-label", 0, "IPv6 flow label of the flow's packets (default: 0 for the flow, another for each that --all-paths makes)")
	f.BoolVar(&o.names, "names", false, "look up the names of addresses (default: on a terminal)")
	f.BoolVarP(&o.noNames, "numeric", "n", false, "never look up names")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("names", "numeric")
	return cmd
}

// request checks the flags and gives the flow to trace.
func (o *options) request(ctx context.Context, to string) (r Request, t *topology.Topology, err error) {
	src, err := parseSource(o.from)
	if err != nil {
		return r, nil, err
	}
	dst, err := resolveDestination(ctx, to, src.Addr())
	if err != nil {
		return r, nil, err
	}
	switch {
	case o.label > maxFlowLabel:
		return r, nil, fmt.Errorf("--flow-label %d: at most %d (20 bits)", o.label, maxFlowLabel)
	case o.distance < 0 || o.distance > o.cfg.MaxTTL:
		return r, nil, fmt.Errorf("--distance %d: want 0 (unknown) to --max-ttl (%d)", o.distance, o.cfg.MaxTTL)
	case o.confidence != 95 && o.confidence != 99:
		return r, nil, fmt.Errorf("--confidence %d: want 95 or 99", o.confidence)
	case o.maxFlows < 1 || o.maxFlows > 32768:
		return r, nil, fmt.Errorf("--max-flows %d: want 1 to 32768", o.maxFlows)
	case o.learn != "" && !o.allPaths:
		return r, nil, errors.New("--learn writes what --all-paths found: give both")
	case o.every < 0 || o.every > 0 && o.every < time.Second:
		return r, nil, fmt.Errorf("--every %s: want at least 1s", o.every)
	}
	if o.topology != "" {
		if t, err = topology.Load(o.topology); err != nil {
			return r, nil, err
		}
	}
	if !src.IsValid() {
		if src, err = SourceTowards(ctx, dst); err != nil {
			return r, nil, fmt.Errorf("%w: give it with --flow", err)
		}
	}
	r = Request{Flow: packet.Flow{Src: src, Dst: dst, Proto: packet.TCP}, FlowLabel: o.label, Distance: o.distance}
	if r.Distance == 0 && t != nil {
		r.Distance = min(Distances(t)(src.Addr(), dst.Addr()), o.cfg.MaxTTL)
	}
	r.New = o.from == "" || !connected(r.Flow)
	return r, t, nil
}

func (o *options) run(cmd *cobra.Command, to string) error {
	ctx := cmd.Context()
	o.oneLabel = cmd.Flags().Changed("flow-label")
	r, topo, err := o.request(ctx, to)
	if err != nil {
		return err
	}
	cmd.SilenceUsage = true // from here on the command line is right
	t, err := newTracer(o.cfg, nil, slog.New(slog.DiscardHandler), []watchFor{watchFlow(r.Flow)})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	group.Go(func() error { return t.Run(ctx) })
	for {
		err = o.once(ctx, cmd, t, topo, r)
		if o.every == 0 || ctx.Err() != nil || !waitUntil(ctx, time.Now().Add(o.every)) {
			break
		}
		if err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), err)
		}
		r.Epoch++
	}
	stop()
	return errors.Join(err, group.Wait())
}

// once traces and prints.
func (o *options) once(ctx context.Context, cmd *cobra.Command, t *Tracer, topo *topology.Topology, r Request) error {
	p := printer{
		w: cmd.OutOrStdout(), json: o.asJSON, lines: o.every > 0, flow: r.Flow, topology: topo,
		lookup: !o.noNames && (o.names || terminal(cmd.OutOrStdout())),
	}
	var path *decafpb.Path
	var fan *Fan
	var err error
	r.observe = p.observe
	if o.allPaths {
		e := EnumerateRequest{Request: r, OneLabel: o.oneLabel, Confidence: float64(o.confidence) / 100, MaxFlows: o.maxFlows}
		if bar := cmd.ErrOrStderr(); terminal(bar) {
			e.Progress = func(p Progress) {
				fmt.Fprintf(bar, "\r\x1b[KTTL %d of %d: %d interfaces, %d probes", p.TTL, p.Of, p.Nodes, p.Probes)
			}
		}
		fan, path, err = t.Enumerate(ctx, e)
		if e.Progress != nil {
			fmt.Fprint(cmd.ErrOrStderr(), "\r\x1b[K")
		}
	} else {
		path = t.Do(ctx, r)
	}
	p.confidence = o.confidence
	printed := p.print(ctx, path, fan)
	if fan != nil && o.learn != "" {
		err = errors.Join(err, writeLearnt(o.learn, fan.Walks(r.Flow), cmd.ErrOrStderr()))
	}
	switch s := path.GetStatus(); {
	case printed != nil:
		return printed
	case s == decafpb.PathStatus_PATH_STATUS_FAILED || s == decafpb.PathStatus_PATH_STATUS_SKIPPED || s == decafpb.PathStatus_PATH_STATUS_REFUSED:
		return fmt.Errorf("trace %s: %s%s", r.Flow, path.GetWhy(), remedy(path))
	}
	return err
}

// writeLearnt makes a topology file of traced paths, and says what is not in it.
func writeLearnt(name string, walks []topology.Walk, note io.Writer) error {
	t, left, err := topology.Learn("learnt", walks, nil)
	if err != nil {
		return fmt.Errorf("--learn: %w", err)
	}
	text, err := t.Marshal()
	if err != nil {
		return fmt.Errorf("--learn: %w", err)
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return fmt.Errorf("--learn: %w", err)
	}
	fmt.Fprintf(note, "%s: %d devices, %d links", name, len(t.Devices), len(t.Links))
	for _, n := range []struct {
		n    int
		what string
	}{
		{left.Cut, "paths with a silent hop used in part"},
		{left.Looped, "paths with a loop left out"},
		{left.Through, "paths left out that begin at an address others walk through"},
		{left.Doubted, "steps that few paths show and many contradict left out"},
		{left.Alone, "interfaces of which no other of the same device is known: traces from the other end tell more"},
		{left.Unaddressed, "links without addresses"},
	} {
		if n.n > 0 {
			fmt.Fprintf(note, "; %d %s", n.n, n.what)
		}
	}
	fmt.Fprintln(note)
	return nil
}

// remedy is what to try after a trace that found nothing.
func remedy(p *decafpb.Path) string {
	switch {
	case strings.Contains(p.GetWhy(), "network is unreachable"):
		return ": this host has no route to the destination"
	case strings.Contains(p.GetWhy(), "nothing answered"):
		return ": a firewall may drop the probes or the answers, or the first switch answers none; a longer --timeout helps where it answers few"
	}
	return ""
}

// terminal says whether a person looks at what is written.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Distances gives the distance function of a topology, nil for none.
func Distances(t *topology.Topology) Distance {
	if t == nil {
		return nil
	}
	return func(src, dst netip.Addr) int {
		from, ok := t.HostAt(src)
		if !ok {
			return 0
		}
		to, ok := t.HostAt(dst)
		if !ok {
			return 0
		}
		return t.Distance(from.Name, to.Name)
	}
}

// resolveDestination reads HOST:PORT. Of a name's addresses it takes the first of
// the family of like, where that is valid.
func resolveDestination(ctx context.Context, s string, like netip.Addr) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("destination %q: want HOST:PORT, an IPv6 address in brackets: [2001:db8::1]:443", s)
	}
	port, err := parsePort(service)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("destination %q: %w", s, err)
	}
	addrs := make([]netip.Addr, 1)
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("destination %q: %w: give an address, or check the name", s, err)
		}
	}
	for _, a := range addrs {
		if a = a.Unmap(); !like.IsValid() || a.Is4() == like.Is4() {
			return netip.AddrPortFrom(a, port), nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("destination %q has no address of the family of --flow's %s", s, like)
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: want a number from 1 to 65535", s)
	}
	return uint16(n), nil
}

// parseSource reads --flow; the empty one gives the zero value.
func parseSource(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	src, err := netip.ParseAddrPort(s)
	if err != nil || src.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("--flow %q: want ADDRESS:PORT of the flow's own end, as in 10.0.0.1:40000 or [2001:db8::1]:40000", s)
	}
	return netip.AddrPortFrom(src.Addr().Unmap(), src.Port()), nil
}

// SourceTowards gives this host's address towards dst, with a port out of the
// range that is for clients (RFC 6335 section 6).
func SourceTowards(ctx context.Context, dst netip.AddrPort) (netip.AddrPort, error) {
	// A connected UDP socket sends nothing and knows which address it would use.
	c, err := new(net.Dialer).DialContext(ctx, "udp", dst.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find this host's address towards %s: %w", dst.Addr(), err)
	}
	defer c.Close()
	local, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("find this host's address towards %s: none is known", dst.Addr())
	}
	addr := local.AddrPort().Addr().Unmap().WithZone("")
	return netip.AddrPortFrom(addr, uint16(49152+rand.IntN(65536-49152))), nil
}
