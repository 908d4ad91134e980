package api

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// The columns of `decaf flows`: first what it is, then what TCP saw.

// amount writes bytes for people: "812 B", "1.2 MB".
func amount(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1000, 0
	for f >= 999.5 && unit < len(units)-1 {
		f, unit = f/1000, unit+1
	}
	return digits(f) + " " + units[unit:unit+1] + "B"
}

// brief writes a length of time for people: "85 µs", "1.2 ms", "3.4 s"; "" for none.
func brief(ns uint64) string {
	switch f := float64(ns); {
	case ns == 0:
		return ""
	case f < 999.5e3:
		return digits(f/1e3) + " µs"
	case f < 999.5e6:
		return digits(f/1e6) + " ms"
	case ns < uint64(2*time.Minute):
		return digits(f/1e9) + " s"
	case ns > 1<<63-1:
		return ""
	}
	return coarse(time.Duration(ns))
}

// digits writes three digits at most: 1.23 as 1.2, 12.3 as 12.
func digits(f float64) string {
	if f < 9.95 {
		return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0")
	}
	return strconv.FormatFloat(f, 'f', 0, 64)
}

// fewPercent writes a share, small ones too: "0.04 %".
func fewPercent(share float64) string {
	switch p := 100 * share; {
	case p == 0:
		return ""
	case p < 0.01:
		return "< 0.01 %"
	case p < 0.95:
		return strconv.FormatFloat(p, 'g', 1, 64) + " %"
	default:
		return digits(p) + " %"
	}
}

// count writes a number unless it is zero: what is rare stands out.
func count(n uint64) string {
	if n == 0 {
		return ""
	}
	return number(n)
}

// bytesOf writes bytes unless there are none.
func bytesOf(n uint64) string {
	if n == 0 {
		return ""
	}
	return amount(n)
}

// grown writes by how many bytes something grew, or shrank: "+1.2 MB", "-812 B"; ""
// for neither.
func grown(n int64) string {
	switch {
	case n > 0:
		return "+" + amount(uint64(n))
	case n < 0:
		return "-" + amount(-uint64(n))
	}
	return ""
}

// millis writes a length of time as brief does.
func millis(ms uint64) string { return brief(min(ms, math.MaxInt64/1_000_000) * 1e6) }

// inWide leaves a column to wide tables: it has text of its own, with a unit.
func inWide[V any]([]V) bool { return false }

// resets writes how many were sent and received.
func resets(sent, received uint64) string {
	switch {
	case sent == 0 && received == 0:
		return ""
	case received == 0:
		return fmt.Sprintf("%d sent", sent)
	case sent == 0:
		return fmt.Sprintf("%d received", received)
	}
	return fmt.Sprintf("%d sent, %d received", sent, received)
}

// Age is how long the connection is known: "> " that it was open before.
func (c ConnectionView) Age() string {
	if c.LastNS < c.FromNS {
		return ""
	}
	age := coarse(time.Duration(c.LastNS - c.FromNS + uint64(time.Second/2))) // intervals end a little early or late
	if c.Before {
		return "> " + age
	}
	return age
}

// Between names both ends, the one that opened it first: "web-1:40312 > db-1:5432".
func (c ConnectionView) Between() string {
	if c.Flow == nil {
		return ""
	}
	a := endpoint(c.Flow.Src, c.SrcHost, c.Flow.SrcPort)
	b := endpoint(c.Flow.Dst, c.DstHost, c.Flow.DstPort)
	if c.Inbound {
		return b + " > " + a
	}
	return a + " > " + b
}

func endpoint(addr, host string, port uint32) string {
	if host == "" {
		host = addr
	}
	if port == 0 {
		return host
	}
	return net.JoinHostPort(host, number(port))
}

// Ended is the state, and why it ended if other than well: "terminated ECONNRESET".
func (c ConnectionView) Ended() string { return strings.TrimSpace(c.State + " " + c.Error) }

// Links are those that the trace shows, as a chain of nodes.
func (c ConnectionView) Links() string {
	if c.Path == nil {
		return ""
	}
	return chain(c.Path.Links)
}

// Between names both ends, the one whose connections these are first:
// "web-1 > db-1:5432".
func (s ServiceView) Between() string {
	if s.Inbound {
		return endpoint(s.Dst, s.DstHost, 0) + " > " + endpoint("", s.Host, s.Port)
	}
	return s.Host + " > " + endpoint(s.Dst, s.DstHost, s.Port)
}

// telemetryColumns are those of what TCP saw, of rows that hold it.
func telemetryColumns[V any](of func(V) *TelemetryView) []column[V] {
	cell := func(text func(*TelemetryView) string) func(V) string {
		return func(v V) string { return text(of(v)) }
	}
	n := func(get func(*TelemetryView) uint64) func(V) string {
		return func(v V) string { return number(get(of(v))) }
	}
	rare := func(get func(*TelemetryView) uint64) func(V) string {
		return func(v V) string { return count(get(of(v))) }
	}
	sent := func(t *TelemetryView) uint64 { return t.BytesSent }
	received := func(t *TelemetryView) uint64 { return t.BytesReceived }
	retransmits := func(t *TelemetryView) uint64 { return t.Retransmits }
	mean, longest := func(t *TelemetryView) uint64 { return t.RTTMeanNS }, func(t *TelemetryView) uint64 { return t.RTTMaxNS }
	cwnd, rwnd := func(t *TelemetryView) uint64 { return t.CwndMean }, func(t *TelemetryView) uint64 { return t.RwndMean }
	zero := func(t *TelemetryView) uint64 { return t.ZeroWindowNS }
	return []column[V]{
		{name: "sent", full: "bytes_sent", text: cell(func(t *TelemetryView) string { return amount(t.BytesSent) }), raw: n(sent)},
		{name: "received", full: "bytes_received", text: cell(func(t *TelemetryView) string { return amount(t.BytesReceived) }), raw: n(received)},
		{name: "packets", raw: n(func(t *TelemetryView) uint64 { return t.Packets })},
		{name: "retransmits", text: rare(retransmits), raw: n(retransmits)},
		{name: "share", full: "loss_share", text: cell(func(t *TelemetryView) string { return fewPercent(t.LossShare) }), raw: cell(func(t *TelemetryView) string { return decimal(t.LossShare) })},
		{name: "timeouts", raw: n(func(t *TelemetryView) uint64 { return t.Timeouts })},
		{name: "duplicates_reported", raw: n(func(t *TelemetryView) uint64 { return t.Duplicates })},
		{name: "out_of_order", raw: n(func(t *TelemetryView) uint64 { return t.OutOfOrder })},
		{name: "reorderings", raw: n(func(t *TelemetryView) uint64 { return t.Reorderings })},
		{name: "rtt", full: "rtt_mean_ns", text: cell(func(t *TelemetryView) string { return brief(t.RTTMeanNS) }), raw: n(mean)},
		{name: "rtt_max", full: "rtt_max_ns", text: cell(func(t *TelemetryView) string { return brief(t.RTTMaxNS) }), raw: n(longest)},
		{name: "rtt_min", full: "rtt_min_ns", text: cell(func(t *TelemetryView) string { return brief(t.RTTMinNS) }), raw: n(func(t *TelemetryView) uint64 { return t.RTTMinNS }), show: inWide[V]},
		{name: "cwnd", full: "cwnd_mean_bytes", text: cell(func(t *TelemetryView) string { return bytesOf(t.CwndMean) }), raw: n(cwnd)},
		{name: "cwnd_delta", full: "cwnd_delta_bytes", text: cell(func(t *TelemetryView) string { return grown(t.CwndDelta) }),
			raw: cell(func(t *TelemetryView) string { return strconv.FormatInt(t.CwndDelta, 10) }), show: inWide[V]},
		{name: "cwnd_reductions", raw: n(func(t *TelemetryView) uint64 { return t.CwndReductions })},
		{name: "rwnd", full: "rwnd_mean_bytes", text: cell(func(t *TelemetryView) string { return bytesOf(t.RwndMean) }), raw: n(rwnd)},
		{name: "own_rwnd", full: "own_rwnd_mean_bytes", text: cell(func(t *TelemetryView) string { return bytesOf(t.OwnRwndMean) }), raw: n(func(t *TelemetryView) uint64 { return t.OwnRwndMean }), show: inWide[V]},
		{name: "zero_window", full: "zero_window_ns", text: cell(func(t *TelemetryView) string { return brief(t.ZeroWindowNS) }), raw: n(zero)},
		{name: "zero_window_probes", raw: n(func(t *TelemetryView) uint64 { return t.Probes })},
		{name: "resets_sent", raw: n(func(t *TelemetryView) uint64 { return t.ResetsSent })},
		{name: "resets_received", raw: n(func(t *TelemetryView) uint64 { return t.ResetsReceived })},
		{name: "resets", text: cell(func(t *TelemetryView) string { return resets(t.ResetsSent, t.ResetsReceived) }), raw: n(func(t *TelemetryView) uint64 { return t.ResetsSent + t.ResetsReceived })},
		{name: "posted", full: "bytes_posted", raw: n(func(t *TelemetryView) uint64 { return t.BytesPosted })},
		{name: "read", full: "bytes_read", raw: n(func(t *TelemetryView) uint64 { return t.BytesRead })},
	}
}

func connectionColumns() []column[ConnectionView] {
	columns := []column[ConnectionView]{
		{name: "host", text: func(c ConnectionView) string { return c.Host }},
		{name: "state", text: ConnectionView.Ended, raw: func(c ConnectionView) string { return c.State }},
		{name: "error", raw: func(c ConnectionView) string { return c.Error }},
		{name: "last", text: func(c ConnectionView) string { return second(c.LastNS) }, raw: func(c ConnectionView) string { return c.Last }},
		{name: "last_ns", raw: func(c ConnectionView) string { return number(c.LastNS) }},
		{name: "age", full: "age_ns", text: ConnectionView.Age, raw: func(c ConnectionView) string { return number(c.LastNS - min(c.FromNS, c.LastNS)) }},
		{name: "duration", full: "duration_ms", text: func(c ConnectionView) string { return millis(c.Duration) }, raw: func(c ConnectionView) string { return number(c.Duration) }, show: inWide[ConnectionView]},
		{name: "flow", text: ConnectionView.Between, raw: func(c ConnectionView) string { return c.Flow.String() }},
		{name: "src", raw: func(c ConnectionView) string { return flowOf(c.Flow).Src }},
		{name: "src_port", raw: func(c ConnectionView) string { return port(flowOf(c.Flow).SrcPort) }},
		{name: "dst", raw: func(c ConnectionView) string { return flowOf(c.Flow).Dst }},
		{name: "dst_port", raw: func(c ConnectionView) string { return port(flowOf(c.Flow).DstPort) }},
		{name: "inbound", raw: func(c ConnectionView) string { return strconv.FormatBool(c.Inbound) }},
	}
	columns = append(columns, telemetryColumns(func(c ConnectionView) *TelemetryView { return &c.TelemetryView })...)
	return append(columns, []column[ConnectionView]{
		{name: "rtt_var", full: "rtt_var_ns", text: func(c ConnectionView) string { return brief(c.RTTVarNS) }, raw: func(c ConnectionView) string { return number(c.RTTVarNS) }, show: inWide[ConnectionView]},
		{name: "process", text: func(c ConnectionView) string { return c.Process }},
		{name: "container", text: func(c ConnectionView) string { return short(24, c.Container) }, raw: func(c ConnectionView) string { return c.Container },
			show: anyOf(func(c ConnectionView) bool { return c.Container != "" })},
		{name: "uid", raw: func(c ConnectionView) string { return optional(c.UID) }},
		{name: "cookie", raw: func(c ConnectionView) string { return c.Cookie }},
		{name: "sampled_of", raw: func(c ConnectionView) string { return number(max(1, c.SampledOf)) }},
		{name: "path", text: ConnectionView.Links, raw: func(c ConnectionView) string {
			if c.Path == nil {
				return ""
			}
			return strings.Join(c.Path.Links, " ")
		}, show: anyOf(func(c ConnectionView) bool { return c.Path != nil && len(c.Path.Links) > 0 })},
	}...)
}

func serviceColumns() []column[ServiceView] {
	flows := func(name, full string, get func(ServiceView) uint64) column[ServiceView] {
		return column[ServiceView]{name: name, full: full,
			text: func(s ServiceView) string { return count(get(s)) }, raw: func(s ServiceView) string { return number(get(s)) }}
	}
	columns := []column[ServiceView]{
		{name: "host", text: func(s ServiceView) string { return s.Host }},
		{name: "service", full: "port", text: ServiceView.Between, raw: func(s ServiceView) string { return port(s.Port) }},
		{name: "src", raw: func(s ServiceView) string { return s.Src }},
		{name: "dst", raw: func(s ServiceView) string { return s.Dst }},
		{name: "dst_host", raw: func(s ServiceView) string { return s.DstHost }},
		{name: "inbound", raw: func(s ServiceView) string { return strconv.FormatBool(s.Inbound) }},
		{name: "last", text: func(s ServiceView) string { return second(s.LastNS) }, raw: func(s ServiceView) string { return s.Last }},
		{name: "last_ns", raw: func(s ServiceView) string { return number(s.LastNS) }},
		flows("flows", "", func(s ServiceView) uint64 { return s.Flows }),
		flows("new", "new_flows", func(s ServiceView) uint64 { return s.New }),
		flows("closed", "closed_flows", func(s ServiceView) uint64 { return s.Closed }),
		flows("terminated", "terminated_flows", func(s ServiceView) uint64 { return s.Terminated }),
		flows("failed", "failed_flows", func(s ServiceView) uint64 { return s.Failed }),
		{name: "shrunk_flows", raw: func(s ServiceView) string { return number(s.Shrunk) }},
	}
	return append(columns, telemetryColumns(func(s ServiceView) *TelemetryView { return &s.TelemetryView })...)
}

// second writes a time of day for tables: what is shown is of the last minutes.
func second(ns uint64) string {
	if ns == 0 || ns > 1<<63-1 {
		return ""
	}
	return time.Unix(0, int64(ns)).UTC().Format("15:04:05")
}
