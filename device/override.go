package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"decaf/api/gnmi"
	"decaf/api/packet"
	"decaf/api/yang"
	"decaf/api/yang/model"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// overrides is what gNMI clients set over the agent's configuration file. It is
// kept in a file of its own, which is written whole or not at all, and read at
// the next start.
type overrides struct {
	agent *Agent
	file  string // "" is none: what is set is gone with the agent
	now   func() time.Time

	mu sync.Mutex // one edit at a time
}

// inForce is what clients set and what comes of it. It is not changed once made,
// but for what its filters count.
type inForce struct {
	leaves    []gnmi.Leaf // by path
	effective Config      // the file's, and what was set over it
	filters   *filters
}

// makeSet works out what leaves come to, over the configuration of the file.
// Errors are gRPC statuses.
func makeSet(base *Config, leaves []gnmi.Leaf) (*inForce, []byte, error) {
	text, err := gnmi.MarshalTree(yang.Schema(), leaves)
	if err != nil {
		return nil, nil, status.Errorf(codes.Internal, "write what is set: %v", err)
	}
	loss, err := yang.ParseSettings(text)
	if err != nil {
		return nil, nil, status.Error(codes.InvalidArgument, err.Error())
	}
	s := &inForce{leaves: leaves}
	known := classNames()
	for _, name := range slices.Sorted(maps.Keys(loss.Class)) {
		if !known[name] {
			return nil, nil, status.Errorf(codes.NotFound, "there is no class %s: the classes are %s, and what they begin with", name, strings.Join(Classes(), ", "))
		}
	}
	s.effective = base.with(loss)
	if err := s.effective.validateReporting(); err != nil {
		return nil, nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if len(loss.Filter) > maxFilters {
		return nil, nil, status.Errorf(codes.ResourceExhausted, "%d filters: at most %d, each is held against every drop", len(loss.Filter), maxFilters)
	}
	if s.filters, err = newFilters(loss.Filter); err != nil {
		return nil, nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return s, text, nil
}

// with returns the configuration with what was set over it.
func (c Config) with(l *model.Loss) Config {
	if r := l.Reporting; r != nil {
		c.Report = classConfig(r.Threshold, r.Burst, r.Hold, r.AggregateInterval, r.DeduplicateInterval, r.Ignore).over(c.Report)
		setInt(&c.Aggregates.PrefixV4, r.PrefixLengthIpv4)
		setInt(&c.Aggregates.PrefixV6, r.PrefixLengthIpv6)
	}
	c.Classes = maps.Clone(c.Classes)
	for name, class := range l.Class {
		r := class.Reporting
		if r == nil {
			continue
		}
		if c.Classes == nil {
			c.Classes = map[string]ClassConfig{}
		}
		was := c.Classes[name]
		is := classConfig(r.Threshold, r.Burst, r.Hold, r.AggregateInterval, r.DeduplicateInterval, r.Ignore)
		c.Classes[name] = ClassConfig{
			Threshold: or(is.Threshold, was.Threshold), Burst: or(is.Burst, was.Burst), Hold: or(is.Hold, was.Hold),
			Interval: or(is.Interval, was.Interval), Deduplicate: or(is.Deduplicate, was.Deduplicate), Ignore: or(is.Ignore, was.Ignore),
		}
	}
	if f := l.Fuse; f != nil {
		if f.Cpu != nil {
			c.Fuse.CPU = float64(*f.Cpu) / 1000
		}
		if f.Queue != nil {
			c.Fuse.Queue = float64(*f.Queue) / 1000
		}
		if f.Events != nil {
			c.Fuse.Events = float64(*f.Events)
		}
		set(&c.Fuse.MemoryBytes, f.Memory)
		set(&c.Fuse.BackOff, milliseconds(f.BackOff))
		set(&c.Fuse.MaxBackOff, milliseconds(f.MaxBackOff))
	}
	return c
}

// classConfig reads what was set of a class.
func classConfig(threshold, burst *uint64, hold, interval, deduplicate *uint32, ignore *bool) ClassConfig {
	return ClassConfig{
		Threshold: float(threshold), Burst: float(burst), Hold: milliseconds(hold),
		Interval: milliseconds(interval), Deduplicate: milliseconds(deduplicate), Ignore: ignore,
	}
}

func float(v *uint64) *float64 {
	if v == nil {
		return nil
	}
	f := float64(*v)
	return &f
}

func milliseconds(v *uint32) *time.Duration {
	if v == nil {
		return nil
	}
	d := time.Duration(*v) * time.Millisecond
	return &d
}

func or[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func setInt(to *int, from *uint8) {
	if from != nil {
		*to = int(*from)
	}
}

// classNames are the classes and what they begin with.
func classNames() map[string]bool {
	known := map[string]bool{}
	for _, class := range Classes() {
		for at := class; ; at = at[:strings.LastIndexByte(at, '/')] {
			known[at] = true
			if !strings.Contains(at, "/") {
				break
			}
		}
	}
	return known
}

// Edit implements gnmi.Settings.
func (o *overrides) Edit(_ context.Context, change func([]gnmi.Leaf) ([]gnmi.Leaf, error)) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	before := o.agent.setNow()
	leaves, err := change(withoutFilters(before.leaves, before.filters.over(now)))
	if err != nil {
		return err
	}
	s, text, err := makeSet(&o.agent.cfg, leaves)
	if err != nil {
		return err
	}
	if over := s.filters.over(now); len(over) > 0 {
		return status.Errorf(codes.InvalidArgument, "filter %s: its end-time is over: give one that lies ahead of this device's clock, %d", over[0], now.UnixNano())
	}
	if err := o.agent.canTake(s); err != nil {
		return err
	}
	if err := o.keep(text); err != nil {
		return status.Errorf(codes.FailedPrecondition, "nothing is changed, since it cannot be kept: %v", err)
	}
	o.agent.use(s, now)
	o.agent.log.Info("settings changed over gNMI", "leaves", len(leaves), "filters", len(s.filters.list), "file", o.file)
	return nil
}

// expire takes out the filters whose end has come, and reports whether there were
// any.
func (o *overrides) expire(now time.Time) bool {
	if len(o.agent.setNow().filters.over(now)) == 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.agent.setNow()
	over := before.filters.over(now)
	s, text, err := makeSet(&o.agent.cfg, withoutFilters(before.leaves, over))
	if err != nil { // less of what was allowed is allowed
		o.agent.log.Error("filters do not end", "filters", over, "error", err)
		return false
	}
	if err := o.keep(text); err != nil { // the next start leaves them out
		o.agent.log.Warn("filters ended, and are still in the file", "filters", over, "error", err)
	}
	o.agent.use(s, now)
	o.agent.log.Info("filters ended", "filters", over)
	return true
}

// withoutFilters leaves out all of some filters.
func withoutFilters(leaves []gnmi.Leaf, names []string) []gnmi.Leaf {
	return slices.DeleteFunc(slices.Clone(leaves), func(l gnmi.Leaf) bool {
		return len(l.Path) > 2 && l.Path[1].GetName() == "filters" && slices.Contains(names, l.Path[2].GetKey()["name"])
	})
}

// load reads what was kept. Filters whose end came meanwhile are left out.
func (o *overrides) load() error {
	s, _, err := makeSet(&o.agent.cfg, nil)
	if err != nil {
		return err // of the configuration itself
	}
	o.agent.use(s, o.now())
	if o.file == "" {
		return nil
	}
	text, err := os.ReadFile(o.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what was set over gNMI: %w", err)
	}
	leaves, err := gnmi.UnmarshalTree(yang.Schema(), yang.Models(), text)
	if err == nil {
		s, _, err = makeSet(&o.agent.cfg, leaves)
	}
	if err == nil {
		if over := s.filters.over(o.now()); len(over) > 0 {
			s, _, err = makeSet(&o.agent.cfg, withoutFilters(leaves, over))
		}
	}
	if err != nil {
		return fmt.Errorf("%s, which keeps what was set over gNMI: %s: mend it, or remove it to go back to the configuration file", o.file, status.Convert(err).Message())
	}
	o.agent.use(s, o.now())
	return nil
}

// keep writes the file: a reader sees the old one or the new one.
func (o *overrides) keep(text []byte) error {
	if o.file == "" {
		return nil
	}
	dir := filepath.Dir(o.file)
	f, err := os.CreateTemp(dir, filepath.Base(o.file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // unless it has its own name by then
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), o.file); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// canTake says why what was set cannot be put in force now.
func (a *Agent) canTake(s *inForce) error {
	a.mu.Lock()
	src := a.sources
	a.mu.Unlock()
	if src == nil || src.kernel == nil {
		return nil
	}
	if _, ok := src.kernel.(paced); ok {
		return nil
	}
	if was, is := a.setNow().effective.highestPace(), s.effective.highestPace(); is.rate > was.rate || is.burst > was.burst {
		return status.Errorf(codes.FailedPrecondition, "the source of drops hands on %g records a second and %g at once, and cannot be told otherwise: put the threshold into the configuration file and start again", was.rate, was.burst)
	}
	return nil
}

// setNow returns what is set at present.
func (a *Agent) setNow() *inForce {
	a.reporting.Lock()
	defer a.reporting.Unlock()
	return a.inForce
}

// use puts what was set in force.
func (a *Agent) use(s *inForce, now time.Time) {
	a.reporting.Lock()
	if a.inForce != nil {
		s.filters.inherit(a.inForce.filters)
	}
	a.inForce = s
	a.reporter.apply(s.effective.settings, now)
	a.reporter.only = func(now time.Time) bool { return s.filters.only(now) }
	a.reporter.source = whileOpen{a}
	a.reporter.fuse.budget = s.effective.Fuse.budget()
	a.reporter.aggregates.length = prefixLength{s.effective.Aggregates.PrefixV4, s.effective.Aggregates.PrefixV6}
	a.transitions()
	a.reporting.Unlock()
	a.repace()
}

// pace is how many records of a class the source hands on: as many as its threshold
// needs; with filters that the source does not know as many as the fuse lets through
// as events, since any drop may match.
func (s *inForce) pace(class string, unknown bool) pace {
	p := s.effective.pace(class)
	if unknown {
		p = p.atLeast(s.effective.fusePace())
		p.once = 0 // a filter tells of each
	}
	return p
}

// repace tells the source how many records are needed, and the filters, as many as it
// takes. Until the class of a cause is known it may be any.
func (a *Agent) repace() {
	s := a.setNow()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sources == nil {
		return
	}
	list := s.filters.list
	unknown := len(list) > 0
	if k, ok := a.sources.kernel.(filterer); ok {
		rate, burst := s.effective.fusePace()
		if err := k.setFilters(list[:min(len(list), kernelFilters)], pace{rate: rate, burst: burst}); err != nil {
			a.log.Warn("in a flood not all drops are told of that match a filter", "error", err)
		} else if unknown = len(list) > kernelFilters; unknown {
			a.log.Warn("in a flood not all drops are told of that match a filter: the kernel program takes the first of them, by name, alone", "filters", len(list), "taken", kernelFilters)
		}
	}
	if k, ok := a.sources.kernel.(paced); ok {
		k.setPace(s.effective.unknownPace(), func(class string) pace { return s.pace(class, unknown) })
	}
}

// missedFilters counts what matched filters and did not come up.
func (a *Agent) missedFilters(src *sources) {
	k, ok := src.kernel.(filterer)
	if !ok {
		return
	}
	err := k.missedOf(func(f *yang.Filter, packets uint64) {
		a.reporting.Lock()
		defer a.reporting.Unlock()
		a.inForce.filters.missed(f, packets)
	})
	if err != nil {
		a.log.Warn("what matched filters is counted later", "error", err)
	}
}

// whileOpen is what the agent's source is as [repeating], as long as it has one that is.
type whileOpen struct{ *Agent }

func (a whileOpen) do(f func(repeating)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sources == nil {
		return
	}
	if k, ok := a.sources.kernel.(repeating); ok {
		f(k)
	}
}

func (a whileOpen) repeated(now time.Time, class string, f packet.Flow) (last time.Time, packets uint64, ok bool) {
	a.do(func(r repeating) { last, packets, ok = r.repeated(now, class, f) })
	return last, packets, ok
}

func (a whileOpen) forget(class string, f packet.Flow) {
	a.do(func(r repeating) { r.forget(class, f) })
}

func (a whileOpen) anew() { a.do(repeating.anew) }

// apply puts other settings in force: from the next drop on the threshold, the
// interval and the rest are as they say. A class that was above its old threshold
// has its events back at once and is held against the new one.
func (r *reporter) apply(settings func(string) classSettings, now time.Time) {
	r.settings = settings
	for _, name := range slices.Sorted(maps.Keys(r.classes)) {
		c := r.classes[name]
		s := settings(name)
		if s.Threshold != c.Threshold || s.Burst != c.Burst || s.Hold != c.Hold {
			if c.gate.above {
				r.transitions = append(r.transitions, transitionAt{now, yang.Transition{
					Kind: "threshold", Class: name, From: "aggregates", To: "events", Cause: "settings", Measured: uint64(s.Threshold), Limit: uint64(s.Threshold),
				}})
			}
			c.gate = &gate{threshold: s.Threshold, burst: s.Burst, hold: s.Hold}
		}
		if s.Deduplicate != c.Deduplicate {
			if c.repetition != nil {
				c.forgotten += c.repetition.forgotten + uint64(len(c.repetition.flows))
				c.repetition.clear()
			}
			c.repetition = nil
			if s.Deduplicate > 0 {
				c.repetition = r.newRepetition(name, s.Deduplicate)
			}
		}
		c.classSettings = s
	}
}

// reportSettings are settings as the model has them.
func (s classSettings) reportSettings() yang.ReportSettings {
	return yang.ReportSettings{
		Burst: uint64(s.Burst), HoldMs: uint64(s.Hold.Milliseconds()), AggregateIntervalMs: uint64(s.Interval.Milliseconds()),
		DeduplicateMs: uint64(s.Deduplicate.Milliseconds()), Ignore: s.Ignore,
	}
}

// settingUpdates is what was set, and what holds. The caller holds a.reporting.
func (a *Agent) settingUpdates(now time.Time) []*gnmipb.Notification {
	c := &a.inForce.effective
	general := yang.General{Threshold: uint64(c.Report.Threshold), Report: c.settings("").reportSettings()}
	general.PrefixLength.V4, general.PrefixLength.V6 = uint64(c.Aggregates.PrefixV4), uint64(c.Aggregates.PrefixV6)
	out := append(gnmi.Notifications(a.inForce.leaves, now), yang.GeneralUpdates(general, now), yang.FuseUpdates(yang.FuseSettings{
		CPU: uint64(c.Fuse.CPU * 1000), MemoryBytes: c.Fuse.MemoryBytes, Events: uint64(c.Fuse.Events), Queue: uint64(c.Fuse.Queue * 1000),
		BackOffMs: uint64(c.Fuse.BackOff.Milliseconds()), MaxBackOffMs: uint64(c.Fuse.MaxBackOff.Milliseconds()),
	}, now))
	for _, f := range a.inForce.filters.list {
		out = append(out, yang.FilterUpdates(*f, now)...)
	}
	return out
}
