package hostagent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"decaf/api/agentconfig"
	"decaf/api/bus"
	"decaf/api/service"
)

// Config is the configuration of one host agent, and of `decaf host`.
type Config struct {
	// Name of this host in the topology. Empty: the machine's host name.
	Name string `yaml:"name"`
	// Site is the second word of every NATS subject.
	Site string `yaml:"site"`
	// Topology is the file that names the hosts and switches. Empty: no host
	// is known, so no SYN is traced and no distance bounds a trace.
	Topology string       `yaml:"topology"`
	NATS     NATSConfig   `yaml:"nats"`
	Trace    TraceConfig  `yaml:"trace"`
	Survey   SurveyConfig `yaml:"survey"`
	Flows    FlowsConfig  `yaml:"flows"`
	Tables   TablesConfig `yaml:"tables"`
	// Source is how retransmits are seen: "auto" takes the first of tp_btf,
	// tracepoint, perf and sock_diag that this machine has. All but tp_btf know
	// less of each; sock_diag alone knows neither errors nor resets of connections
	// that end.
	Source string `yaml:"source"`
	// Namespaces are further network namespaces whose retransmits are told,
	// beside the agent's own: names under /run/netns, files, or "all" alone for
	// every one of the machine. One that is not there yet is looked for at each
	// heartbeat. Their flows are traced from where they are, or, where this
	// host's NAT translates them, as what becomes of them.
	Namespaces []string `yaml:"namespaces"`
	// Epoch is the tumbling window in which a flow is traced at most once.
	Epoch time.Duration `yaml:"epoch"`
	// Heartbeat is the interval of the sign of life.
	Heartbeat time.Duration `yaml:"heartbeat"`
	// RingBytes is the size of each of the kernel's event buffers of retransmits
	// and of closed flows; that of local drops has a quarter. A power of two and a
	// multiple of the page size.
	RingBytes int `yaml:"ring_bytes"`
	// IgnoreInterfaces and IgnoreNetworks name what is no evidence: flows with
	// an address of such an interface, or within such a network, at either
	// end. The management network belongs here, for it carries the evidence.
	IgnoreInterfaces []string       `yaml:"ignore_interfaces"`
	IgnoreNetworks   []netip.Prefix `yaml:"ignore_networks"`
	// Listen is where /healthz, /readyz and /metrics answer. Empty: nowhere.
	Listen string            `yaml:"listen"`
	Log    service.LogConfig `yaml:"log"`
}

// NATSConfig says where evidence goes.
type NATSConfig struct {
	URL string            `yaml:"url"`
	TLS *service.TLSFiles `yaml:"tls"` // absent: none, which NATS takes on loopback only
}

// TraceConfig bounds what traces cost this host and the network.
type TraceConfig struct {
	// Rate is how many traces a second the host may start: Ct of 007. 0: the bound
	// that follows from the topology, which is handed out with the settings; until
	// then, and where the topology is no regular Clos, 10.
	Rate  float64 `yaml:"rate"`
	Burst int     `yaml:"burst"`
	// MaxTTL bounds a trace to a destination of unknown distance.
	MaxTTL int `yaml:"max_ttl"`
	// Resend is when a TTL that stayed silent is probed again, Timeout when it
	// is given up.
	Resend  time.Duration `yaml:"resend"`
	Timeout time.Duration `yaml:"timeout"`
	// Workers is how many traces run at the same time, Queue how many wait.
	Workers int `yaml:"workers"`
	Queue   int `yaml:"queue"`
	// Balancer is an external load balancer in front of some of the destinations.
	Balancer BalancerConfig `yaml:"balancer"`
}

// BalancerConfig says whom to ask what became of a connection to an address that
// is balanced, so that its probes take the way of its packets: by GET
// URL?src=…&src_port=…&dst=…&dst_port=…&protocol=tcp, answered by a JSON object of
// those names that changed, or 404. A flow that stays unresolved is not traced,
// and counted. Settings given while the agent runs go before it.
type BalancerConfig struct {
	URL string `yaml:"url"` // empty: there is none
	// Networks hold the addresses that it balances.
	Networks []netip.Prefix `yaml:"networks"`
	Timeout  time.Duration  `yaml:"timeout"`
	// TLS is for https with an authority of one's own, whoever names the URL.
	TLS *service.TLSFiles `yaml:"tls"`
}

// SurveyConfig has the agent look for all equal-cost paths to some destinations,
// again and again, with what its traces leave of trace.rate. Settings given while
// it runs go before Every, To and Confidence.
type SurveyConfig struct {
	Every time.Duration    `yaml:"every"` // 0: never
	To    []netip.AddrPort `yaml:"to"`
	// Confidence is how sure to be of every next hop, in percent: 95 or 99.
	Confidence int `yaml:"confidence"`
	// File is where the topology that follows from what was found is kept, for
	// a network of which no file tells. Empty: nowhere.
	File string `yaml:"file"`
}

// told is what c says as it is told to agents that run.
func (c BalancerConfig) told() agentconfig.Balancer {
	return agentconfig.Balancer{URL: c.URL, Networks: c.Networks, Timeout: c.Timeout}
}

func (c SurveyConfig) told() agentconfig.Survey {
	if c.Every == 0 {
		return agentconfig.Survey{}
	}
	return agentconfig.Survey{Every: c.Every, To: c.To, Confidence: c.Confidence}
}

// FlowsConfig is about the counts of what flows send, without which blame
// cannot tell a busy link from a bad one.
type FlowsConfig struct {
	Enabled bool `yaml:"enabled"`
	// Interval is how long is counted before a row per destination is sent. It
	// should divide the epoch.
	Interval time.Duration `yaml:"interval"`
	// MaxFlows is how many open connections are followed. More: inactive ones
	// make room, and what finds none is ignored and counted.
	MaxFlows int `yaml:"max_flows"`
	// MaxRows is how many rows an interval may have, and how many records of
	// flows with retransmits beside them.
	MaxRows int `yaml:"max_rows"`
}

// TablesConfig is about the flow table and the table of closed connections of US
// 10,778,507, which need flows.enabled. Settings given to the agent while it runs
// go before Enabled, Interval, Sample, Only and Ignore.
type TablesConfig struct {
	Enabled bool `yaml:"enabled"`
	// Interval is how long telemetry is added up before it is sent: 5 s to 5
	// min. It should be a multiple of flows.interval.
	Interval time.Duration `yaml:"interval"`
	// Sample lists n/m of the connections; changes of state are listed of all.
	Sample agentconfig.Sampling `yaml:"sample"`
	// Only and Ignore filter by destination and service port, such as
	// 10.0.0.0/8, 10.1.2.3:443 or :22.
	Only   []agentconfig.Filter `yaml:"only"`
	Ignore []agentconfig.Filter `yaml:"ignore"`
	// MaxRecords is how many connections an interval may list, and how many
	// closed ones wait for its end; MaxServices how many sums per service it
	// may have.
	MaxRecords  int `yaml:"max_records"`
	MaxServices int `yaml:"max_services"`
	// Peaks is when a connection's round-trip time is looked at for the highest of
	// an interval: "all", whenever it receives something, or "reductions", when its
	// congestion state changes, which costs nothing for a packet.
	Peaks string `yaml:"peaks"`
}

// tableSettings is what c says of how to track.
func (c Config) tableSettings() tableSettings {
	t := c.Tables
	return tableSettings{Tracking: t.Enabled && c.Flows.Enabled, Interval: t.Interval, Sample: t.Sample, Only: t.Only, Ignore: t.Ignore}
}

// defaultTraceRate is what 007 (NSDI 2018, section 4.1) came to, in traces per
// second and host, at 100 ICMP answers a second and switch.
const defaultTraceRate = 10

// DefaultConfig returns the configuration in force where a file says nothing.
// Name, Site and NATS.URL have no default that works everywhere.
func DefaultConfig() Config {
	return Config{
		Site: "default",
		NATS: NATSConfig{URL: "nats://127.0.0.1:4222"},
		Trace: TraceConfig{
			// The burst lets the first seconds of a fault be seen whole.
			Burst:    50,
			MaxTTL:   15,
			Resend:   2 * time.Millisecond,
			Timeout:  50 * time.Millisecond,
			Workers:  16,
			Queue:    256,
			Balancer: BalancerConfig{Timeout: 200 * time.Millisecond},
		},
		Survey: SurveyConfig{Confidence: 95},
		// A flow takes some 70 bytes of memory, a row some 120 and on the wire
		// some 60 before compression.
		Flows: FlowsConfig{Enabled: true, Interval: 5 * time.Second, MaxFlows: 100_000, MaxRows: 16_384},
		// A connection takes some 400 bytes of memory more, and on the wire some
		// 150 before compression.
		Tables:    TablesConfig{Enabled: true, Interval: 30 * time.Second, MaxRecords: 32_768, MaxServices: 16_384, Peaks: peaksAll},
		Source:    sourceAuto,
		Epoch:     30 * time.Second,
		Heartbeat: 2 * time.Second,
		RingBytes: 512 << 10,
		Log:       service.LogConfig{Level: "info", Format: "text"},
	}
}

// Validate says what is wrong with c, all of it at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		bad("name: missing: give the name this host has in the topology")
	}
	if c.Site == "" {
		bad("site: missing: give the site of the topology")
	}
	if c.Listen != "" {
		if err := service.ValidListen(c.Listen); err != nil {
			errs = append(errs, err)
		}
	}
	if c.NATS.URL == "" {
		bad("nats.url: missing: give the address of decaf serve's NATS, such as tls://192.0.2.1:4222")
	} else if err := bus.ValidURL(c.NATS.URL); err != nil {
		errs = append(errs, err)
	}
	if !(c.Trace.Rate >= 0) || c.Trace.Rate > agentconfig.MaxTraceRate {
		bad("trace.rate: %v: give traces per second, at most %d, or 0 for the bound that follows from the topology", c.Trace.Rate, agentconfig.MaxTraceRate)
	}
	if c.Trace.Burst < 1 {
		bad("trace.burst: %d: give at least 1", c.Trace.Burst)
	}
	if c.Trace.MaxTTL < 1 || c.Trace.MaxTTL > 63 {
		// The TTL travels in six bits of the probe's IP ID.
		bad("trace.max_ttl: %d: give 1 to 63", c.Trace.MaxTTL)
	}
	if c.Trace.Resend <= 0 || c.Trace.Timeout < c.Trace.Resend {
		bad("trace.resend and trace.timeout: %v and %v: give 0 < resend <= timeout", c.Trace.Resend, c.Trace.Timeout)
	}
	if c.Trace.Workers < 1 || c.Trace.Workers > 1024 {
		bad("trace.workers: %d: give 1 to 1024", c.Trace.Workers)
	}
	if c.Trace.Queue < 1 || c.Trace.Queue > 1<<20 {
		bad("trace.queue: %d: give 1 to %d", c.Trace.Queue, 1<<20)
	}
	if b := c.Trace.Balancer; b.URL != "" {
		if err := b.told().Validate(); err != nil {
			bad("trace.balancer: %w", err)
		} else if b.Timeout <= 0 {
			bad("trace.balancer.timeout: %v: give more than 0", b.Timeout)
		}
	} else if len(b.Networks) > 0 {
		bad("trace.balancer: it has networks, and no url to ask about them")
	}
	if v := c.Survey; v.Every != 0 {
		if err := v.told().Validate(); err != nil {
			bad("survey: %w", err)
		}
	} else if len(v.To) > 0 {
		bad("survey: it says where to, and not how often: give every, such as 10m")
	}
	if c.Flows.Interval < time.Second || c.Flows.Interval > 5*time.Minute {
		bad("flows.interval: %v: give 1s to 5m", c.Flows.Interval)
	}
	if c.Flows.MaxFlows < 1 || c.Flows.MaxFlows > 10_000_000 {
		bad("flows.max_flows: %d: give 1 to 10000000", c.Flows.MaxFlows)
	}
	if c.Flows.MaxRows < 1 || c.Flows.MaxRows > 1_000_000 {
		bad("flows.max_rows: %d: give 1 to 1000000", c.Flows.MaxRows)
	}
	if c.Tables.Interval < agentconfig.MinInterval || c.Tables.Interval > agentconfig.MaxInterval {
		bad("tables.interval: %v: give %v to %v", c.Tables.Interval, agentconfig.MinInterval, agentconfig.MaxInterval)
	}
	if c.Tables.MaxRecords < 1 || c.Tables.MaxRecords > 1_000_000 {
		bad("tables.max_records: %d: give 1 to 1000000", c.Tables.MaxRecords)
	}
	if c.Tables.MaxServices < 1 || c.Tables.MaxServices > 1_000_000 {
		bad("tables.max_services: %d: give 1 to 1000000", c.Tables.MaxServices)
	}
	if p := c.Tables.Peaks; p != peaksAll && p != peaksReductions {
		bad("tables.peaks: %q: give %s or %s", p, peaksAll, peaksReductions)
	}
	if err := validSource(c.Source); err != nil {
		bad("source: %w", err)
	}
	if c.Epoch < time.Second {
		bad("epoch: %v: give at least 1s", c.Epoch)
	}
	if c.Heartbeat < minHeartbeat || c.Heartbeat > maxHeartbeat {
		bad("heartbeat: %v: give %v to %v: an agent counts as silent after three of them, and until then one that is gone looks like one that loses nothing", c.Heartbeat, minHeartbeat, maxHeartbeat)
	}
	if page := os.Getpagesize(); c.RingBytes < page || c.RingBytes > 1<<30 ||
		c.RingBytes&(c.RingBytes-1) != 0 || c.RingBytes%page != 0 {
		bad("ring_bytes: %d: give a power of two from %d to %d", c.RingBytes, page, 1<<30)
	}
	for _, p := range c.IgnoreNetworks {
		if !p.IsValid() {
			bad("ignore_networks: a prefix is not valid: write it as 192.0.2.0/24")
		}
	}
	return errors.Join(errs...)
}
