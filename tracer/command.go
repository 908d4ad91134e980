package tracer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// Command is "decaf trace": one trace, printed.
func Command() *cobra.Command {
	cfg := DefaultConfig()
	cfg.Timeout = 250 * time.Millisecond // a person can wait for a far end
	var (
		from     string
		label    uint32
		distance int
		asJSON   bool
	)
	cmd := &cobra.Command{
		Use:   "trace HOST:PORT",
		Short: "Find the path that a TCP flow takes",
		Long: `Find the path that a TCP flow takes, switch by switch, without disturbing it.

The probes carry the flow's own addresses and ports, so that every switch which
balances over several links sends them where it sends the flow. All TTLs are
probed at once; what stays unanswered is probed again after 2 ms, then after twice
that, and so on.
The probes have a wrong TCP checksum and get no answer from the destination: without
--distance the path ends at the last switch that answered.

Needs Linux and root, or the capability CAP_NET_RAW.`,
		Example: `  # the path of an open connection: take its local end from "ss -tn"
  decaf trace 10.0.1.1:443 --flow 10.0.0.1:40000

  # five switches away, so that no probe goes further; for programs
  decaf trace 10.0.1.1:443 --flow 10.0.0.1:40000 --distance 5 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			src, err := parseSource(from)
			if err != nil {
				return err
			}
			dst, err := resolveDestination(ctx, args[0], src.Addr())
			if err != nil {
				return err
			}
			if !src.IsValid() {
				if src, err = chooseSource(ctx, dst); err != nil {
					return err
				}
			}
			if label > 0xfffff {
				return fmt.Errorf("--flow-label %d: at most %d (20 bits)", label, 0xfffff)
			}
			if distance < 0 || distance > cfg.MaxTTL {
				return fmt.Errorf("--distance %d: want 0 (unknown) to --max-ttl (%d)", distance, cfg.MaxTTL)
			}
			flow := packet.Flow{Src: src, Dst: dst, Proto: packet.TCP}
			path, err := traceOnce(ctx, cfg, Request{Flow: flow, FlowLabel: label, Distance: distance})
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), flow, path)
			} else {
				err = printTable(cmd.OutOrStdout(), flow, path)
			}
			if err == nil && path.GetStatus() == decafpb.PathStatus_PATH_STATUS_FAILED {
				cmd.SilenceUsage = true
				err = fmt.Errorf("trace %s: %s", flow, path.GetWhy())
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "flow", "", "the flow's own end as ADDRESS:PORT (default: this host's address towards HOST, any port)")
	f.IntVar(&cfg.MaxTTL, "max-ttl", cfg.MaxTTL, "highest TTL to probe")
	f.IntVar(&distance, "distance", 0, "switches between the two ends; 0 means not known")
	f.DurationVar(&cfg.Timeout, "timeout", cfg.Timeout, "how long to wait for answers")
	f.Uint32Var(&label, "flow-label", 0, "IPv6 flow label of the flow's packets")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// traceOnce makes a Tracer for a single trace.
func traceOnce(ctx context.Context, cfg Config, r Request) (*decafpb.Path, error) {
	t, err := New(cfg, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	over := make(chan error, 1)
	go func() { over <- t.Run(ctx) }()
	path := t.Do(ctx, r)
	stop()
	if err := <-over; err != nil {
		return nil, err
	}
	return path, nil
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

// chooseSource gives this host's address towards dst, with a port out of the
// range that is for clients (RFC 6335 section 6).
func chooseSource(ctx context.Context, dst netip.AddrPort) (netip.AddrPort, error) {
	// A connected UDP socket sends nothing and knows which address it would use.
	c, err := new(net.Dialer).DialContext(ctx, "udp", dst.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find this host's address towards %s: %w: give it with --flow", dst.Addr(), err)
	}
	defer c.Close()
	local, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("find this host's address towards %s: give it with --flow", dst.Addr())
	}
	addr := local.AddrPort().Addr().Unmap().WithZone("")
	return netip.AddrPortFrom(addr, uint16(49152+rand.IntN(65536-49152))), nil
}

func hopStatusWord(s decafpb.HopStatus) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "HOP_STATUS_"))
}

func addressText(b []byte) string {
	if a, ok := netip.AddrFromSlice(b); ok {
		return a.String()
	}
	return ""
}

func printTable(w io.Writer, flow packet.Flow, p *decafpb.Path) error {
	fmt.Fprintf(w, "%s: %s", flow, statusWord(p.GetStatus()))
	if p.GetWhy() != "" {
		fmt.Fprintf(w, ": %s", p.GetWhy())
	}
	fmt.Fprintf(w, " (%s)\n", time.Duration(p.GetTookNs()).Round(time.Microsecond))
	if len(p.GetHops()) == 0 {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "TTL\tSTATUS\tADDRESS\tRTT\tPROBES\tALSO FROM")
	for _, h := range p.GetHops() {
		address, rtt, others := "-", "-", make([]string, 0, len(h.GetOthers()))
		if len(h.GetAddress()) > 0 {
			address = addressText(h.GetAddress())
		}
		if h.GetRttNs() > 0 {
			rtt = time.Duration(h.GetRttNs()).Round(time.Microsecond).String()
		}
		for _, o := range h.GetOthers() {
			others = append(others, addressText(o))
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%d\t%s\n", h.GetTtl(), hopStatusWord(h.GetStatus()), address, rtt, h.GetProbes(), strings.Join(others, " "))
	}
	return tw.Flush()
}

// The JSON has the keys of the API's paths.
type pathView struct {
	Flow     flowView  `json:"flow"`
	Status   string    `json:"status"`
	Why      string    `json:"why,omitempty"`
	Distance uint32    `json:"distance,omitempty"`
	Hops     []hopView `json:"hops"`
	Time     string    `json:"time"`
	TimeNS   uint64    `json:"time_ns"`
	TookNS   uint64    `json:"took_ns,omitempty"`
	ProbeSeq uint32    `json:"probe_seq,omitempty"`
	ProbeID  uint32    `json:"probe_id,omitempty"`
}

type flowView struct {
	Src      string `json:"src"`
	Dst      string `json:"dst"`
	SrcPort  uint16 `json:"src_port"`
	DstPort  uint16 `json:"dst_port"`
	Protocol string `json:"protocol"`
}

type hopView struct {
	TTL     uint32   `json:"ttl"`
	Status  string   `json:"status"`
	Address string   `json:"address,omitempty"`
	RTTNS   uint64   `json:"rtt_ns,omitempty"`
	Probes  uint32   `json:"probes,omitempty"`
	Others  []string `json:"others,omitempty"`
}

func printJSON(w io.Writer, flow packet.Flow, p *decafpb.Path) error {
	v := pathView{
		Flow: flowView{
			Src: flow.Src.Addr().String(), SrcPort: flow.Src.Port(),
			Dst: flow.Dst.Addr().String(), DstPort: flow.Dst.Port(),
			Protocol: "tcp",
		},
		Status:   statusWord(p.GetStatus()),
		Why:      p.GetWhy(),
		Distance: p.GetDistance(),
		Hops:     []hopView{},
		Time:     time.Unix(0, int64(p.GetStartNs())).UTC().Format(time.RFC3339Nano),
		TimeNS:   p.GetStartNs(),
		TookNS:   p.GetTookNs(),
		ProbeSeq: p.GetProbeSeq(),
		ProbeID:  p.GetProbeId(),
	}
	for _, h := range p.GetHops() {
		hv := hopView{TTL: h.GetTtl(), Status: hopStatusWord(h.GetStatus()), Address: addressText(h.GetAddress()),
			RTTNS: h.GetRttNs(), Probes: h.GetProbes()}
		for _, o := range h.GetOthers() {
			hv.Others = append(hv.Others, addressText(o))
		}
		v.Hops = append(v.Hops, hv)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
