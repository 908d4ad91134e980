package bench

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"testing"

	"github.com/spf13/cobra"

	"decaf/device"
	"decaf/hostagent"
	"decaf/tracer"
)

// TestMain makes this binary the program that a benchmark starts again.
func TestMain(m *testing.M) {
	const mark = "TEST_BENCH_PROGRAM"
	if os.Getenv(mark) == "" {
		program = func(ctx context.Context, args ...string) (*exec.Cmd, error) {
			cmd := exec.CommandContext(ctx, os.Args[0], args...)
			cmd.Env = append(os.Environ(), mark+"=1")
			return cmd, nil
		}
		os.Exit(m.Run())
	}
	sim := &cobra.Command{Use: "sim"}
	sim.AddCommand(Command())
	root := &cobra.Command{Use: "decaf", SilenceUsage: true}
	root.AddCommand(sim, device.Command(), hostagent.Command(), tracer.Command())
	if root.Execute() != nil {
		os.Exit(1)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and eBPF")
	}
}

// measured are figures by metric, each of them there once and finite.
func measured(t *testing.T, results []Result) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	for _, r := range results {
		if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
			t.Errorf("%s is %v", r.Metric, r.Value)
		}
		if _, twice := got[r.Metric]; twice {
			t.Errorf("%s is there twice", r.Metric)
		}
		got[r.Metric] = r.Value
	}
	return got
}

// above checks that figures are there and more than 0.
func above(t *testing.T, got map[string]float64, metrics ...string) {
	t.Helper()
	for _, name := range metrics {
		if !(got[name] > 0) {
			t.Errorf("%s is %v", name, got[name])
		}
	}
}

// there checks that figures are there, whatever they are.
func there(t *testing.T, got map[string]float64, metrics ...string) {
	t.Helper()
	for _, name := range metrics {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is not there", name)
		}
	}
}

// brief are options of a test.
func brief(t *testing.T) Options {
	o := defaultOptions()
	o.Duration, o.Pairs, o.Log = leastDuration, 2, t.Logf
	return o
}

// play runs parts of a benchmark.
func play(t *testing.T, parts ...func(context.Context) error) {
	t.Helper()
	for i, part := range parts {
		if err := part(t.Context()); err != nil {
			t.Fatal(fmt.Errorf("part %d: %w", i+1, err))
		}
	}
}
