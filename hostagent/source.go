package hostagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
)

// A source says what TCP sends again. There are four, and each knows less than
// the one before it.
type source interface {
	// name is as heartbeats say it: one of those below, and what it does without.
	name() string
	// Run hands every event to handle until ctx is done, and then what waits;
	// broken gets what cannot be read. It must return before Close is called.
	Run(ctx context.Context, handle func(event), broken func(error)) error
	// follow says which network namespaces are watched beside the agent's own.
	follow(watchedSpaces) error
	// Lost is how many events found no room, since it was opened.
	Lost() (uint64, error)
	// Missed is how many events the kernel did not show, as far as it says.
	Missed() (uint64, error)
	// LostDrops is how many of this host's own drops did.
	LostDrops() (uint64, error)
	// flowSource counts what flows send; nil where that is not possible, or not
	// asked for.
	flowSource() flowReader
	Close() error
}

// Names of the sources, best first.
const (
	sourceAuto       = "auto"
	sourceBTF        = "tp_btf"     // programs on tracepoints, with the kernel's own types
	sourceTracepoint = "tracepoint" // programs on classic tracepoints, and sock_diag
	sourcePerf       = "perf"       // tracepoints through perf events, and sock_diag
	sourceDiag       = "sock_diag"  // sock_diag each second
)

// sourceOptions say what a source is to watch.
type sourceOptions struct {
	kernelOptions
	ns *os.File // the network namespace kernelOptions.netns is the number of
}

// sourceOpener opens one of sources.
type sourceOpener struct {
	name string
	open func(sourceOptions, *slog.Logger) (source, error)
}

// validSource says what is wrong with a name.
func validSource(name string) error {
	names := []string{sourceAuto, sourceBTF, sourceTracepoint, sourcePerf, sourceDiag}
	for _, n := range names {
		if n == name {
			return nil
		}
	}
	return fmt.Errorf("%q is none: give one of %s", name, strings.Join(names, ", "))
}

// openSource opens the source of that name, or with auto the best there is.
func openSource(name string, o sourceOptions, log *slog.Logger) (source, error) {
	var errs []error
	for _, s := range sources {
		if name != sourceAuto && name != s.name {
			continue
		}
		k, err := s.open(o, log)
		// The kernel's types took some megabytes, which nobody needs again.
		debug.FreeOSMemory()
		if err == nil {
			if len(errs) > 0 {
				log.Warn("watching retransmits by a lesser source, which knows less of each", "source", s.name, "err", errors.Join(errs...))
			}
			return k, nil
		}
		if name != sourceAuto || errors.Is(err, os.ErrPermission) {
			// What is missing is a privilege: to go on with less would hide it.
			return nil, fmt.Errorf("source %s: %w", s.name, err)
		}
		errs = append(errs, fmt.Errorf("source %s: %w", s.name, err))
	}
	return nil, errors.Join(errs...)
}

// LostDrops is that of source.
func (k *kernel) LostDrops() (uint64, error) { return k.drops.Lost() }

// name is that of source, with the tracepoints that this kernel lacks: what they
// would have told, resets or this host's own drops, nobody tells.
func (k *kernel) name() string {
	lacks := k.lacks()
	if len(lacks) == 0 {
		return sourceBTF
	}
	return sourceBTF + " without " + strings.Join(lacks, ", ")
}

// lacks names the tracepoints that any program would have been on.
func (k *kernel) lacks() []string {
	all := slices.Clone(k.missing)
	if k.flows != nil {
		all = append(all, k.flows.missing...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (k *kernel) flowSource() flowReader {
	if k.flows == nil {
		return nil
	}
	return k.flows
}
