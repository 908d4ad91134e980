package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"decaf/api/service"
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
report, and what decaf is expected to conclude.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	group.AddCommand(runCommand(), replayCommand(), listCommand(), kernel.TrafficCommand())
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

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func runCommand() *cobra.Command {
	o := RunOptions{Progress: progress}
	var fabric string
	var asJSON, verbose bool
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Play a scenario and say which of its expectations held",
		Long: `Play a scenario on a fabric of network namespaces on this kernel: real TCP,
real drops, the real agents, the real service. Progress goes to stderr, the
result to stdout. FILE is a path, or the name of one of "decaf sim list".

The exit status is 0 only if every expectation held.`,
		Example: `  decaf sim run silent-loss-1 --fabric kernel --seed 7
  decaf sim run ./mine.yaml --json | jq '.findings[].component'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fabric != "kernel" {
				return fmt.Errorf("--fabric %s: there is only kernel so far", fabric)
			}
			s, err := loadScenario(args[0])
			if err != nil {
				return err
			}
			if err := kernel.Check(); err != nil {
				return err
			}
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
	f.StringVar(&fabric, "fabric", "kernel", "what to play it on: kernel")
	f.Uint64Var(&o.Seed, "seed", 0, "draws random components, flows and hashing; 0 takes the file's")
	f.BoolVar(&asJSON, "json", false, "print the result as JSON")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:0", "address of the page while it runs")
	f.BoolVar(&o.Keep, "keep", false, "leave the run's directory behind: configurations, logs, evidence")
	f.BoolVarP(&verbose, "verbose", "v", false, "log what goes on")
	return cmd
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
		Short: "List the scenarios built in",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range scenarios.Names() {
				data, _ := scenarios.Get(name)
				fmt.Fprintf(cmd.OutOrStdout(), "%-16s %s\n", name, scenarios.Description(data))
			}
			return nil
		},
	}
}

func demoCommand() *cobra.Command {
	o := DemoOptions{Progress: progress}
	var verbose bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a network with faults, and all of decaf watching it",
		Long: `Start a Clos fabric of network namespaces on this kernel with real traffic, all
agents, the service and its page. A fault comes and goes, a different one each
round. Ctrl-C takes everything down; nothing outlives this process.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := kernel.Check(); err != nil {
				return err
			}
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
