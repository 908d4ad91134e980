package api

import (
	"fmt"
	"net/http"
	"strconv"

	"decaf/api/decafpb"
)

// TelemetryView is what TCP saw of a connection, or of all those of a service, over
// the time asked for: the telemetry of US 10,778,507, tables 1 and 2.
type TelemetryView struct {
	Packets        uint64         `json:"packets"` // segments with data sent, those sent again too
	BytesSent      uint64         `json:"bytes_sent"`
	BytesReceived  uint64         `json:"bytes_received"`
	BytesPosted    uint64         `json:"bytes_posted"` // by the process, for sending
	BytesRead      uint64         `json:"bytes_read"`   // by the process
	Retransmits    uint64         `json:"retransmits"`  // segments
	LossShare      float64        `json:"loss_share"`   // retransmits of all segments with data, 0..1; 0 too if there were none
	Timeouts       uint64         `json:"timeouts"`
	Duplicates     uint64         `json:"duplicates_reported"` // segments that the other end had already (DSACK)
	OutOfOrder     uint64         `json:"out_of_order"`        // segments that arrived so
	Reorderings    uint64         `json:"reorderings"`         // times that what was sent was found to arrive out of order
	RTTMeanNS      uint64         `json:"rtt_mean_ns"`         // 0: not known
	RTTMaxNS       uint64         `json:"rtt_max_ns"`
	RTTMinNS       uint64         `json:"rtt_min_ns"` // the lowest that TCP remembers, some minutes back
	CwndMean       uint64         `json:"cwnd_mean_bytes"`
	CwndDelta      int64          `json:"cwnd_delta_bytes"` // how the congestion window grew; of a service: of all its connections
	CwndReductions uint64         `json:"cwnd_reductions"`
	RwndMean       uint64         `json:"rwnd_mean_bytes"`     // the window of the other end
	OwnRwndMean    uint64         `json:"own_rwnd_mean_bytes"` // the window that this end offers
	ZeroWindowNS   uint64         `json:"zero_window_ns"`      // how long the other end's window was closed
	Probes         uint64         `json:"zero_window_probes"`  // of the closed window: the most in a row without an answer
	ResetsSent     uint64         `json:"resets_sent"`
	ResetsReceived uint64         `json:"resets_received"`
	Intervals      []IntervalView `json:"intervals"` // what this is summed up from, oldest first
}

// IntervalView is a part of it.
type IntervalView struct {
	FromNS       uint64 `json:"from_ns"`
	ToNS         uint64 `json:"to_ns"`
	Packets      uint64 `json:"packets"`
	Retransmits  uint64 `json:"retransmits"`
	Bytes        uint64 `json:"bytes"` // sent and received
	RTTMeanNS    uint64 `json:"rtt_mean_ns"`
	RTTMaxNS     uint64 `json:"rtt_max_ns"`
	ZeroWindowNS uint64 `json:"zero_window_ns"`
}

// ConnectionView is a connection as the host at one of its ends tells of it: the flow
// leads away from that host.
type ConnectionView struct {
	Host      string    `json:"host"`
	Flow      *FlowView `json:"flow"`
	SrcHost   string    `json:"src_host,omitempty"`
	DstHost   string    `json:"dst_host,omitempty"`
	Inbound   bool      `json:"inbound"`         // the other end opened it
	State     string    `json:"state"`           // new, open, closed, terminated, failed
	Error     string    `json:"error,omitempty"` // what ended it, "ECONNRESET"
	Active    bool      `json:"active"`          // data moved of late
	Process   string    `json:"process,omitempty"`
	Container string    `json:"container,omitempty"`
	UID       *uint32   `json:"uid,omitempty"`    // whose socket it is
	Cookie    string    `json:"cookie,omitempty"` // of the socket, hexadecimal, as `ss -e` shows it
	From      string    `json:"from,omitempty"`   // since when the host tells of it
	FromNS    uint64    `json:"from_ns"`
	Before    bool      `json:"open_before"` // it was open by then
	Last      string    `json:"last,omitempty"`
	LastNS    uint64    `json:"last_ns"`     // the end of the newest interval
	Duration  uint64    `json:"duration_ms"` // since it was established; 0: it is not yet, or was before the host watched
	SampledOf uint64    `json:"sampled_of,omitempty"`
	TelemetryView
	RTTVarNS uint64    `json:"rtt_var_ns"` // TCP's latest measure of how far round trips differ; 0: not known
	Trouble  bool      `json:"trouble"`
	Path     *PathView `json:"path,omitempty"` // as traced for a retransmit of it
}

// ServiceView is all connections of a host to a service elsewhere, or of elsewhere to
// a service of the host, that is, a port; port 0 is a row of loss-free connections
// to one other host, of hosts that sum up no services.
type ServiceView struct {
	Host       string `json:"host"`
	Src        string `json:"src"` // address of the host
	Dst        string `json:"dst"`
	DstHost    string `json:"dst_host,omitempty"`
	Port       uint32 `json:"port"`
	Inbound    bool   `json:"inbound"` // the service is the host's
	Flows      uint64 `json:"flows"`
	New        uint64 `json:"new_flows"`
	Closed     uint64 `json:"closed_flows"`
	Terminated uint64 `json:"terminated_flows"`
	Failed     uint64 `json:"failed_flows"`
	Shrunk     uint64 `json:"shrunk_flows"` // those whose congestion window shrank, in each interval
	Active     bool   `json:"active"`
	From       string `json:"from,omitempty"`
	FromNS     uint64 `json:"from_ns"`
	Last       string `json:"last,omitempty"`
	LastNS     uint64 `json:"last_ns"`
	TelemetryView
	Trouble bool `json:"trouble"`
}

// TableView is a list of connections or services.
type TableView[V any] struct {
	List[V]
	// Those that had to make room for others, since the service started, and how many
	// of them showed trouble.
	Forgotten        uint64 `json:"forgotten"`
	ForgottenTrouble uint64 `json:"forgotten_trouble"`
}

func telemetry(r FlowRow) TelemetryView {
	out := TelemetryView{
		Packets: r.Packets, BytesSent: r.BytesSent, BytesReceived: r.BytesReceived, BytesPosted: r.BytesPosted, BytesRead: r.BytesRead,
		Retransmits: r.Retransmits, Timeouts: r.Timeouts, Duplicates: r.DuplicatesReported, OutOfOrder: r.OutOfOrder, Reorderings: r.Reorderings,
		LossShare: lossShare(r.Retransmits, r.Packets),
		RTTMeanNS: r.RttMeanNs, RTTMaxNS: r.RttMaxNs, RTTMinNS: r.RttMinNs,
		CwndMean: r.CwndMeanBytes, CwndDelta: r.CwndDeltaBytes, CwndReductions: r.CwndReductions, RwndMean: r.RwndMeanBytes, OwnRwndMean: r.OwnRwndMeanBytes,
		ZeroWindowNS: r.ZeroWindowNs, Probes: r.ZeroWindowProbes, ResetsSent: r.ResetsSent, ResetsReceived: r.ResetsReceived,
		Intervals: make([]IntervalView, 0, len(r.Parts)),
	}
	for _, p := range r.Parts {
		out.Intervals = append(out.Intervals, IntervalView{
			FromNS: p.StartNs, ToNS: p.EndNs, Packets: p.Packets, Retransmits: p.Retransmits, Bytes: p.Bytes,
			RTTMeanNS: p.RTTMeanNs, RTTMaxNS: p.RTTMaxNs, ZeroWindowNS: p.ZeroWindowNs,
		})
	}
	return out
}

// lossShare is which part of the segments with data was sent again. One that sent
// none, but repeated its SYN or SYN-ACK, has no such share.
func lossShare(retransmits, packets uint64) float64 {
	if packets == 0 {
		return 0
	}
	return min(1, float64(retransmits)/float64(packets))
}

// HeldUp is from how long on a closed window is trouble, ns: any reader that is
// busy for a moment closes it for less.
const HeldUp = 10e6

// trouble is as [FlowRow] has it.
func (t *TelemetryView) trouble() bool {
	return t.Retransmits+t.Timeouts+t.ResetsSent+t.ResetsReceived > 0 || t.ZeroWindowNS >= HeldUp
}

// Connection views a connection.
func (v Views) Connection(r FlowRow) ConnectionView {
	out := ConnectionView{
		Host: r.GetOrigin().GetProducer(), Flow: v.Flow(r.Flow), SrcHost: v.host(r.Flow.GetSrc()), DstHost: v.host(r.Flow.GetDst()),
		Inbound: r.Inbound, State: word(r.State.String(), "STATE_"), Error: errno(r.Error), Active: r.Active,
		Process: r.Process, Container: r.Container, From: timeText(r.FirstNs), FromNS: r.FirstNs, Before: r.Before,
		Last: timeText(r.EndNs), LastNS: r.EndNs, Duration: r.DurationMs, UID: r.Uid, TelemetryView: telemetry(r), RTTVarNS: r.RttVarNs, Path: v.Path(r.Path, r.Flow),
	}
	if r.SampledOf > 1 {
		out.SampledOf = r.SampledOf
	}
	if r.Cookie != 0 {
		out.Cookie = strconv.FormatUint(r.Cookie, 16)
	}
	out.Trouble = out.trouble() || r.State == decafpb.FlowRecord_STATE_FAILED || r.State == decafpb.FlowRecord_STATE_TERMINATED
	return out
}

// Service views a service.
func (v Views) Service(r FlowRow) ServiceView {
	f := r.GetFlow()
	out := ServiceView{
		Host: r.GetOrigin().GetProducer(), Src: address(f.GetSrc()), Dst: address(f.GetDst()), DstHost: v.host(f.GetDst()),
		Port: max(f.GetSrcPort(), f.GetDstPort()), Inbound: r.Inbound, Active: r.Active,
		Flows: r.Flows, New: r.NewFlows, Closed: r.ClosedFlows, Terminated: r.TerminatedFlows, Failed: r.FailedFlows, Shrunk: r.ShrunkFlows,
		From: timeText(r.FirstNs), FromNS: r.FirstNs, Last: timeText(r.EndNs), LastNS: r.EndNs, TelemetryView: telemetry(r),
	}
	out.Trouble = out.trouble() || out.Terminated+out.Failed > 0
	return out
}

// errno names an error of Linux that can end a connection, "" for none.
func errno(n int32) string {
	if n == 0 {
		return ""
	}
	if name, ok := errnoNames[n]; ok {
		return name
	}
	return "errno " + strconv.Itoa(int(n))
}

// errnoNames are those of include/uapi/asm-generic/errno.h, whatever system this runs
// on: the numbers are of the host that tells of them.
var errnoNames = map[int32]string{
	4: "EINTR", 11: "EAGAIN", 12: "ENOMEM", 13: "EACCES", 32: "EPIPE", 71: "EPROTO", 90: "EMSGSIZE", 92: "ENOPROTOOPT",
	98: "EADDRINUSE", 99: "EADDRNOTAVAIL", 100: "ENETDOWN", 101: "ENETUNREACH", 103: "ECONNABORTED", 104: "ECONNRESET",
	105: "ENOBUFS", 110: "ETIMEDOUT", 111: "ECONNREFUSED", 112: "EHOSTDOWN", 113: "EHOSTUNREACH", 125: "ECANCELED",
}

// connectionFilters and serviceFilters are the parameters that choose some.
var (
	connectionFilters = []string{"host", "src", "dst", "src_port", "dst_port", "port", "component", "state", "trouble", "sort"}
	serviceFilters    = []string{"host", "src", "dst", "src_port", "dst_port", "port", "trouble", "sort"}
)

func (s *Server) listConnections(w http.ResponseWriter, r *http.Request) error {
	return answerTable(s, w, r, connectionFilters, s.connections)
}

func (s *Server) listServices(w http.ResponseWriter, r *http.Request) error {
	return answerTable(s, w, r, serviceFilters, s.services)
}

func answerTable[V any](s *Server, w http.ResponseWriter, r *http.Request, filters []string, get func(*http.Request, Range) (TableView[V], error)) error {
	rng, _, err := s.asked(r, append([]string{"since", "until", "limit"}, filters...)...)
	if err != nil {
		return err
	}
	table, err := get(r, rng)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, table)
}

func (s *Server) connections(r *http.Request, rng Range) (TableView[ConnectionView], error) {
	rows, err := s.backend.Connections(r.Context(), rng)
	if err != nil {
		return TableView[ConnectionView]{}, fmt.Errorf("list connections: %w", err)
	}
	return tableOf(rows, rng, s.views().Connection), nil
}

func (s *Server) services(r *http.Request, rng Range) (TableView[ServiceView], error) {
	rows, err := s.backend.Services(r.Context(), rng)
	if err != nil {
		return TableView[ServiceView]{}, fmt.Errorf("list services: %w", err)
	}
	return tableOf(rows, rng, s.views().Service), nil
}

func tableOf[V any](rows FlowRows, rng Range, view func(FlowRow) V) TableView[V] {
	return TableView[V]{List: each(rows.Rows, rng, view), Forgotten: rows.Forgotten, ForgottenTrouble: rows.Troubled}
}
