package kernel

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// acl drops what a device forwards by a rule of a packet filter, as a wrong access
// list would. The rule counts. Devices say policy/l3/acl.
func (f *Fabric) acl(g *target) (effect, error) {
	n, err := f.node(g.device)
	if err != nil {
		return nil, err
	}
	var rules [][]expr.Any
	for _, match := range matches(g.src, g.dst, g.port) {
		rules = append(rules, slices.Concat(match, g.chance(), []expr.Any{count, &expr.Verdict{Kind: expr.VerdictDrop}}))
	}
	t, err := newFilter(n.space, nftables.ChainHookForward, nftables.ChainPriorityFilter, rules)
	if err != nil {
		return nil, err
	}
	return &filtered{t}, nil
}

// filtered is a fault that is a packet filter and nothing else; it counts what it
// drops.
type filtered struct{ filter *filter }

func (e *filtered) read(t *Truth) (err error) {
	t.Packets, err = e.filter.packets()
	return err
}

func (e *filtered) undo() error { return e.filter.remove() }
