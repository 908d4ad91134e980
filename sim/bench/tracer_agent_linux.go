package bench

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"decaf/api/decafpb"
	"decaf/hostagent"
	"decaf/tracer"
)

// The agent whose traces are timed is a process of its own, as `decaf host` is: among
// the goroutines that make the traffic its own would wait for theirs.

const tracerAgentName = "tracer-agent"

// agentReport is what that process tells at its end.
type agentReport struct {
	Records        [][]byte // Retransmits, encoded
	Asked, Refused uint64   // traces, and of these those that the budget had none for
}

// tracerAgentCommand watches retransmits and traces flows until its input ends. It says
// when it watches, and at the end what it saw.
func tracerAgentCommand() *cobra.Command {
	var of budget
	cmd := &cobra.Command{
		Use: tracerAgentName, Short: "The agent at h1 of the tracer's benchmark, which starts it", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runTracerAgent(cmd.Context(), of, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().Float64Var(&of.rate, "rate", defaultBudget.rate, "traces a second")
	cmd.Flags().IntVar(&of.burst, "burst", defaultBudget.burst, "of them at once")
	return cmd
}

func runTracerAgent(ctx context.Context, of budget, in io.Reader, out io.Writer) error {
	defer hostagent.Frugal()()
	topo, err := fanTopology()
	if err != nil {
		return err
	}
	cfg := tracer.DefaultConfig()
	cfg.Rate, cfg.Burst = of.rate, of.burst
	t, err := tracer.New(cfg, tracer.Distances(topo), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	tracing := make(chan error, 1)
	// It goes on until the agent has ended.
	tracerCtx, stopTracer := context.WithCancel(context.WithoutCancel(ctx))
	go func() { tracing <- t.Run(tracerCtx) }()

	host := hostagent.DefaultConfig()
	host.Name, host.Site = "h1", "bench"
	host.Flows.Enabled = false
	seen := &recorder{}
	agent := hostagent.New(host, hostagent.Deps{Publisher: seen, Tracer: t, Topology: topo})
	to := gob.NewEncoder(out)
	go func() {
		select {
		case <-agent.Attached():
			if to.Encode(true) == nil {
				io.Copy(io.Discard, in)
			}
		case <-ctx.Done():
		}
		stop()
	}()
	err = agent.Run(ctx)
	stopTracer()
	if err := errors.Join(err, <-tracing); err != nil {
		return err
	}
	stats := t.Stats()
	report := agentReport{Asked: stats.Traces + stats.Refused, Refused: stats.Refused}
	for _, r := range seen.seen {
		one, err := proto.Marshal(r)
		if err != nil {
			return err
		}
		report.Records = append(report.Records, one)
	}
	return to.Encode(report)
}

// tracerAgent is that process.
type tracerAgent struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *gob.Decoder
	said bytes.Buffer
}

// startAgent starts it at h1 and waits until it watches.
func (b *tracing) startAgent(ctx context.Context, of budget) (*tracerAgent, error) {
	cmd, err := program(ctx, "sim", "bench", tracerAgentName, "--rate", fmt.Sprint(of.rate), "--burst", fmt.Sprint(of.burst))
	if err != nil {
		return nil, err
	}
	a := &tracerAgent{cmd: cmd}
	if a.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	a.out, cmd.Stderr = gob.NewDecoder(out), &a.said
	if err := b.f.Start("h1", cmd); err != nil {
		return nil, err
	}
	defer time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() }).Stop()
	watches := false
	if err := a.out.Decode(&watches); err != nil {
		return nil, fmt.Errorf("the host agent did not get to see retransmits: %w", errors.Join(err, a.end()))
	}
	return a, nil
}

// report ends the agent, once, and gives what it saw.
func (a *tracerAgent) report() (seen []*decafpb.Retransmit, r agentReport, err error) {
	a.in.Close()
	if err := a.out.Decode(&r); err != nil {
		return nil, r, fmt.Errorf("the host agent did not tell what it saw: %w", errors.Join(err, a.end()))
	}
	for _, one := range r.Records {
		m := new(decafpb.Retransmit)
		if err := proto.Unmarshal(one, m); err != nil {
			return nil, r, err
		}
		seen = append(seen, m)
	}
	return seen, r, a.end()
}

// end waits for the process, which may have ended.
func (a *tracerAgent) end() error {
	a.in.Close()
	if a.cmd.ProcessState != nil {
		return nil
	}
	if err := a.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: it said: %s", err, a.said.String())
	}
	return nil
}
