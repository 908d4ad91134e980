package api

import (
	"context"
	"time"

	"decaf/api/decafpb"
	"decaf/topology"
)

// Backend is what the API shows. Every method may be called from many
// goroutines at once; what it returns is not changed afterwards by either
// side. Errors that are an *Error reach the user as they are; any other is
// logged and told as an internal error.
//
// Lists come ordered as they are to be shown, at most Range.Limit rows, and
// what was cut off is told with Range.Omit. Each honours the fields of the
// range that are named at it.
type Backend interface {
	// FileReport stores a report durably, then returns it with its id, the
	// time it was filed, the window it covers and a first verdict.
	FileReport(ctx context.Context, r *decafpb.FaultReport) (*decafpb.FaultReport, error)
	// Report returns one report with its latest verdict, or ErrNotFound.
	Report(ctx context.Context, id string) (*decafpb.FaultReport, error)
	// Reports returns the reports whose window touches the range (From, To;
	// Component and Class of the verdict), newest first.
	Reports(ctx context.Context, r Range) ([]*decafpb.FaultReport, error)
	// Findings returns findings that were open some time in the range (From,
	// To; Component, Class): open ones first, then newest first.
	Findings(ctx context.Context, r Range) ([]*decafpb.Finding, error)
	// Links returns the ranking of links by votes, highest first (From, To).
	// With a zero range it is the live one of the last epoch.
	Links(ctx context.Context, r Range) (LinkRanking, error)
	// Drops returns device drops (From, To; Component, Class, Flow), newest
	// first, none of them a probe's.
	Drops(ctx context.Context, r Range) ([]DropRow, error)
	// Paths returns retransmits with their traced paths (From, To; Component
	// that the path crosses, Flow), newest first.
	Paths(ctx context.Context, r Range) ([]*decafpb.Retransmit, error)
	// Connections returns what hosts tell of their connections (From, To; Component
	// that the traced path crosses or a host that is an end, Flow, Host, Port, State,
	// Trouble), in the order of Sort.
	Connections(ctx context.Context, r Range) (FlowRows, error)
	// Services returns what hosts tell of their connections to or of one service, or
	// to one other host, summed up: as Connections, but for Component and State.
	Services(ctx context.Context, r Range) (FlowRows, error)
	// Agents returns every device and host that sends or ought to send
	// evidence, by role and name, those never heard of included.
	Agents(ctx context.Context) ([]AgentRow, error)
	// Topology returns the network as configured; never nil.
	Topology() *topology.Topology
	// Ready says why the backend cannot answer yet, or nil.
	Ready() error
	Learner
}

// LinkRanking is what a method of blame makes of the links.
type LinkRanking struct {
	Method    string // "fused", "vote"
	Rows      []LinkRow
	Abstained []string // what could not be told, and why; few lines, for people
}

// LinkRow is one directed link in the ranking.
type LinkRow struct {
	Link    string  // "a>b", the topology's name, without the word link
	Votes   float64 // sum of 1/h over the lossy flows that crossed it
	Share   float64 // of all votes cast in the window, 0..1
	Flows   int     // lossy flows that crossed it and count towards a finding
	Weak    int     // lossy flows that vote but do not count: SYN only, lone TLP
	Drops   uint64  // device drops joined to it
	Sources int     // distinct source hosts among Flows
	// Destinations counts distinct destination hosts among Flows.
	Destinations int
	// Probability is that the link, or one that cannot be told from it, is at
	// fault; 0 where that is next to nothing or the method gives none.
	Probability float64
	Blamed      bool // an open finding names it
}

// DropRow is a device drop and what it was joined to.
type DropRow struct {
	*decafpb.DropEvent
	Device    string // name in the topology
	Component string // "link a>b" or "device d"
	Matched   bool   // a host retransmitted the same five-tuple and TCP sequence
}

// AgentRow is the health of one producer of evidence.
type AgentRow struct {
	Name     string
	Role     string // "device", "host"
	Version  string
	Source   string    // how it sees events: "tp_btf"
	LastSeen time.Time // zero if never
	Fresh    bool      // heard of recently enough to trust its silence
	BootID   uint64
	Reports  string // what a device tells of as its fuse and settings are: "full", "full but policy/l3/acl"
	Revision uint64 // of the settings in force that the service gave it; 0 without any
	Fuse     string // what a device's fuse allows of it
	// Unreported are the classes of drops that a device tells nothing of.
	Unreported []string
	// Suppressed counts, by why, a device's drops that had no event of their own.
	Suppressed map[string]uint64
	Gaps       uint64            // records lost on the way, by sequence numbers
	Counters   map[string]uint64 // what it had to leave out, and other counts of its heartbeat
	Error      string            // why it is not reached, empty if it is
}

// FlowRows are connections or services.
type FlowRows struct {
	Rows []FlowRow
	// Forgotten counts those that had to make room for others since the service
	// started; Troubled are those of them that showed trouble.
	Forgotten, Troubled uint64
}

// FlowRow is a connection, or a service, over the time asked for: what its host told
// of it in that time, summed up. Its record's origin has the host alone, its path is
// one that was traced for a retransmit of it.
//
// It shows trouble if anything was sent again or timed out, if it was reset, failed or
// was terminated, or if the other end's window was closed.
type FlowRow struct {
	*decafpb.FlowRecord
	FirstNs uint64 // since when the host tells of it
	Before  bool   // it was open by then
	// Parts are what it is summed up from, oldest first.
	Parts []FlowPart
}

// FlowPart is an interval of a host's tables, or a few.
type FlowPart struct {
	StartNs, EndNs, Packets, Retransmits uint64
	Bytes                                uint64 // sent and received
	RTTMeanNs, RTTMaxNs, ZeroWindowNs    uint64
}
