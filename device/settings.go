package device

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// ReportConfig is how classes are reported.
type ReportConfig struct {
	// Threshold is how many drops a second a class may have and still get an
	// event for each. Above it the events of the class stop; its aggregates go
	// on. 0 is no events at all.
	Threshold float64 `yaml:"threshold"`
	// Burst is how many drops at once are not yet above it; 0 is as many as
	// the threshold has in a second.
	Burst float64 `yaml:"burst"`
	// Hold is how long the rate must have been under 80 % of the threshold
	// before the events come back.
	Hold time.Duration `yaml:"hold"`
	// Interval is what one aggregate spans.
	Interval time.Duration `yaml:"interval"`
	// Deduplicate, when not 0, gives a flow's drops one event when they begin,
	// one about each so often while they go on, and a transition when they stopped.
	Deduplicate time.Duration `yaml:"deduplicate"`
	// Ignore leaves out events and aggregates; the drops are counted.
	Ignore bool `yaml:"ignore"`
}

// ClassConfig changes some of ReportConfig for a class and all below it.
type ClassConfig struct {
	Threshold   *float64       `yaml:"threshold,omitempty"`
	Burst       *float64       `yaml:"burst,omitempty"`
	Hold        *time.Duration `yaml:"hold,omitempty"`
	Interval    *time.Duration `yaml:"interval,omitempty"`
	Deduplicate *time.Duration `yaml:"deduplicate,omitempty"`
	Ignore      *bool          `yaml:"ignore,omitempty"`
}

// FuseConfig is what the agent may take from the device it watches.
type FuseConfig struct {
	CPU         float64       `yaml:"cpu"`          // cores
	MemoryBytes uint64        `yaml:"memory_bytes"` // of the process, and of what its kernel program keeps
	Events      float64       `yaml:"events"`       // per second
	Queue       float64       `yaml:"queue"`        // share of the room between kernel and agent, 0 to 1
	BackOff     time.Duration `yaml:"back_off"`     // quiet before the first step back
	MaxBackOff  time.Duration `yaml:"max_back_off"` // it doubles up to this
}

// classSettings are what holds for one class.
type classSettings ReportConfig

// defaultReport bounds what one class can send and lets through what a single
// fault makes.
func defaultReport() ReportConfig {
	return ReportConfig{Threshold: 1000, Hold: 2 * time.Second, Interval: time.Second}
}

func defaultFuse() FuseConfig {
	return FuseConfig{CPU: 0.25, MemoryBytes: 256 << 20, Events: 10_000, Queue: 0.5, BackOff: 5 * time.Second, MaxBackOff: 5 * time.Minute}
}

func (c FuseConfig) budget() budget {
	return budget{cpu: c.CPU, memory: float64(c.MemoryBytes), events: c.Events, queue: c.Queue, backOff: c.BackOff, longest: c.MaxBackOff}
}

// over returns the settings with what c changes.
func (c ClassConfig) over(s ReportConfig) ReportConfig {
	set(&s.Threshold, c.Threshold)
	set(&s.Burst, c.Burst)
	set(&s.Hold, c.Hold)
	set(&s.Interval, c.Interval)
	set(&s.Deduplicate, c.Deduplicate)
	set(&s.Ignore, c.Ignore)
	return s
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// settings returns what holds for a class: the settings of its parents, and its
// own over them.
func (c *Config) settings(class string) classSettings {
	s := c.Report
	for at := 0; at < len(class); {
		next := strings.IndexByte(class[at:], '/')
		if next < 0 {
			next = len(class) - at
		}
		at += next
		s = c.Classes[class[:at]].over(s)
		at++
	}
	if s.Burst == 0 {
		s.Burst = s.Threshold
	}
	return classSettings(s)
}

// pace is how many records of a class the source hands on: as many as it may have
// events, and some more, since it is the threshold that tells when it has too many, by
// a clock of its own. Where flows are told of once a while it is as many flows as the
// fuse lets through.
func (c *Config) pace(class string) pace {
	s := c.settings(class)
	p := s.pace()
	if s.Deduplicate > 0 {
		p = p.atLeast(c.fusePace())
		p.once = handedOnAgain(s.Deduplicate)
	}
	return p
}

// pace is that of each drop.
func (s classSettings) pace() pace { return leastPace.atLeast(s.Threshold, s.Burst+s.Threshold/8) }

// handedOnAgain is how long the source holds back a flow that it handed on: longer
// than it is told of once, by as much as a record may take to the agent, so that the
// next one is told of and not a repetition still.
func handedOnAgain(every time.Duration) time.Duration { return every + max(every/8, 2*beat) }

// unknownPace is that of drops whose class is not known: the highest of any.
func (c *Config) unknownPace() pace { return c.highest(c.pace) }

// highestPace is that of the highest thresholds.
func (c *Config) highestPace() pace {
	return c.highest(func(class string) pace { return c.settings(class).pace() })
}

func (c *Config) highest(of func(class string) pace) pace {
	p := of("")
	for name := range c.Classes {
		p = p.atLeast(of(name).rate, of(name).burst)
	}
	p.once = 0
	return p
}

// fusePace is that of events at the fuse's budget.
func (c *Config) fusePace() (rate, burst float64) { return c.Fuse.Events, c.Fuse.Events }

func (p pace) atLeast(rate, burst float64) pace {
	return pace{rate: max(p.rate, rate), burst: max(p.burst, burst), once: p.once}
}

// validateReporting says what is wrong with what is reported.
func (c *Config) validateReporting() error {
	if err := c.Report.validate(); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	known := classNames()
	for _, name := range slices.Sorted(maps.Keys(c.Classes)) {
		if !known[name] {
			return fmt.Errorf("classes: %q is no class: the classes are %s, and what they begin with", name, strings.Join(Classes(), ", "))
		}
		if err := ReportConfig(c.settings(name)).validate(); err != nil {
			return fmt.Errorf("classes: %s: %w", name, err)
		}
	}
	if err := c.Aggregates.validate(); err != nil {
		return fmt.Errorf("aggregates: %w", err)
	}
	if err := c.Fuse.validate(); err != nil {
		return fmt.Errorf("fuse: %w", err)
	}
	return nil
}

const (
	minInterval = 100 * time.Millisecond
	maxInterval = time.Hour
)

func (c ReportConfig) validate() error {
	switch {
	case !(c.Threshold >= 0 && c.Threshold <= 1e9):
		return fmt.Errorf("threshold %g: give drops per second from 0 (no events) to 1e9", c.Threshold)
	case !(c.Burst >= 0 && c.Burst <= 1e9):
		return fmt.Errorf("burst %g: give a number of drops from 0 (as many as the threshold) to 1e9", c.Burst)
	case c.Hold < 0 || c.Hold > maxInterval:
		return fmt.Errorf("hold %s: give a duration from 0s to %s", c.Hold, maxInterval)
	case c.Interval < minInterval || c.Interval > maxInterval:
		return fmt.Errorf("interval %s: give a duration from %s to %s", c.Interval, minInterval, maxInterval)
	case c.Deduplicate != 0 && (c.Deduplicate < minInterval || c.Deduplicate > maxInterval):
		return fmt.Errorf("deduplicate %s: give 0s (off), or a duration from %s to %s", c.Deduplicate, minInterval, maxInterval)
	}
	return nil
}

func (c FuseConfig) validate() error {
	const leastMemory = 16 << 20 // the agent at rest
	switch {
	case !(c.CPU > 0 && c.CPU <= 1024):
		return fmt.Errorf("cpu %g: give a number of cores above 0, such as 0.05", c.CPU)
	case c.MemoryBytes < leastMemory:
		return fmt.Errorf("memory_bytes %d: give %d or more, which the agent takes at rest", c.MemoryBytes, leastMemory)
	case !(c.Events > 0 && c.Events <= 1e9):
		return fmt.Errorf("events %g: give events per second above 0", c.Events)
	case !(c.Queue > 0 && c.Queue <= 1):
		return fmt.Errorf("queue %g: give a share above 0 and up to 1", c.Queue)
	case c.BackOff < time.Second:
		return fmt.Errorf("back_off %s: give 1s or more", c.BackOff)
	case c.MaxBackOff < c.BackOff:
		return errors.New("max_back_off is less than back_off")
	}
	return nil
}
