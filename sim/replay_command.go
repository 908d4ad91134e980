package sim

import (
	"bytes"
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
				recording, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer recording.Close()
				in = recording
			}
			var out *os.File
			var causesTo io.Writer
			if causes != "" {
				if out, err = createBeside(causes, in); err != nil {
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
			enc.SetEscapeHTML(false) // links are a>b
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

// createBeside makes a file anew, which must not be the one that is read.
func createBeside(path string, read io.Reader) (*os.File, error) {
	if f, ok := read.(*os.File); ok {
		was, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if is, err := os.Stat(path); err == nil && is.Mode().IsRegular() && os.SameFile(was, is) {
			return nil, fmt.Errorf("%s is the recording itself: name another file", path)
		}
	}
	return os.Create(path)
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

// maxSuspects bounds the suspects that are shown to people.
const maxSuspects = 5

// printEpoch writes an epoch for people: under each component what spoke for and
// against it, then the likeliest of the suspects and what could not be told.
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
		printBlamed(w, m.Components, true)
		if n := len(m.Suspects); n > 0 {
			fmt.Fprintln(w, "  suspects, too unsure to name:")
			printBlamed(w, m.Suspects[:min(n, maxSuspects)], false)
			if n > maxSuspects {
				fmt.Fprintf(w, "  … and %d more: --json\n", n-maxSuspects)
			}
		}
		for _, why := range m.Abstained {
			fmt.Fprintln(w, "  not told:", why)
		}
	}
	return nil
}

// printBlamed writes components in columns, and if wanted the decision trace of each
// below it.
func printBlamed(w io.Writer, list []BlamedView, traced bool) {
	var lines bytes.Buffer
	t := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	for _, b := range list {
		probability := "-" // of a method that gives none
		if b.Probability > 0 {
			probability = fmt.Sprintf("%.3f", b.Probability)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%.0f flows lost %.0f packets", b.Component, probability, dash(b.Class), b.Evidence.Flows, b.Evidence.Lost)
		if b.BetweenNS != nil {
			fmt.Fprintf(t, " in %.1f s", float64(b.BetweenNS[1]-b.BetweenNS[0])/1e9)
		}
		if len(b.Equivalent) > 0 {
			fmt.Fprintf(t, "\tor %s", strings.Join(b.Equivalent, ", "))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	for i := 0; lines.Len() > 0; i++ {
		line, _ := lines.ReadString('\n')
		io.WriteString(w, line)
		if !traced {
			continue
		}
		for _, why := range list[i].Trace {
			fmt.Fprintln(w, "   ", why)
		}
	}
}
