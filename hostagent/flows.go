package hostagent

import (
	"context"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
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
	// wholes is how many dumps are to be of all sockets from the next one on;
	// partial and listed are how many were not, or of those on the list alone,
	// since one that was more.
	wholes, partial, listed int
	shown                   int    // samples in the latest dump
	lost                    uint64 // last samples, at the latest dump

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
	if err := c.dump(time.Now(), false); err != nil {
		return err
	}
	ready()
	// What it took to load the programs and to see all sockets is more than is
	// needed from now on, and little comes that would have it collected.
	debug.FreeOSMemory()
	for done := false; !done; {
		now := time.Now()
		deadline := now.Add(untilIntervalEnd(now, a.cfg.Flows.Interval))
		// At least once, though ctx be done: what has ended since is still to be read.
		for more := true; more; more = now.Before(deadline) && ctx.Err() == nil {
			c.tellHeld(now)
			until := now.Add(heldEvery)
			if deadline.Sub(until) < heldEvery/2 {
				until = deadline
			}
			if err := k.Wait(until, c.closed, c.broken); err != nil {
				return err
			}
			now = time.Now()
		}
		done = ctx.Err() != nil
		began := time.Now()
		if err := c.dump(began, done); err != nil {
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
		a: a, k: k, start: now, adopted: settings, wholes: 1,
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

// How many dumps in a row may leave out sockets: those without news, and those not
// on the list of these.
const (
	// What one of all finds besides is what went by unseen: flows that were moved
	// out and still are there, and flows gone without a last word.
	partialDumps = 23
	listedDumps  = 5
)

// kind says which sockets the dump is to show that ends an interval at end.
func (c *flowCounter) kind(end time.Time, last bool) dumped {
	switch {
	case c.wholes > 0 || c.partial >= partialDumps:
		return dumpAll
	case !c.k.Lists(), last, c.due(end), c.listed >= listedDumps,
		// Many are sooner read in their order.
		c.shown > len(c.table.flows)/2 && c.shown > 1000:
		return dumpChanged
	}
	return dumpListed
}

// dump gives the table the samples that end an interval. A dump that breaks off
// leaves the flows it did not show for the next one.
func (c *flowCounter) dump(end time.Time, last bool) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	lost, err := c.k.Lost()
	if err != nil {
		return err
	}
	if lost != c.lost || c.failed {
		c.lost, c.wholes = lost, 2 // some may be gone: those that neither shows
	}
	ignored := c.table.stats.ignored
	kind := c.kind(end, last)
	c.shown = 0
	c.table.beginDump(now)
	dump := func() error { return c.k.Dump(kind, c.live, c.broken) }
	var others, fatal bool
	if kind == dumpListed {
		others, _, err = c.spaces.each(nil)
		err = errors.Join(err, dump())
	} else {
		others, fatal, err = c.spaces.each(dump)
	}
	if fatal {
		return err
	}
	if err == nil {
		c.table.endDump(kind)
	}
	c.partial, c.listed = c.partial+1, c.listed+1
	if kind != dumpListed {
		c.listed = 0
	}
	if kind == dumpAll {
		c.wholes, c.partial = max(0, c.wholes-1), 0
	}
	if others {
		c.wholes = 2 // or flows are where nothing shows them any more
	}
	if c.table.stats.ignored != ignored {
		c.wholes = max(c.wholes, 1) // one of these may find a place next time
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
	c.shown++
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

// due says whether the tables' interval ends with one of the rows that ends at end:
// the nearest. Other settings end it too.
func (c *flowCounter) due(end time.Time) bool {
	return !end.Add(c.a.cfg.Flows.Interval/2).Before(c.tablesDue) || c.a.tableSettings.Load() != c.adopted
}

// publishTables sends the flow table and the closed-connections table when their
// interval is over, or the agent ends, and puts new settings in force.
func (c *flowCounter) publishTables(end time.Time, last bool) {
	settings := c.a.tableSettings.Load()
	if !c.due(end) && !last {
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
		c.wholes = max(c.wholes, 1)
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

// tellHeld sends what of the tables does not wait for their interval's end.
func (c *flowCounter) tellHeld(now time.Time) {
	if !c.tables.tracks() || len(c.tables.early.services)+len(c.tables.early.conns) == 0 {
		return
	}
	c.tables.tellHeld(intervalStart(c.tablesStart, now), now.UnixNano(), c.table.flows, func(r *decafpb.FlowRecord) {
		c.a.deps.Publisher.Publish(r)
	})
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
