package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// A Result is one measured figure.
type Result struct {
	Metric string  `json:"metric"` // as scripts know it: "event_latency_p99_ms"
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	// What was measured, in a few words, for people; not part of the JSON.
	What string `json:"-"`
}

// Options of a run.
type Options struct {
	Duration time.Duration // of one measurement, of which a benchmark makes several
	Pairs    int           // measurements without and with the agent, in turn
	Log      func(format string, args ...any)
}

// A bench is one benchmark. What run measured before it failed is printed too.
type bench struct {
	name, short, long string
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
run. Needs root on Linux. Progress goes to stderr, figures to stdout.`,
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
	o := Options{Duration: time.Second, Pairs: 30}
	var asJSON bool
	cmd := &cobra.Command{
		Use: b.name, Short: b.short, Long: b.long,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			start := time.Now()
			o.Log = func(format string, args ...any) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%6.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
			}
			results, err := b.run(ctx, o)
			if printed := b.print(cmd.OutOrStdout(), results, asJSON); err == nil {
				err = printed
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&o.Duration, "duration", o.Duration, "of one measurement")
	cmd.Flags().IntVar(&o.Pairs, "pairs", o.Pairs, "measurements without and with the agent, in turn")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (b bench) print(w io.Writer, results []Result, asJSON bool) error {
	if asJSON {
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		return out.Encode(struct {
			Bench   string   `json:"bench"`
			Results []Result `json:"results"`
		}{b.name, results})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%.4g\t%s\t%s\n", r.Metric, r.Value, r.Unit, r.What)
	}
	return t.Flush()
}
