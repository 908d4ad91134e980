package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/VictoriaMetrics/VictoriaMetrics/lib/promutils"

	"decaf/api/decafpb"
	"decaf/topology"
	"decaf/topology/strictyaml"
)

const (
	defaultLimit = 100   // rows of a list when nothing is said
	maxLimit     = 10000 // rows of a list at most
	maxBody      = 64 << 10
	maxSays      = 2000 // characters of a fault report's words
	maxName      = 255
	// defaultWindow is what a fault report covers when it does not say.
	defaultWindow = 5 * time.Minute
	// clockSkew is how far into the future a window may reach before it is
	// taken for a mistake: the user's clock is not ours.
	clockSkew = time.Minute
)

// parseTime reads a moment as VictoriaMetrics writes them: relative to now
// (-5m, 1h30m ago as -1h30m, now), RFC 3339 and shorter dates, or Unix time in
// seconds, milliseconds, microseconds or nanoseconds.
func parseTime(s string, now time.Time) (time.Time, error) {
	ns, err := promutils.ParseTimeAt(strings.TrimSpace(s), now.UnixNano())
	if err != nil || ns < 0 {
		return time.Time{}, fmt.Errorf("%q is no time; write -5m, now, 2006-01-02T15:04:05Z or Unix seconds", clip(s))
	}
	return time.Unix(0, ns), nil
}

// clip shortens what a user sent, so that an error about it stays readable.
func clip(s string) string {
	if len(s) <= 60 {
		return s
	}
	s = s[:57]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "..."
}

// parseWindow reads the two ends of a time range; an empty one stays open.
func parseWindow(fromName, from, toName, to string, now time.Time) (f, t time.Time, err error) {
	if from != "" {
		if f, err = parseTime(from, now); err != nil {
			return f, t, BadRequest("%s: %v", fromName, err)
		}
	}
	if to != "" {
		if t, err = parseTime(to, now); err != nil {
			return f, t, BadRequest("%s: %v", toName, err)
		}
	}
	if !f.IsZero() && !t.IsZero() && !f.Before(t) {
		return f, t, BadRequest("the time window is reversed or empty: %s (%s) is not before %s (%s); swap them",
			fromName, stamp(f), toName, stamp(t))
	}
	return f, t, nil
}

// parseRange reads a list's parameters. The names that the list cannot honour
// are errors, not silence.
func parseRange(q url.Values, honours []string, topo *topology.Topology, now time.Time) (Range, error) {
	r := Range{Limit: defaultLimit}
	one := make(map[string]string, len(q))
	for key, values := range q {
		if !slices.Contains(honours, key) {
			return r, BadRequest("unknown parameter %q%s", clip(key), among(key, honours))
		}
		if len(values) > 1 {
			return r, BadRequest("%s is given %d times; give it once", key, len(values))
		}
		one[key] = strings.TrimSpace(values[0])
	}
	var err error
	if r.From, r.To, err = parseWindow("since", one["since"], "until", one["until"], now); err != nil {
		return r, err
	}
	if s := one["limit"]; s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxLimit {
			return r, BadRequest("limit: %q is not a number from 1 to %d", clip(s), maxLimit)
		}
		r.Limit = n
	}
	r.Class = strings.TrimSuffix(one["class"], "/")
	if r.Component, err = parseComponent(one["component"], topo); err != nil {
		return r, err
	}
	if r.Flow.Src, err = parseEnd("src", one["src"], topo); err != nil {
		return r, err
	}
	if r.Flow.Dst, err = parseEnd("dst", one["dst"], topo); err != nil {
		return r, err
	}
	if r.Flow.SrcPort, err = parsePort("src_port", one["src_port"]); err != nil {
		return r, err
	}
	if r.Flow.DstPort, err = parsePort("dst_port", one["dst_port"]); err != nil {
		return r, err
	}
	if r.Port, err = parsePort("port", one["port"]); err != nil {
		return r, err
	}
	if r.Host = one["host"]; r.Host != "" {
		if _, ok := topo.Host(r.Host); !ok {
			return r, noHost("host", r.Host, topo)
		}
	}
	if s := one["state"]; s != "" {
		if r.State = states[s]; r.State == decafpb.FlowRecord_STATE_UNSPECIFIED {
			return r, BadRequest("state: there is no %q%s", clip(s), among(s, stateNames()))
		}
	}
	switch s := one["trouble"]; s {
	case "", "false":
	case "true":
		r.Trouble = true
	default:
		return r, BadRequest("trouble: %q is neither true nor false", clip(s))
	}
	if s := one["sort"]; s != "" {
		if !slices.Contains(Orders(), s) {
			return r, BadRequest("sort: nothing is sorted by %q%s", clip(s), among(s, Orders()))
		}
		r.Sort = Order(s)
	}
	return r, nil
}

// states of connections by name.
var states = map[string]decafpb.FlowRecord_State{
	"new": decafpb.FlowRecord_STATE_NEW, "open": decafpb.FlowRecord_STATE_OPEN, "closed": decafpb.FlowRecord_STATE_CLOSED,
	"terminated": decafpb.FlowRecord_STATE_TERMINATED, "failed": decafpb.FlowRecord_STATE_FAILED,
}

// stateNames lists them in the order in which a connection may go through them.
func stateNames() []string { return []string{"new", "open", "closed", "terminated", "failed"} }

func parsePort(name, s string) (uint16, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, BadRequest("%s: %q is not a port from 1 to 65535", name, clip(s))
	}
	return uint16(n), nil
}

// parseComponent accepts "link a>b", "device d", "host h" and, for what is
// typed in a hurry, the bare name.
func parseComponent(s string, topo *topology.Topology) (string, error) {
	if s == "" {
		return "", nil
	}
	kind, name, ok := strings.Cut(s, " ")
	if !ok {
		kind, name = "", s
	}
	name = strings.TrimSpace(name)
	if kind == "" || kind == "link" {
		if _, ok := topo.Link(name); ok {
			return "link " + name, nil
		}
	}
	if kind == "" || kind == "device" {
		if _, ok := topo.Device(name); ok {
			return "device " + name, nil
		}
	}
	if kind == "" || kind == "host" {
		if _, ok := topo.Host(name); ok {
			return "host " + name, nil
		}
	}
	if !slices.Contains([]string{"", "link", "device", "host"}, kind) {
		return "", BadRequest("component: %q is neither a link, a device nor a host; write \"link a>b\", \"device d\" or \"host h\"", clip(s))
	}
	return "", BadRequest("component: the topology has no %q; `decaf topology` lists what it has", clip(s))
}

// parseEnd reads one end of a flow: a host's name, standing for all its
// addresses, or any address or prefix, in the topology or not.
func parseEnd(field, s string, topo *topology.Topology) ([]netip.Prefix, error) {
	if s == "" {
		return nil, nil
	}
	if h, ok := topo.Host(s); ok {
		var out []netip.Prefix
		for _, a := range h.Addresses {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
		return out, nil
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, BadRequest("%s: %q is no prefix; write 10.0.0.0/8", field, clip(s))
		}
		if p.Addr().Is4In6() {
			if p.Bits() < 96 {
				return nil, BadRequest("%s: %q holds IPv4 and IPv6 addresses; write an IPv4 prefix as 10.0.0.0/8", field, clip(s))
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return []netip.Prefix{p.Masked()}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return nil, noHost(field, s, topo)
	}
	a = a.Unmap()
	return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, nil
}

// reportEnd reads one end of a report: a host of the topology by name, or an
// address. An address that the topology does not know is no error here: the
// verdict on it is "outside".
func reportEnd(field, s string, topo *topology.Topology) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return "", BadRequest("%s is missing; give a host's name or an address", field)
	}
	if _, ok := topo.Host(s); ok {
		return s, nil
	}
	if _, ok := topo.Device(s); ok {
		return "", BadRequest("%s: %s is a device; a report is about two hosts, give one behind it", field, s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return "", noHost(field, s, topo)
	}
	if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return "", BadRequest("%s: %s is not the address of a host", field, clip(s))
	}
	a = a.Unmap()
	if in, ok := topo.InterfaceAt(a); ok {
		if _, ok := topo.Device(in.Node); ok {
			return "", BadRequest("%s: %s is an address of device %s; a report is about two hosts, give one behind it", field, a, in.Node)
		}
	}
	return a.String(), nil
}

// noHost says that a name is no host's, and which may have been meant.
func noHost(field, s string, topo *topology.Topology) *Error {
	names := make([]string, 0, len(topo.Hosts))
	for _, h := range topo.Hosts {
		names = append(names, h.Name)
	}
	if near := strictyaml.Nearest(s, names); near != "" {
		return BadRequest("%s: no host %q in the topology, and it is no address; did you mean %s?", field, clip(s), near)
	}
	return BadRequest("%s: no host %q in the topology, and it is no address; `decaf topology` lists the hosts", field, clip(s))
}

// reportRequest is the body of POST /api/v1/reports. Times are strings as in
// since and until, or Unix time as a number.
type reportRequest struct {
	Src     string    `json:"src"`
	Dst     string    `json:"dst"`
	SrcPort *int64    `json:"src_port,omitempty"`
	DstPort *int64    `json:"dst_port,omitempty"`
	From    timeValue `json:"from,omitzero"`
	To      timeValue `json:"to,omitzero"`
	FromNS  *int64    `json:"from_ns,omitempty"`
	ToNS    *int64    `json:"to_ns,omitempty"`
	Says    string    `json:"says,omitempty"`
}

// timeValue is a time as the user wrote it, read only when now is known.
type timeValue string

func (t *timeValue) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*t = timeValue(s)
		return nil
	}
	var n json.Number
	if json.Unmarshal(b, &n) == nil {
		*t = timeValue(n.String())
		return nil
	}
	return BadRequest("%s is no time; write \"-5m\", \"2006-01-02T15:04:05Z\" or Unix seconds", clip(string(b)))
}

// decodeReport reads the body of a POST, strictly: what it does not know is
// an error, so that a misspelt "form" is not silently the default window.
func decodeReport(w http.ResponseWriter, r *http.Request) (reportRequest, error) {
	var req reportRequest
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return req, &Error{Status: http.StatusUnsupportedMediaType, Title: "unsupported media type",
			Detail: "send the report as JSON with Content-Type: application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return req, err
		}
		return req, BadRequest("the body did not arrive whole; send it again")
	}
	if !utf8.Valid(body) {
		return req, BadRequest("the body is not UTF-8")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return req, BadRequest("the body is not JSON: %v at byte %d", syntax, syntax.Offset)
		}
		return req, BadRequest("the body has to be one JSON object, such as {\"src\":\"host-a\",\"dst\":\"host-b\"}")
	}
	known := jsonKeys(reflect.TypeFor[reportRequest]())
	for key := range fields {
		if !slices.Contains(known, key) {
			return req, BadRequest("unknown field %q%s", clip(key), among(key, known))
		}
	}
	if err := json.Unmarshal(body, &req); err != nil {
		var e *Error
		if errors.As(err, &e) {
			return req, e
		}
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return req, BadRequest("%s: a %s is not what belongs there", wrong.Field, wrong.Value)
		}
		return req, BadRequest("the body does not fit: %v", err)
	}
	return req, nil
}

func jsonKeys(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		keys = append(keys, name)
	}
	return keys
}

// report checks a request and makes the record of it, window filled in.
func (req reportRequest) report(topo *topology.Topology, now time.Time) (*decafpb.FaultReport, error) {
	out := &decafpb.FaultReport{Says: strings.TrimSpace(req.Says)}
	var err error
	if out.Src, err = reportEnd("src", req.Src, topo); err != nil {
		return nil, err
	}
	if out.Dst, err = reportEnd("dst", req.Dst, topo); err != nil {
		return nil, err
	}
	if sameEnd(out.Src, out.Dst, topo) {
		return nil, BadRequest("src and dst are the same host; traffic of a host with itself crosses no network")
	}
	for _, p := range []struct {
		name string
		in   *int64
		out  *uint32
	}{{"src_port", req.SrcPort, &out.SrcPort}, {"dst_port", req.DstPort, &out.DstPort}} {
		if p.in == nil {
			continue
		}
		if *p.in < 0 || *p.in > 65535 { // 0 is "any"
			return nil, BadRequest("%s: %d is not a port from 1 to 65535", p.name, *p.in)
		}
		*p.out = uint32(*p.in)
	}
	if utf8.RuneCountInString(out.Says) > maxSays {
		return nil, BadRequest("says: %d characters are too many; at most %d", utf8.RuneCountInString(out.Says), maxSays)
	}
	from, to := string(req.From), string(req.To)
	for _, p := range []struct {
		name string
		ns   *int64
		s    *string
	}{{"from", req.FromNS, &from}, {"to", req.ToNS, &to}} {
		if p.ns == nil {
			continue
		}
		if *p.s != "" {
			return nil, BadRequest("%s and %s_ns are both given; give one", p.name, p.name)
		}
		if *p.ns <= 0 {
			return nil, BadRequest("%s_ns: %d is not a time after 1970", p.name, *p.ns)
		}
		*p.s = stamp(time.Unix(0, *p.ns))
	}
	if to == "" {
		to = "now"
	}
	f, t, err := parseWindow("from", from, "to", to, now)
	if err != nil {
		return nil, err
	}
	if f.IsZero() {
		f = t.Add(-defaultWindow)
	}
	if f.UnixNano() <= 0 {
		return nil, BadRequest("from: the window begins before 1970")
	}
	if t.After(now.Add(clockSkew)) {
		return nil, BadRequest("to: %s lies in the future (it is %s); report what has happened", stamp(t), stamp(now))
	}
	out.FromNs, out.ToNs = uint64(f.UnixNano()), uint64(t.UnixNano())
	return out, nil
}

// sameEnd tells if two ends name one host, be it by different addresses.
func sameEnd(a, b string, topo *topology.Topology) bool {
	if a == b {
		return true
	}
	name := func(s string) string {
		if addr, err := netip.ParseAddr(s); err == nil {
			if h, ok := topo.HostAt(addr); ok {
				return h.Name
			}
		}
		return s
	}
	return name(a) == name(b)
}

// among ends an error about an unknown word: with the nearest known one, or
// with all of them.
func among(word string, known []string) string {
	if near := strictyaml.Nearest(word, known); near != "" {
		return "; did you mean " + near + "?"
	}
	if len(known) == 0 {
		return "; none is known here"
	}
	return "; known are " + strings.Join(known, ", ")
}

// stamp writes a time as everything here does: RFC 3339, UTC.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
