package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Options of a run.
type Options struct {
	Duration time.Duration // of one measurement, of which a benchmark makes several
	Pairs    int           // measurements without and with the agent, in turn
	Flood    time.Duration // of the device benchmark's long flood
	Churn    time.Duration // of the host benchmark's connections that come and go
	Log      func(format string, args ...any)
}

// defaultOptions are the options of a command without flags.
func defaultOptions() Options {
	return Options{Duration: time.Second, Pairs: 30, Flood: 5 * time.Minute, Churn: 30 * time.Second}
}

// leastDuration is the shortest that a measurement may be: a few of the clock's
// ticks, by which the kernel counts processor time.
const leastDuration = 50 * time.Millisecond

func (o Options) validate() error {
	var errs []error
	for _, d := range []struct {
		flag string
		time.Duration
	}{{"duration", o.Duration}, {"flood", o.Flood}, {"churn", o.Churn}} {
		if d.Duration < leastDuration {
			errs = append(errs, fmt.Errorf("--%s %v: too short to measure anything: give at least %v", d.flag, d.Duration, leastDuration))
		}
	}
	if o.Pairs < 1 {
		errs = append(errs, fmt.Errorf("--pairs %d: nothing to compare: give at least 1", o.Pairs))
	}
	return errors.Join(errs...)
}

// A bench is one benchmark. What run measured before it failed is printed too.
type bench struct {
	name, short, long string
	flags             func(*pflag.FlagSet, *Options) // of its own, if any
	run               func(ctx context.Context, o Options) ([]Result, error)
}

// all benchmarks, in the order of the help.
var all = []bench{
	deviceBench,
	tracerBench,
	hostBench,
}

// Command gives `decaf sim bench`.
func Command() *cobra.Command {
	group := &cobra.Command{
		Use:   "bench",
		Short: "Measure the agents on the kernel fabric, off and on in turn",
		Long: `Measure what the agents see, how soon, and what they cost the machine they run on,
on network namespaces with real traffic. Agent off and on take turns within one
run. Needs root on Linux. Progress goes to stderr, figures to stdout; a figure that
could not be had is left out, and stderr says why.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, b := range all {
		group.AddCommand(b.command())
	}
	group.AddCommand(hostLoadCommands()...)
	return group
}

func (b bench) command() *cobra.Command {
	o := defaultOptions()
	var asJSON bool
	cmd := &cobra.Command{
		Use: b.name, Short: b.short, Long: b.long,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			start := time.Now()
			o.Log = func(format string, args ...any) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
			}
			results, err := b.run(ctx, o)
			if asJSON {
				return errors.Join(err, printJSON(cmd.OutOrStdout(), b.name, results))
			}
			return errors.Join(err, printTable(cmd.OutOrStdout(), results))
		},
	}
	cmd.Flags().DurationVar(&o.Duration, "duration", o.Duration, "of one measurement")
	cmd.Flags().IntVar(&o.Pairs, "pairs", o.Pairs, "measurements without and with the agent, in turn")
	if b.flags != nil {
		b.flags(cmd.Flags(), &o)
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// program makes a command of this program with other arguments, which end with
// ctx. A test has another.
var program = func(ctx context.Context, args ...string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	return exec.CommandContext(ctx, exe, args...), err
}
