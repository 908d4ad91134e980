package kernel

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// TrafficCommand is "decaf sim traffic", which a lab runs in each host's
// namespace. It ends on SIGTERM or SIGINT and prints its [TrafficStats] as JSON.
func TrafficCommand() *cobra.Command {
	cfg := DefaultGeneratorConfig()
	var listen, targets []string
	var cpu int
	var realtime bool
	cmd := &cobra.Command{
		Use:    "traffic --listen ADDR:PORT --rate N --target ADDR:PORT=WEIGHT…",
		Short:  "Serve and open short TCP connections, as one host of a fabric",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			for _, s := range listen {
				a, err := netip.ParseAddrPort(s)
				if err != nil {
					return fmt.Errorf("--listen: %w", err)
				}
				cfg.Listen = append(cfg.Listen, a)
			}
			for _, s := range targets {
				t, err := parseTarget(s)
				if err != nil {
					return fmt.Errorf("--target: %w", err)
				}
				cfg.Targets = append(cfg.Targets, t)
			}
			if cpu >= 0 {
				if err := pinProcess(cpu); err != nil {
					return fmt.Errorf("--cpu: %w", err)
				}
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if realtime {
				// It works without, only less quietly.
				if err := preferProcess(); err != nil {
					log.Warn("no real-time priority: on a busy machine flows will retransmit without a loss", "error", err)
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			g, err := NewGenerator(cfg, log)
			if err != nil {
				return err
			}
			if err := g.Run(ctx); err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(g.Stats())
		},
	}
	cmd.SetContext(context.Background())
	f := cmd.Flags()
	f.StringArrayVar(&listen, "listen", nil, "address and port to serve at; may be given more than once")
	f.Float64Var(&cfg.Rate, "rate", 0, "new connections per second; 0 serves only")
	f.IntVar(&cfg.PacketsMin, "packets-min", cfg.PacketsMin, "fewest data packets of a connection")
	f.IntVar(&cfg.PacketsMax, "packets-max", cfg.PacketsMax, "most data packets of a connection")
	f.StringArrayVar(&targets, "target", nil, "server to connect to and its weight, ADDR:PORT=WEIGHT; may be given more than once")
	f.Uint64Var(&cfg.Seed, "seed", 0, "draws times, targets and lengths")
	f.IntVar(&cfg.MaxOpen, "max-open", cfg.MaxOpen, "connections at a time; more are skipped and counted")
	f.DurationVar(&cfg.Connect, "connect-timeout", cfg.Connect, "how long a connection may take to come about")
	f.DurationVar(&cfg.Transfer, "transfer-timeout", cfg.Transfer, "how long a connection may last")
	f.DurationVar(&cfg.Ready, "ready-timeout", cfg.Ready, "how long to wait for the targets to listen")
	f.DurationVar(&cfg.Drain, "drain-timeout", cfg.Drain, "how long open connections may go on after the stop")
	f.IntVar(&cpu, "cpu", 0, "run on this processor only, so that packets of a flow keep their order; -1 for any")
	f.BoolVar(&realtime, "realtime", true, "run before ordinary processes, so that no acknowledgement waits for one")
	return cmd
}

func parseTarget(s string) (Target, error) {
	addr, weight, ok := strings.Cut(s, "=")
	if !ok {
		weight = "1"
	}
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return Target{}, err
	}
	w, err := strconv.ParseFloat(weight, 64)
	if err != nil || !(w > 0) {
		return Target{}, fmt.Errorf("%q: the weight is no number above 0", s)
	}
	return Target{Addr: a, Weight: w}, nil
}
