package hostagent

import (
	"sync/atomic"

	"decaf/api/decafpb"
)

// Names of the counters, as heartbeats and /metrics show them.
const (
	countEvents     = "events"                // seen by the kernel programs and read
	countLostRing   = "events_lost_ring"      // found the ring buffer full
	countMissed     = "events_missed"         // retransmits that the kernel did not show its programs
	countUnwatched  = "namespaces_unwatched"  // other network namespaces that are to be watched and are not, now
	countBroken     = "events_broken"         // could not be decoded
	countIgnored    = "events_ignored"        // of ignored networks
	countNotSent    = "retransmits_not_sent"  // tried by TCP, but nothing was sent
	countRecords    = "retransmits"           // records published
	countSegments   = "segments"              // segments in these
	countLocal      = "retransmits_local"     // with a local cause
	countClosed     = "connections_closed"    // that had sent something again
	countUndone     = "connections_undone"    // of these, all of it needlessly
	countTakenBack  = "retransmits_undone"    // records taken back one by one
	countLocalDrops = "local_drops"           // packets this host dropped itself, that might be sent again
	countDropsLost  = "local_drops_lost_ring" // of these, found the ring buffer full
	countDropsOut   = "local_drops_left_out"  // of these, forgotten before their time: too many
	countVotesOut   = "votes_left_out"        // records that only the last word on their connection takes back: too many
	countQueueFull  = "traces_refused_queue"  // more traces waiting than the queue holds
	countBookFull   = "traces_refused_book"   // more flows in this epoch than the book holds
	countCrowded    = "traces_skipped_crowd"  // more records waiting for one trace than the book holds
	countComplete   = "paths_complete"        // records by path status
	countPartial    = "paths_partial"         // likewise
	countRefused    = "paths_refused"         // likewise
	countFailed     = "paths_failed"          // likewise
	countCached     = "paths_cached"          // likewise
	countSkipped    = "paths_skipped"         // likewise
	countUnknown    = "paths_unknown"         // a path status this agent does not know
	countHeartbeats = "heartbeats"            // published

	countFlowIntervals     = "flow_intervals"         // over which flows were counted
	countFlowRows          = "flow_rows"              // of loss-free flows, published
	countFlowsLossFree     = "flows_loss_free"        // flows in these, each once per interval
	countFlowPackets       = "flow_packets"           // data segments in these
	countFlowsLossy        = "flows_lossy"            // flows that sent something again, in no row
	countFlowsLossyLeftOut = "flows_lossy_left_out"   // of these, without a record of their own: more than flows.max_rows
	countFlowRowsLeftOut   = "flow_rows_left_out"     // flows in no row: more destinations than flows.max_rows
	countFlowsIgnored      = "flows_ignored"          // flows not counted: more active ones than flows.max_flows
	countFlowsEvicted      = "flows_evicted"          // inactive flows that made room for others
	countFlowsUnknownStart = "flows_unknown_start"    // opened before they were first seen, and counted from then on
	countFlowsVanished     = "flows_vanished"         // closed unseen: what they sent last is not counted
	countFlowsLocal        = "flow_samples_local"     // of flows that do not leave this host
	countFlowsExcluded     = "flow_samples_excluded"  // of ignored networks
	countFlowLost          = "flow_samples_lost_ring" // of closed flows, found the ring buffer full
	countFlowBroken        = "flow_samples_broken"    // could not be decoded
	countFlowDumpFailed    = "flow_dumps_failed"      // broke off
	countFlowTime          = "flow_time_ns"           // spent at the ends of intervals

	countTableRecords         = "table_records"               // of single connections, published
	countTableServices        = "table_services"              // sums per service, published
	countConnsOpened          = "table_connections_opened"    // or tried to be
	countConnsEnded           = "table_connections_ended"     // closed, terminated or failed
	countConnsTerminated      = "table_connections_aborted"   // of these, by an error or a reset
	countConnsFailed          = "table_connections_failed"    // of these, never established
	countTableLeftOut         = "table_records_left_out"      // more than tables.max_records: in the sums only
	countTableClosedLeftOut   = "table_closed_left_out"       // likewise, of ended connections
	countTableServicesLeftOut = "table_services_left_out"     // connections in no sum: more services than tables.max_services
	countTableUnsampled       = "table_records_unsampled"     // not listed, as the sampling says
	countTableFiltered        = "table_connections_untracked" // as the filters say

	countSurveys         = "surveys"           // of a destination's equal-cost paths, made
	countSurveysFailed   = "surveys_failed"    // that came to nothing
	countSurveyPaths     = "survey_paths"      // equal-cost paths found in the latest of each destination
	countSurveyUnwritten = "surveys_unwritten" // of which survey.file does not tell

	countTraceRate    = "trace_rate_per_1000s"    // traces that may start in 1000 s, as the agent is told
	countSpaceTracers = "trace_namespaces"        // other network namespaces traced from now
	countSpaceMissed  = "trace_namespaces_missed" // traces that needed another one, and did not get it

	countSettingsRefused = "settings_refused" // revision of the latest settings, if they could not be put in force, else 0

	countPubLeftOut = "records_left_out"       // by the publisher, NATS having been away too long
	countPubWaiting = "records_unacknowledged" // by JetStream so far
	countPubMerged  = "records_merged"         // flow records that became one with later ones of the same while NATS was away
)

// counted are the names that counters counts itself; the others are read where
// they are kept.
var counted = [...]string{
	countEvents, countBroken, countIgnored, countNotSent, countRecords, countSegments,
	countLocal, countClosed, countUndone, countTakenBack, countLocalDrops, countQueueFull, countBookFull, countCrowded,
	countComplete, countPartial, countRefused, countFailed, countCached, countSkipped, countUnknown,
	countHeartbeats,
	countFlowIntervals, countFlowRows, countFlowsLossFree, countFlowPackets, countFlowsLossy, countFlowsLossyLeftOut,
	countFlowRowsLeftOut, countFlowsIgnored, countFlowsEvicted, countFlowsUnknownStart, countFlowsVanished,
	countFlowsLocal, countFlowsExcluded, countFlowBroken, countFlowDumpFailed, countFlowTime,
	countTableRecords, countTableServices, countConnsOpened, countConnsEnded, countConnsTerminated, countConnsFailed,
	countTableLeftOut, countTableClosedLeftOut, countTableServicesLeftOut, countTableUnsampled, countTableFiltered,
}

// counters count what the agent did and what it left out. Safe for concurrent
// use.
type counters struct {
	of map[string]*atomic.Uint64 // not written after newCounters
}

func newCounters() *counters {
	c := &counters{of: make(map[string]*atomic.Uint64, len(counted))}
	for _, name := range counted {
		c.of[name] = new(atomic.Uint64)
	}
	return c
}

func (c *counters) add(name string, n uint64) { c.of[name].Add(n) }

// rise is a count that somebody else keeps, now and when it was added last.
type rise struct {
	name        string
	now, before uint64
}

func (c *counters) rises(list []rise) {
	for _, r := range list {
		c.add(r.name, r.now-r.before)
	}
}

func (c *counters) get(name string) uint64 { return c.of[name].Load() }

func (c *counters) path(s decafpb.PathStatus) {
	name, ok := countByPath[s]
	if !ok {
		name = countUnknown
	}
	c.add(name, 1)
}

var countByPath = map[decafpb.PathStatus]string{
	decafpb.PathStatus_PATH_STATUS_COMPLETE: countComplete,
	decafpb.PathStatus_PATH_STATUS_PARTIAL:  countPartial,
	decafpb.PathStatus_PATH_STATUS_REFUSED:  countRefused,
	decafpb.PathStatus_PATH_STATUS_FAILED:   countFailed,
	decafpb.PathStatus_PATH_STATUS_CACHED:   countCached,
	decafpb.PathStatus_PATH_STATUS_SKIPPED:  countSkipped,
}
