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
	k      flowReader
	table  *flowTable
	start  time.Time // of the interval that goes on
	said   flowStats // already in the counters
	failed bool      // the latest dump
	spaces *flowSpaces

	tables      *tables
	tablesStart time.Time // of the tables' interval
	tablesDue   time.Time // when it ends
	tablesSaid  tableStats
	adopted     *tableSettings // in force
}

// countFlows publishes at the end of each interval what this host's flows sent
// in it, until ctx is done; then what the last, shorter one saw. ready is
// called once everything sent from then on is counted.
func (a *Agent) countFlows(ctx context.Context, k flowReader, ns *os.File, netns uint32, ready func()) error {
	// An iterator lists the sockets of the namespace of the thread that opens
	// it. A thread that moved is never given back: it ends with its goroutine.
	runtime.LockOSThread()
	if err := enterNetNS(ns, netns); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, k.Stop)
	defer stop()

	c := newFlowCounter(a, k)
	c.spaces = newFlowSpaces(ns, netns, a.cfg.Namespaces)
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
		c.publish(began, done)
		a.count.add(countFlowTime, uint64(time.Since(began)))
	}
	return nil
}

func newFlowCounter(a *Agent, k flowReader) *flowCounter {
	now := time.Now()
	settings := a.tableSettings.Load()
	c := &flowCounter{
		a: a, k: k, start: now, adopted: settings,
		tables: newTables(tableLimits{records: a.cfg.Tables.MaxRecords, services: a.cfg.Tables.MaxServices}, *settings),
	}
	c.spaces = newFlowSpaces(nil, 0, nil)
	c.tables.container = a.containers.name
	c.table = newFlowTable(flowLimits{flows: a.cfg.Flows.MaxFlows, rows: a.cfg.Flows.MaxRows}, c.tables)
	c.plan(now)
	return c
}

// plan says when the interval of the tables ends that begins now.
func (c *flowCounter) plan(now time.Time) {
	c.tablesStart = now
	c.tablesDue = now.Add(untilIntervalEnd(now, c.tables.settings.Interval))
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
	fatal, err := c.spaces.each(func() error { return c.k.Dump(c.live, c.broken) })
	c.table.endDump()
	if fatal {
		return err
	}
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
	if s.listens() || c.counts(s) {
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

// intervalStart is when the interval began, in ns UTC, that ends at end.
func intervalStart(start, end time.Time) int64 {
	return startOf(start.UnixNano(), end.UnixNano(), end.Sub(start))
}

// startOf is when an interval began that the wall clock says began at start and
// ended at end, both ns UTC, and that took so long by the monotonic clock. It
// goes by the latter where the wall clock was set meanwhile, so that no interval
// ends before it begins; else without a hole.
func startOf(start, end int64, took time.Duration) int64 {
	if at := end - int64(took); max(at-start, start-at) > int64(time.Millisecond) {
		return at
	}
	return start
}

// publishTables sends the flow table and the closed-connections table when their
// interval is over, or the agent ends, and puts new settings in force.
func (c *flowCounter) publishTables(end time.Time, last bool) {
	settings := c.a.tableSettings.Load()
	// An interval of theirs ends with one of the rows; the nearest.
	due := !end.Add(c.a.cfg.Flows.Interval / 2).Before(c.tablesDue)
	if !due && !last && settings == c.adopted {
		return
	}
	if c.tables.tracks() {
		c.tables.take(intervalStart(c.tablesStart, end), end.UnixNano(), c.table.flows, func(r *decafpb.FlowRecord) {
			c.a.deps.Publisher.Publish(r)
		})
	}
	if settings != c.adopted {
		c.adopted = settings
		c.tables.adopt(*settings, c.table.flows)
		c.a.log.Info("tables", "tracking", settings.Tracking, "interval", settings.Interval, "sample", settings.Sample,
			"only", settings.Only, "ignore", settings.Ignore)
	}
	c.plan(end)

	now := c.tables.stats
	c.a.count.rises([]rise{
		{countTableRecords, now.records, c.tablesSaid.records},
		{countTableServices, now.services, c.tablesSaid.services},
		{countConnsOpened, now.created, c.tablesSaid.created},
		{countConnsEnded, now.ended, c.tablesSaid.ended},
		{countConnsTerminated, now.terminated, c.tablesSaid.terminated},
		{countConnsFailed, now.failed, c.tablesSaid.failed},
		{countTableLeftOut, now.recordsLeftOut, c.tablesSaid.recordsLeftOut},
		{countTableClosedLeftOut, now.closedLeftOut, c.tablesSaid.closedLeftOut},
		{countTableServicesLeftOut, now.servicesLeftOut, c.tablesSaid.servicesLeftOut},
		{countTableUnsampled, now.unsampled, c.tablesSaid.unsampled},
		{countTableFiltered, now.filteredFlows, c.tablesSaid.filteredFlows},
	})
	c.tablesSaid = now
}

// publish sends the records of the interval that ends.
func (c *flowCounter) publish(end time.Time, last bool) {
	start := intervalStart(c.start, end)
	c.start = end
	c.table.take(start, end.UnixNano(), func(r *decafpb.FlowRecord) {
		if r.GetFlows() > 0 {
			c.a.count.add(countFlowRows, 1)
		}
		c.a.deps.Publisher.Publish(r)
	})
	c.a.count.add(countFlowIntervals, 1)
	c.publishTables(end, last)

	now := c.table.stats
	c.a.count.rises([]rise{
		{countFlowsLossFree, now.lossFree, c.said.lossFree},
		{countFlowPackets, now.packets, c.said.packets},
		{countFlowsLossy, now.lossy, c.said.lossy},
		{countFlowsLossyLeftOut, now.lossyLeftOut, c.said.lossyLeftOut},
		{countFlowsUnknownStart, now.unknownStart, c.said.unknownStart},
		{countFlowsIgnored, now.ignored, c.said.ignored},
		{countFlowsEvicted, now.evicted, c.said.evicted},
		{countFlowsVanished, now.vanished, c.said.vanished},
		{countFlowRowsLeftOut, now.rowsLeftOut, c.said.rowsLeftOut},
	})
	c.said = now
}
