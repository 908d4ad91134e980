package agentconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// Settings are what an agent is told; what is nil, it is not told and does as
// its own file says.
type Settings struct {
	// Tracking: whether connections are recorded. The counts of loss-free
	// traffic, which blame needs, go on without.
	Tracking *bool `json:"tracking,omitempty"`
	// Interval is how long their telemetry is added up, 5 s to 5 min (US
	// 10,778,507 column 6).
	Interval *Duration `json:"interval,omitempty"`
	Sample   *Sampling `json:"sample,omitempty"`
	// A connection is tracked that some of Only and none of Ignore takes; with
	// an empty Only all are.
	Only   *[]Filter `json:"only,omitempty"`
	Ignore *[]Filter `json:"ignore,omitempty"`
	// TraceRate is how many traces a second the host may start: Ct of 007.
	TraceRate *float64 `json:"trace_rate,omitempty"`
	// SwitchICMP is how many ICMP answers a second a switch gives: where nobody
	// sets a TraceRate, it follows from this and the topology.
	SwitchICMP *float64 `json:"switch_icmp,omitempty"`
	// Balancer is asked what became of connections to its addresses.
	Balancer *Balancer `json:"balancer,omitempty"`
	// Survey looks for all equal-cost paths on schedule.
	Survey *Survey `json:"survey,omitempty"`
}

// Bounds of Interval and TraceRate.
const (
	MinInterval  = 5 * time.Second
	MaxInterval  = 5 * time.Minute
	MaxTraceRate = 10_000
)

// Duration is a time.Duration that is written as text: "10s".
type Duration time.Duration

// MarshalText is time.Duration's String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText is time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q: write 30s or 2m", b)
	}
	*d = Duration(v)
	return nil
}

// A key is one setting as people write it.
type key struct {
	name, about string
	set         func(*Settings, string) error
	get         func(*Settings) (string, bool)
	unset       func(*Settings)
	merge       func(into, from *Settings)
}

// ptr makes a key of a setting, which parse reads and show writes.
func ptr[T any](name, about string, of func(*Settings) **T, parse func(string) (T, error), show func(T) string) key {
	return key{
		name: name, about: about,
		set: func(s *Settings, text string) error {
			v, err := parse(text)
			if err == nil {
				*of(s) = &v
			}
			return err
		},
		get: func(s *Settings) (string, bool) {
			v := *of(s)
			if v == nil {
				return "", false
			}
			return show(*v), true
		},
		unset: func(s *Settings) { *of(s) = nil },
		merge: func(into, from *Settings) {
			if v := *of(from); v != nil {
				*of(into) = v
			}
		},
	}
}

// keys are all settings.
func keys() []key {
	return []key{
		ptr("tracking", "on or off: record connections (loss-free counts go on without)",
			func(s *Settings) **bool { return &s.Tracking }, parseSwitch,
			func(b bool) string {
				if b {
					return "on"
				}
				return "off"
			}),
		ptr("interval", "5s to 5m: how long telemetry is added up before it is sent",
			func(s *Settings) **Duration { return &s.Interval },
			func(text string) (Duration, error) {
				var d Duration
				if err := d.UnmarshalText([]byte(text)); err != nil {
					return 0, err
				}
				return d, d.check()
			},
			func(d Duration) string { return time.Duration(d).String() }),
		ptr("sample", "n/m or all: how many of the connections are listed; changes of state are of all",
			func(s *Settings) **Sampling { return &s.Sample }, ParseSampling, Sampling.String),
		ptr("only", "filters with commas, as 10.0.0.0/8,:443: track only what one of them takes; none: all",
			func(s *Settings) **[]Filter { return &s.Only }, parseFilters, showFilters),
		ptr("ignore", "filters with commas: do not track what one of them takes",
			func(s *Settings) **[]Filter { return &s.Ignore }, parseFilters, showFilters),
		ptr("trace_rate", "traces per second the host may start; unset: 007's bound for the topology",
			func(s *Settings) **float64 { return &s.TraceRate }, parseRate, showRate),
		ptr("switch_icmp", "ICMP answers per second a switch gives, from which that bound follows; unset: 100",
			func(s *Settings) **float64 { return &s.SwitchICMP }, parseRate, showRate),
		ptr("balancer", "URL,NETWORK[,TIMEOUT] or none: the load balancer to ask before a trace to its addresses",
			func(s *Settings) **Balancer { return &s.Balancer }, ParseBalancer, Balancer.String),
		ptr("survey", "INTERVAL,ADDRESS:PORT[,99%] or off: look for all paths there, again and again",
			func(s *Settings) **Survey { return &s.Survey }, ParseSurvey, Survey.String),
	}
}

func parseRate(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("%q: write a number, such as 10", text)
	}
	return v, checkRate(v)
}

func showRate(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func parseSwitch(text string) (bool, error) {
	switch text {
	case "on", "true", "yes":
		return true, nil
	case "off", "false", "no":
		return false, nil
	}
	return false, fmt.Errorf("%q: write on or off", text)
}

// maxFilters bounds a list: each connection is held against all of it.
const maxFilters = 256

// parseFilters reads a list; "none" is the empty one.
func parseFilters(text string) ([]Filter, error) {
	if text == "none" {
		return []Filter{}, nil
	}
	var out []Filter
	for one := range strings.SplitSeq(text, ",") {
		f, err := ParseFilter(strings.TrimSpace(one))
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, checkFilters(out)
}

func showFilters(list []Filter) string {
	if len(list) == 0 {
		return "none"
	}
	var out []string
	for _, f := range list {
		out = append(out, f.String())
	}
	return strings.Join(out, ",")
}

func (d Duration) check() error {
	if v := time.Duration(d); v < MinInterval || v > MaxInterval {
		return fmt.Errorf("%v: give %v to %v", v, MinInterval, MaxInterval)
	}
	return nil
}

func checkRate(v float64) error {
	if !(v > 0) || v > MaxTraceRate || math.IsInf(v, 0) {
		return fmt.Errorf("%v: give more than 0, at most %d, per second", v, MaxTraceRate)
	}
	return nil
}

func checkFilters(list []Filter) error {
	if len(list) > maxFilters {
		return fmt.Errorf("%d filters: give at most %d", len(list), maxFilters)
	}
	return nil
}

// Validate says what is wrong with s, all of it at once.
func (s Settings) Validate() error {
	var errs []error
	bad := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if s.Interval != nil {
		bad("interval", s.Interval.check())
	}
	if s.TraceRate != nil {
		bad("trace_rate", checkRate(*s.TraceRate))
	}
	if s.SwitchICMP != nil {
		bad("switch_icmp", checkRate(*s.SwitchICMP))
	}
	for _, list := range []struct {
		name string
		of   *[]Filter
	}{{"only", s.Only}, {"ignore", s.Ignore}} {
		if list.of != nil {
			bad(list.name, checkFilters(*list.of))
		}
	}
	return errors.Join(errs...)
}

// Empty says that nothing is told.
func (s Settings) Empty() bool { return s == Settings{} }

// Set changes one setting, by its key; an empty value takes it back. An error
// names the keys there are, or what the value may be.
func (s *Settings) Set(name, value string) error {
	for _, k := range keys() {
		if k.name != name {
			continue
		}
		if value == "" {
			k.unset(s)
			return nil
		}
		if err := k.set(s, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	return fmt.Errorf("there is no setting %q; there are %s", name, strings.Join(Keys(), ", "))
}

// Get returns a setting as Set reads it; false if it is not told.
func (s Settings) Get(name string) (string, bool) {
	for _, k := range keys() {
		if k.name == name {
			return k.get(&s)
		}
	}
	return "", false
}

// Keys are the names of all settings, in order.
func Keys() []string {
	var out []string
	for _, k := range keys() {
		out = append(out, k.name)
	}
	return out
}

// About says what a setting is, in a line.
func About(name string) string {
	for _, k := range keys() {
		if k.name == name {
			return k.about
		}
	}
	return ""
}

// Encode writes settings as Decode reads them.
func (s Settings) Encode() ([]byte, error) { return json.Marshal(s) }

// Decode reads settings and checks them. Nothing, or no bytes, is no settings. A
// key that is not known is an error: an agent would not do as it is told.
func Decode(b []byte) (Settings, error) {
	var s Settings
	if err := decode(b, &s); err != nil {
		return Settings{}, err
	}
	if err := s.Validate(); err != nil {
		return Settings{}, fmt.Errorf("settings: %w", err)
	}
	return s, nil
}

func decode(b []byte, into any) error {
	if len(b) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("settings cannot be read: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("settings cannot be read: more follows after their end")
	}
	return nil
}

// Merge puts settings together: what a later one tells wins.
func Merge(list ...Settings) Settings {
	var out Settings
	for _, s := range list {
		for _, k := range keys() {
			k.merge(&out, &s)
		}
	}
	return out
}
