package sim

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func replayCommand() *cobra.Command {
	var method, causes string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Infer what was at fault from recorded evidence",
		Long: `Read evidence recorded as JSON Lines (a topology, flows, device drops) and infer
what was at fault, epoch by epoch. Where the recording holds the truth, precision,
recall and the share of flows with the right cause are printed as well; the
inference never sees it. FILE - is standard input.

Methods: fused weighs flows, loss-free traffic and what devices say; vote is 007
as published (NSDI 2018), for comparison.`,
		Example: `  decaf sim replay evidence.jsonl
  decaf sim replay evidence.jsonl --method all --json | jq '.methods.fused.components'
  decaf sim replay evidence.jsonl --causes causes.jsonl`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := methodNames(method)
			if err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			var out *os.File
			var causesTo io.Writer
			if causes != "" {
				if out, err = os.Create(causes); err != nil {
					return fmt.Errorf("--causes: %w", err)
				}
				defer out.Close()
				causesTo = out
			}
			var epochs []EpochResult
			err = Replay(in, names, causesTo, func(e EpochResult) error {
				if asJSON {
					epochs = append(epochs, e)
					return nil
				}
				return printEpoch(cmd.OutOrStdout(), names, e)
			})
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if out != nil {
				if err := out.Close(); err != nil {
					return fmt.Errorf("--causes: %w", err)
				}
			}
			if !asJSON {
				return nil
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			if len(epochs) == 1 {
				return enc.Encode(epochs[0])
			}
			return enc.Encode(map[string][]EpochResult{"epochs": append([]EpochResult{}, epochs...)})
		},
	}
	f := cmd.Flags()
	f.StringVar(&method, "method", "fused", "fused, vote or all")
	f.BoolVar(&asJSON, "json", false, "print JSON: one object, or with several epochs a list of them")
	f.StringVar(&causes, "causes", "", "write the cause of each lossy flow to this `file`, as JSON Lines")
	return cmd
}

func methodNames(method string) ([]string, error) {
	var all []string
	for _, m := range methods {
		if m.name == method {
			return []string{method}, nil
		}
		all = append(all, m.name)
	}
	if method != "all" {
		return nil, fmt.Errorf("--method %s: use %s or all", method, strings.Join(all, ", "))
	}
	return all, nil
}

// printEpoch writes an epoch for people.
func printEpoch(w io.Writer, names []string, e EpochResult) error {
	for _, name := range names {
		m := e.Methods[name]
		fmt.Fprintf(w, "%s, %.1f ms", name, m.InferenceMS)
		if m.Precision != nil {
			fmt.Fprintf(w, ": precision %.3f, recall %.3f, flow accuracy %.3f", *m.Precision, *m.Recall, *m.FlowAccuracy)
		}
		fmt.Fprintln(w)
		if len(m.Components) == 0 {
			fmt.Fprintln(w, "  nothing at fault")
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, b := range m.Components {
			line := fmt.Sprintf("  %s\t%.3f\t%s\t%.0f flows lost %.0f packets", b.Component, b.Probability, dash(b.Class), b.Evidence.Flows, b.Evidence.Lost)
			if b.BetweenNS != nil {
				line += fmt.Sprintf(" in %.1f s", float64(b.BetweenNS[1]-b.BetweenNS[0])/1e9)
			}
			if len(b.Equivalent) > 0 {
				line += "\tor " + strings.Join(b.Equivalent, ", ")
			}
			fmt.Fprintln(t, line)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, why := range m.Abstained {
			fmt.Fprintln(w, "  not told:", why)
		}
	}
	return nil
}
