package hostagent

import (
	"context"
	"os"
	"runtime"
	"time"

	"decaf/api/decafpb"
)

// flowCounter counts what flows send, interval by interval, in one goroutine.
type flowCounter struct {
	a      *Agent
	k      *flowKernel
	table  *flowTable
	start  time.Time // of the interval that goes on
	said   flowStats // already in the counters
	failed bool      // the latest dump
}

// countFlows publishes at the end of each interval what this host's flows sent
// in it, until ctx is done; then what the last, shorter one saw. ready is
// called once everything sent from then on is counted.
func (a *Agent) countFlows(ctx context.Context, k *flowKernel, ns *os.File, netns uint32, ready func()) error {
	// An iterator lists the sockets of the namespace of the thread that opens
	// it. A thread that moved is never given back: it ends with its goroutine.
	runtime.LockOSThread()
	if err := enterNetNS(ns, netns); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, k.Stop)
	defer stop()

	c := &flowCounter{
		a: a, k: k, start: time.Now(),
		table: newFlowTable(flowLimits{flows: a.cfg.Flows.MaxFlows, rows: a.cfg.Flows.MaxRows}),
	}
	// What was sent before belongs to no interval.
	if err := c.dump(); err != nil {
		return err
	}
	ready()
	for done := false; !done; {
		now := time.Now()
		deadline := now.Add(untilIntervalEnd(now, a.cfg.Flows.Interval))
		if err := k.Wait(deadline, c.closed, c.broken); err != nil {
			return err
		}
		done = ctx.Err() != nil
		began := time.Now()
		if err := c.dump(); err != nil {
			return err
		}
		c.publish(began)
		a.count.add(countFlowTime, uint64(time.Since(began)))
	}
	return nil
}

// untilIntervalEnd is how long an interval lasts that begins now. Intervals end
// at multiples of their length since the epoch of Unix time, so that they end
// with the epochs of blame; one that would be short becomes longer instead.
func untilIntervalEnd(now time.Time, interval time.Duration) time.Duration {
	d := interval - time.Duration(now.UnixNano()%int64(interval))
	if d < interval/4 {
		d += interval
	}
	return d
}

// dump gives the table a sample of every socket. A dump that breaks off leaves
// the flows it did not show for the next interval.
func (c *flowCounter) dump() error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	c.table.beginDump(now)
	err = c.k.Dump(c.live, c.broken)
	c.table.endDump()
	if err != nil {
		c.a.count.add(countFlowDumpFailed, 1)
		if !c.failed {
			c.a.log.Warn("cannot list the sockets; what they sent is counted later", "err", err)
		}
	}
	c.failed = err != nil
	return nil
}

func (c *flowCounter) live(s *flowSample) {
	if c.counts(s) {
		c.table.live(s)
	}
}

func (c *flowCounter) closed(s *flowSample) {
	if c.counts(s) {
		c.table.closed(s)
	}
}

// counts says whether a flow is evidence of the network: it leaves this host,
// and by no network that carries evidence itself.
func (c *flowCounter) counts(s *flowSample) bool {
	src, dst := s.src.Addr(), s.dst.Addr()
	switch {
	case dst.IsLoopback() || src == dst:
		c.a.count.add(countFlowsLocal, 1)
	case c.a.rules.ignored(src) || c.a.rules.ignored(dst):
		c.a.count.add(countFlowsExcluded, 1)
	default:
		return true
	}
	return false
}

func (c *flowCounter) broken(err error) {
	c.a.count.add(countFlowBroken, 1)
	c.a.log.Debug("cannot read a flow sample", "err", err)
}

// publish sends the records of the interval that ends.
func (c *flowCounter) publish(end time.Time) {
	// By the monotonic clock where the wall clock was set meanwhile, so that no
	// interval ends before it begins; else without a hole.
	start := c.start.UnixNano()
	if at := end.UnixNano() - int64(end.Sub(c.start)); max(at-start, start-at) > int64(time.Millisecond) {
		start = at
	}
	c.start = end
	c.table.take(start, end.UnixNano(), func(r *decafpb.FlowRecord) {
		if r.GetFlows() > 0 {
			c.a.count.add(countFlowRows, 1)
		}
		c.a.deps.Publisher.Publish(r)
	})
	c.a.count.add(countFlowIntervals, 1)

	now := c.table.stats
	for _, n := range []struct {
		name        string
		now, before uint64
	}{
		{countFlowsLossFree, now.lossFree, c.said.lossFree},
		{countFlowPackets, now.packets, c.said.packets},
		{countFlowsLossy, now.lossy, c.said.lossy},
		{countFlowsLossyLeftOut, now.lossyLeftOut, c.said.lossyLeftOut},
		{countFlowsUnknownStart, now.unknownStart, c.said.unknownStart},
		{countFlowsIgnored, now.ignored, c.said.ignored},
		{countFlowsEvicted, now.evicted, c.said.evicted},
		{countFlowsVanished, now.vanished, c.said.vanished},
		{countFlowRowsLeftOut, now.rowsLeftOut, c.said.rowsLeftOut},
	} {
		c.a.count.add(n.name, n.now-n.before)
	}
	c.said = now
}
