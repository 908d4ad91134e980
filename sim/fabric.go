package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"decaf/api"
	"decaf/api/packet"
	"decaf/sim/flow"
	"decaf/sim/kernel"
	"decaf/sim/scenario"
	"decaf/topology"
)

// The fabrics that a scenario can be played on.
const (
	FabricKernel = "kernel" // network namespaces, real TCP, the real agents; needs root on Linux
	FabricFlow   = "flow"   // flow by flow on a virtual clock; needs nothing
)

// watcher is decaf, as a user asks it; since is the time of day from which on rows
// are wanted.
type watcher interface {
	findings(ctx context.Context, since time.Time) ([]api.FindingView, error)
	// drops are those that decaf takes for evidence.
	drops(ctx context.Context, since time.Time) ([]api.DropView, error)
	// file files a report about the time since the run began.
	file(ctx context.Context, rep scenario.Report, began time.Time) (api.ReportView, error)
	report(ctx context.Context, id string) (api.ReportView, error)
}

// stage is a fabric with decaf watching it. Times are since the start of the run.
type stage interface {
	watcher
	// fabric is its name.
	fabric() string
	// start lets the traffic begin; the time of day of that is the run's start.
	start(ctx context.Context) (time.Time, error)
	now() time.Duration
	// wait lets time pass, and calls each once a second of it.
	wait(ctx context.Context, until time.Duration, each func()) error
	// faultOn and faultOff are called at the ends of a fault's window, n counting
	// the windows of the run; faultOff gives how many packets it took.
	faultOn(n int, w faultWindow) error
	faultOff(n int, w faultWindow) (packets uint64, err error)
	close() error
}

// judgeable is a stage on which decaf can be judged.
type judgeable interface {
	stage
	// testimony is all that agents have said since the start.
	testimony(ctx context.Context) (*testimony, error)
	// truth is what the fabric itself knows of the time since the start.
	truth() (*fabricTruth, error)
}

// faultWindow is one time that a fault of the scenario is there.
type faultWindow struct {
	scenario.Window
	scenario.Fault
	fault int // index into the scenario's faults
	nth   int // of the fault's windows
}

// testimony is what agents said in a run.
type testimony struct {
	retransmits []api.RetransmitView
	// drops may hold those of decaf's own probes.
	drops    []api.DropView
	counters []counterRise
	flows    []flowRow // none where hosts do not count their flows
	heard    *presence // who was alive when
}

// counterRise is a device's word that it dropped packets, without the packets.
type counterRise struct {
	atNS                   uint64
	device, class, ingress string
	packets                uint64
}

// flowRow is what a host counted: one connection, or with ports 0 the loss-free ones
// to one other host.
type flowRow struct {
	flow           packet.Flow
	startNS, endNS uint64
	packets        uint64
}

// fabricTruth is what no agent knows.
type fabricTruth struct {
	linksUsed, linksTotal int // directed links; those that carried a packet
	// losses are packets that died, as far as the fabric lists them.
	losses []loss
}

// loss is one packet that died.
type loss struct {
	atNS uint64
	flow packet.Flow
	seq  uint32
	data bool   // it carried some
	link string // where
	// fault took it, an index into the scenario's faults; -1: noise.
	fault int
	probe bool // decaf's own
}

// PickFabric gives the fabric to play on: the one asked for, or with "" the kernel
// fabric where this process may build one, else the flow-level one. why says, in a
// few words, what the choice means.
func PickFabric(asked string) (name, why string, err error) {
	switch asked {
	case FabricFlow:
		return FabricFlow, "no privileges needed, nothing real on the wire", nil
	case FabricKernel:
		if err := kernel.Check(); err != nil {
			return "", "", fmt.Errorf("%w; or play it with --fabric flow", err)
		}
		return FabricKernel, "network namespaces, real packets, real agents", nil
	case "":
		if err := kernel.Check(); err != nil {
			return FabricFlow, "flow by flow; " + whyNoKernel(err), nil
		}
		return PickFabric(FabricKernel)
	}
	return "", "", fmt.Errorf("--fabric %s: there is kernel and flow", asked)
}

// whyNoKernel says what would give the kernel fabric.
func whyNoKernel(err error) string {
	if errors.Is(err, kernel.ErrUnsupported) {
		return "the kernel fabric needs Linux, this is " + runtime.GOOS
	}
	return err.Error()
}

// checkKernel refuses what the kernel fabric cannot honour of a drawn scenario. Noise
// alone is let pass: the kernel loses what it loses.
func checkKernel(t *topology.Topology, s *scenario.Scenario) error {
	for _, key := range []struct {
		name  string
		given bool
	}{
		{"instrumented", s.Instrumented != 1},
		{"lying", s.Lying != 0},
		{"agents_late", s.AgentsLate != 0},
	} {
		if key.given {
			return fmt.Errorf("%s: the kernel fabric cannot do this; leave it out, or play it with --fabric flow", key.name)
		}
	}
	for i, f := range s.Faults {
		if err := kernel.CheckFault(t, f); err != nil {
			return fmt.Errorf("faults[%d]: %w", i, err)
		}
	}
	if n := len(t.Devices) + len(t.Hosts); n > kernel.MaxNodes {
		return fmt.Errorf("fabric: %d devices and hosts, the kernel fabric has room for %d; make it smaller, or play it with --fabric flow", n, kernel.MaxNodes)
	}
	return nil
}

// Fabrics lists the fabrics that can play a scenario, whatever this machine can.
func Fabrics(s *scenario.Scenario) ([]string, error) {
	t, err := s.Fabric.Topology()
	if err != nil {
		return nil, err
	}
	drawn, err := s.Draw(t, s.Seed)
	if err != nil {
		return nil, err
	}
	var names []string
	if checkKernel(t, drawn) == nil {
		names = append(names, FabricKernel)
	}
	if _, err := flow.New(drawn, s.Seed, flow.Options{}); err == nil {
		names = append(names, FabricFlow)
	}
	return names, nil
}

// newJudgeable brings up a fabric for a drawn scenario, decaf watching it.
func newJudgeable(ctx context.Context, t *topology.Topology, o RunOptions) (judgeable, error) {
	if o.Fabric == FabricFlow {
		return newVirtual(t, o)
	}
	if err := checkKernel(t, o.Scenario); err != nil {
		return nil, fmt.Errorf("scenario %s: %w", o.Scenario.Name, err)
	}
	if o.Scenario.Noise > 0 {
		o.Progress("noise %g is ignored: the kernel fabric loses only what its faults lose", o.Scenario.Noise)
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	return newKernelStage(ctx, o.Scenario, LabOptions{Topology: t, Seed: o.Seed, TraceBudget: o.Scenario.TraceBudget,
		Listen: o.Listen, Keep: o.Keep, Log: o.Log, Progress: o.Progress}, o.Record != "")
}

// waitReal lets real time pass, and calls each once a second of it; what fails
// meanwhile ends the wait.
func waitReal(ctx context.Context, until time.Time, failed <-chan error, each func()) error {
	end := time.NewTimer(time.Until(until))
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case <-end.C:
			return nil
		case <-tick.C:
			each()
		}
	}
}

// discard is a log to nowhere.
func discard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
