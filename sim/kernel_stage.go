package sim

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"decaf/api/packet"
	"decaf/sim/kernel"
	"decaf/sim/scenario"
)

// kernelStage is a lab on which a scenario is played in real time. It is asked over
// HTTP, as any user would.
type kernelStage struct {
	*client
	lab      *Lab
	scenario *scenario.Scenario
	seed     uint64
	began    time.Time
	before   map[string]kernel.Counters // per link, at the beginning
	active   map[int]*kernel.Active     // by window
	losses   []loss
	heard    *presence // nil: not asked for
}

func newKernelStage(ctx context.Context, s *scenario.Scenario, o LabOptions, record bool) (*kernelStage, error) {
	lab, err := NewLab(ctx, o)
	if err != nil {
		return nil, err
	}
	k := &kernelStage{client: lab.client, lab: lab, scenario: s, seed: o.Seed, active: make(map[int]*kernel.Active)}
	if record {
		k.heard = newPresence()
	}
	return k, nil
}

func (k *kernelStage) fabric() string { return FabricKernel }

func (k *kernelStage) start(context.Context) (began time.Time, err error) {
	if k.before, err = k.lab.Fabric.LinkCounters(); err != nil {
		return began, err
	}
	if err := k.lab.StartTraffic(k.scenario, k.seed); err != nil {
		return began, err
	}
	k.began = time.Now()
	return k.began, nil
}

func (k *kernelStage) now() time.Duration { return time.Since(k.began) }

func (k *kernelStage) wait(ctx context.Context, until time.Duration, each func()) error {
	return waitReal(ctx, k.began.Add(until), k.lab.Died(), func() {
		k.listen(ctx)
		each()
	})
}

// listen notes which agents the service hears.
func (k *kernelStage) listen(ctx context.Context) {
	if k.heard == nil {
		return
	}
	agents, err := k.agents(ctx)
	if err != nil {
		return // the next tick asks again; what was not heard counts as silence
	}
	for _, a := range agents {
		if a.LastSeenNS > 0 && a.Error == "" {
			k.heard.beat(a.Name, int64(a.LastSeenNS))
		}
	}
}

func (k *kernelStage) faultOn(n int, w faultWindow) error {
	a, err := k.lab.Fabric.Apply(w.Fault)
	if err == nil {
		k.active[n] = a
	}
	return err
}

func (k *kernelStage) faultOff(n int, w faultWindow) (uint64, error) {
	a := k.active[n]
	if a == nil {
		return 0, nil
	}
	delete(k.active, n)
	err := a.Stop()
	truth := a.Truth()
	for _, d := range truth.Drops {
		k.losses = append(k.losses, loss{
			atNS: uint64(d.Time.UnixNano()), seq: d.Seq, data: d.Payload > 0, link: d.Link, fault: w.fault,
			flow: packet.Flow{Src: unmapped(d.Src), Dst: unmapped(d.Dst), Proto: d.Protocol},
		})
	}
	switch {
	case err != nil:
		return truth.Packets, err
	// Without the whole truth there is nothing to hold decaf against.
	case truth.Err != nil:
		return truth.Packets, fmt.Errorf("count what was lost: %w", truth.Err)
	case truth.LeftOut > 0:
		return truth.Packets, fmt.Errorf("%d packets more than are listed were lost: make the fault shorter or rarer", truth.LeftOut)
	}
	return truth.Packets, nil
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func (k *kernelStage) testimony(ctx context.Context) (*testimony, error) {
	t := &testimony{heard: k.heard}
	var err error
	if t.retransmits, err = k.paths(ctx, k.began); err != nil {
		return nil, err
	}
	t.drops, err = k.drops(ctx, k.began)
	return t, err
}

// truth gives the packets that silent loss took, link by link; for other kinds the
// devices themselves are the witnesses.
func (k *kernelStage) truth() (*fabricTruth, error) {
	counters, err := k.lab.Fabric.LinkCounters()
	if err != nil {
		return nil, err
	}
	t := &fabricTruth{losses: k.losses, linksTotal: len(counters)}
	for name, c := range counters {
		if c.Packets > k.before[name].Packets {
			t.linksUsed++
		}
	}
	return t, nil
}

func (k *kernelStage) close() error { return k.lab.Close() }
