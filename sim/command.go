package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"decaf/api/service"
	"decaf/sim/bench"
	"decaf/sim/kernel"
	"decaf/sim/scenario"
	"decaf/sim/scenarios"
)

// errBroken ends `decaf sim run` with a failure after the result was printed.
var errBroken = errors.New("not every expectation held")

// Commands gives `decaf sim` and `decaf demo`.
func Commands() []*cobra.Command {
	group := &cobra.Command{
		Use:   "sim",
		Short: "Try decaf out on a fabric made for it",
		Long: `Try decaf out on a fabric made for it.

A scenario file says what network, what traffic, which faults when, what users
report, and what decaf is expected to conclude. The same file is played on network
namespaces with real traffic (--fabric kernel, as root) or simulated flow by flow
(--fabric flow, by anyone).`,
		Example: `  decaf sim list
  decaf sim run silent-loss-1 --fabric flow
  decaf sim replay evidence.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	group.AddCommand(runCommand(), replayCommand(), listCommand(), bench.Command(), kernel.TrafficCommand())
	return []*cobra.Command{group, demoCommand()}
}

// logger logs to stderr: warnings, or all of it with --verbose.
func logger(verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// progress tells how things go, a line each.
func progress(cmd *cobra.Command) func(format string, args ...any) {
	return func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) }
}

func runCommand() *cobra.Command {
	var o RunOptions
	var asJSON, verbose bool
	cmd := &cobra.Command{
		Use:   "run NAME|FILE",
		Short: "Play a scenario and say which of its expectations held",
		Long: `Play a scenario and hold what decaf concluded against what the scenario expects
and against the fabric's own truth. Progress goes to stderr, the result to
stdout. The argument is a name of "decaf sim list", or a file.

It is played on one of two fabrics, and says on which:

  kernel  network namespaces on this kernel: real TCP, real drops, the real
          agents and the real service, in real time. Needs root on Linux; the
          default where that is given.
  flow    flow by flow on a virtual clock, the records that agents would send
          given to the same engine: seconds for minutes, no privileges, and for
          one seed always the same. Any size of Clos, every fault
          kind, devices without agents or with agents that err.

With --record the evidence is kept for "decaf sim replay", which infers from it
again, with any method; the truth is in it for scoring only.

The exit status is 0 only if every expectation held.`,
		Example: `  decaf sim run silent-loss-1 --fabric flow --seed 7
  sudo decaf sim run acl --fabric kernel
  decaf sim run ./mine.yaml --fabric flow --json | jq '.findings[].component'
  decaf sim run acl --fabric flow --record acl.jsonl && decaf sim replay acl.jsonl`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := loadScenario(args[0])
			if err != nil {
				return err
			}
			var why string
			if o.Fabric, why, err = PickFabric(o.Fabric); err != nil {
				return err
			}
			o.Progress = progress(cmd)
			o.Progress("on the %s fabric (%s)", o.Fabric, why)
			o.Scenario, o.Log = s, logger(verbose)
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			r, err := Run(ctx, o)
			if ctx.Err() != nil {
				return errors.New("interrupted before the scenario's end: no result")
			}
			if err != nil {
				return err
			}
			if asJSON {
				err = r.JSON(cmd.OutOrStdout())
			} else {
				r.Print(cmd.OutOrStdout())
			}
			if err == nil && !r.Passed {
				err = errBroken
			}
			return err
		},
	}
	f := cmd.Flags()
	fabricFlag(cmd, &o.Fabric)
	f.Uint64Var(&o.Seed, "seed", 0, "draws random components, flows and hashing; 0 takes the file's")
	f.BoolVar(&asJSON, "json", false, "print the result as JSON")
	f.StringVar(&o.Record, "record", "", "write the evidence and the truth to this `file`, as JSON Lines for decaf sim replay")
	f.StringVar(&o.Listen, "listen", "", "address of the page while it runs, kernel fabric only (default any free port)")
	f.BoolVar(&o.Keep, "keep", false, "leave the run's directory behind: configurations, logs, evidence; kernel fabric only")
	f.BoolVarP(&verbose, "verbose", "v", false, "log what goes on")
	return cmd
}

func fabricFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "fabric", "", "what to play on: kernel or flow (default kernel as root on Linux, else flow)")
}

// loadScenario reads a file, or the built-in scenario of that name.
func loadScenario(name string) (*scenario.Scenario, error) {
	if _, err := os.Stat(name); err != nil {
		if data, ok := scenarios.Get(name); ok {
			return scenario.Parse(name, data)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("no scenario file %s, and none of that name built in; `decaf sim list` shows those", name)
		}
		return nil, err
	}
	return scenario.Load(name)
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the scenarios built in, and the fabrics that can play them",
		Example: `  decaf sim list
  decaf sim run quiet --fabric flow`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tFABRICS\tWHAT HAPPENS")
			for _, name := range scenarios.Names() {
				data, _ := scenarios.Get(name)
				s, err := scenario.Parse(name, data)
				if err != nil {
					return err
				}
				fabrics, err := Fabrics(s)
				if err != nil {
					return err
				}
				fmt.Fprintf(t, "%s\t%s\t%s\n", name, strings.Join(fabrics, ", "), scenarios.Description(data))
			}
			return t.Flush()
		},
	}
}

func demoCommand() *cobra.Command {
	var o DemoOptions
	var verbose bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a network with faults, and all of decaf watching it",
		Long: `Start a Clos fabric, all of decaf watching it, and its page. A fault comes and
goes, a different one each round. Ctrl-C takes everything down; nothing outlives
this process.

As root on Linux the fabric is made of network namespaces, with real traffic,
real drops and the real agents. Otherwise it is the flow-level one: the agents'
records come from a simulation, in real time, over the same gNMI sessions and
NATS connections; all behind them is the real thing. The first line says which.`,
		Example: `  decaf demo                     # kernel fabric as root on Linux, else flow-level
  decaf demo --fabric flow --listen 127.0.0.1:9000
  decaf findings                 # in another terminal: what is wrong now`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var why string
			var err error
			if o.Fabric, why, err = PickFabric(o.Fabric); err != nil {
				return err
			}
			o.Progress = progress(cmd)
			o.Progress("on the %s fabric (%s)", o.Fabric, why)
			if o.Seed == 0 {
				o.Seed = uint64(time.Now().UnixNano())
			}
			if !cmd.Flags().Changed("listen") && busy(o.Listen) {
				o.Listen = "127.0.0.1:0"
			}
			o.Log = logger(verbose)
			ctx, stop := service.Signals(cmd.Context())
			defer stop()
			return Demo(ctx, o)
		},
	}
	f := cmd.Flags()
	fabricFlag(cmd, &o.Fabric)
	f.StringVar(&o.Listen, "listen", "127.0.0.1:8080", "address of the page; if not given and in use, any free port")
	f.Uint64Var(&o.Seed, "seed", 0, "draws faults and flows; 0 takes the time")
	f.BoolVar(&o.Keep, "keep", false, "leave the run's directory behind")
	f.BoolVarP(&verbose, "verbose", "v", false, "log what goes on")
	return cmd
}

// busy says whether something listens at an address already.
func busy(address string) bool {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return errors.Is(err, syscall.EADDRINUSE)
	}
	ln.Close()
	return false
}
