package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// sources are what an agent sees drops by, open. There is one at least.
type sources struct {
	kernel source       // nil: not used
	nflog  *nflog       // nil: not used
	names  *ruleNames   // of drops that both tell of, when there are both
	remote *sflowSwitch // nil, or alone: another device's
}

// errNoSource says that an agent has nothing to see drops by.
var errNoSource = errors.New("no drops can be seen")

// openSources opens those of the configuration that this machine has, in the
// network namespace of the calling thread. One that cannot run says why and the
// others go on; with none left the error is errNoSource. never holds the kernel's
// reasons to pass over.
func openSources(cfg *Config, never map[string]bool, log *slog.Logger) (*sources, error) {
	s := &sources{}
	var errs []error
	if cfg.Kernel {
		var err error
		if s.kernel, err = openSource(never, cfg.pace(), log); err != nil {
			s.kernel = nil
			errs = append(errs, err)
		}
	}
	if len(cfg.NFLOG.Groups) > 0 {
		var err error
		if s.kernel != nil {
			s.nflog, err = openNFLOG(cfg.NFLOG, s.kernel.ifname, log)
		} else {
			s.nflog, err = openNFLOGAlone(cfg.NFLOG, log)
		}
		if err != nil {
			s.nflog = nil
			errs = append(errs, err)
		}
	}
	if s.kernel == nil && s.nflog == nil {
		return nil, fmt.Errorf("%w: %w", errNoSource, errors.Join(errs...))
	}
	for _, err := range errs {
		log.Error("a source of drops does not run, the others do", "error", err)
	}
	switch {
	case s.kernel == nil:
		log.Warn("without the kernel source what firewall rules log counts as dropped, and no other drop is seen")
	case s.nflog != nil:
		s.names = newRuleNames(ruleNameWindow, maxRuleNames)
	}
	return s, nil
}

// name says what they are: "tp_btf", "tp_btf+nflog", "nflog", "sflow".
func (s *sources) name() string {
	var names []string
	if s.kernel != nil {
		names = append(names, eventSource)
	}
	if s.nflog != nil {
		names = append(names, "nflog")
	}
	if s.remote != nil {
		names = append(names, "sflow")
	}
	return strings.Join(names, "+")
}

// read gives the agent what is seen until ctx ends, then what is left.
func (s *sources) read(ctx context.Context, a *Agent) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if s.kernel == nil {
		if s.remote != nil {
			return s.remote.observe(ctx, a.enterNow)
		}
		return s.nflog.observe(ctx, a.enterNow)
	}
	if s.nflog != nil {
		var naming sync.WaitGroup
		naming.Go(func() {
			if err := s.nflog.observe(ctx, s.logged); err != nil { // drops are still seen, without their rules
				a.log.Error("the NFLOG source ended", "error", err)
			}
		})
		defer naming.Wait()
		defer stop() // before the wait
	}
	return s.kernel.read(ctx, func(r *record, at time.Time) { a.drop(s, r, at) })
}

// netfilterDrop is the kernel's reason for what a firewall rule dropped.
const netfilterDrop = "NETFILTER_DROP"

// logged takes in what the firewall logged, beside the kernel's drops.
func (s *sources) logged(o observed) { s.names.logged(time.Now(), o) }

// named gives a drop that the kernel told of the name of its rule. Only what
// netfilter dropped has one: a packet that was logged and accepted, and dropped
// for something else, keeps its reason.
func (s *sources) named(o observed) observed {
	if s.names == nil || o.event.Reason != netfilterDrop {
		return o
	}
	s.nflog.catchUp(s.logged)
	return s.names.dropped(time.Now(), o)
}

// counts says how many drops there was no room for somewhere, and how many
// notices were no loss. Beside the kernel's drops a log that was lost is a name
// that was lost, no drop.
func (s *sources) counts() (lost, passed uint64, err error) {
	switch {
	case s.kernel != nil:
		return s.kernel.counts()
	case s.nflog != nil:
		return s.nflog.counts()
	case s.remote != nil:
		return s.remote.counts()
	}
	return 0, 0, nil
}

// backlog is how full the room between the kernel and the agent is, from 0 to 1,
// as far as that can be told.
func (s *sources) backlog() float64 {
	if b, ok := s.kernel.(backlogged); ok {
		return b.backlog()
	}
	return 0
}

// local reports whether what is lost was lost between this kernel and the agent.
// What a switch held back, or the network lost, says nothing of the agent's load.
func (s *sources) local() bool { return s.remote == nil }

func (s *sources) close() {
	if s.nflog != nil {
		s.nflog.close()
	}
	if s.kernel != nil { // last: it names interfaces
		s.kernel.close()
	}
	if s.remote != nil {
		s.remote.close()
	}
}
