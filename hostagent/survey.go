package hostagent

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"decaf/api/agentconfig"
	"decaf/api/decafpb"
	"decaf/api/packet"
	"decaf/topology"
	"decaf/tracer"

	"google.golang.org/protobuf/proto"
)

// surveyor finds all equal-cost paths. tracer.Tracer is one.
type surveyor interface {
	Survey(ctx context.Context, every time.Duration, targets func() []tracer.EnumerateRequest, found func(tracer.EnumerateRequest, *tracer.Fan, *decafpb.Path, error))
}

// survey looks for all equal-cost paths on schedule, as it is told, publishes what
// it found as Survey records, and where asked to keeps it as a topology file: for
// a network of which no file tells. It takes only what traces leave of the budget.
type survey struct {
	by   surveyor
	far  tracer.Distance // nil: unknown
	site string
	file string // "": nowhere
	tell func(proto.Message)
	log  *slog.Logger

	told    chan agentconfig.Survey // the newest; of capacity 1
	last    agentconfig.Survey      // told; of the one who tells
	round   int64                   // of run
	walks   map[netip.AddrPort][]topology.Walk
	failing map[netip.AddrPort]bool // said to be
	mu      sync.Mutex              // of told and last

	fans, failed, paths, unwritten atomic.Uint64
}

func newSurvey(by surveyor, far tracer.Distance, site, file string, tell func(proto.Message), log *slog.Logger) *survey {
	return &survey{
		by: by, far: far, site: site, file: file, tell: tell, log: log, told: make(chan agentconfig.Survey, 1),
		walks: map[netip.AddrPort][]topology.Walk{}, failing: map[netip.AddrPort]bool{},
	}
}

// set says what to look for from now on.
func (s *survey) set(v agentconfig.Survey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.String() == s.last.String() {
		return // it goes on
	}
	s.last = v
	select {
	case <-s.told: // overtaken
	default:
	}
	s.told <- v
}

// Run surveys until ctx is done.
func (s *survey) Run(ctx context.Context) error {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case v := <-s.told:
			stop()
			clear(s.walks)
			clear(s.failing)
			s.paths.Store(0)
			stop = s.start(ctx, v)
		}
	}
}

// start surveys until stop, which waits for its end.
func (s *survey) start(ctx context.Context, v agentconfig.Survey) (stop func()) {
	if v.Every == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var going sync.WaitGroup
	going.Go(func() {
		s.by.Survey(ctx, v.Every, func() []tracer.EnumerateRequest { return s.targets(ctx, v) }, s.found(ctx))
	})
	return func() {
		cancel()
		going.Wait()
	}
}

// targets are what to look for in a round.
func (s *survey) targets(ctx context.Context, v agentconfig.Survey) []tracer.EnumerateRequest {
	s.round--
	var out []tracer.EnumerateRequest
	for _, to := range v.To {
		src, err := tracer.SourceTowards(ctx, to)
		if err != nil {
			s.fail(to, err)
			continue
		}
		r := tracer.EnumerateRequest{Confidence: float64(v.Confidence) / 100}
		// Epochs of flows count up from 1970: below 0 is nobody's.
		r.Request = tracer.Request{Flow: packet.Flow{Src: src, Dst: to, Proto: packet.TCP}, Epoch: s.round}
		if s.far != nil {
			r.Distance = s.far(src.Addr(), to.Addr())
		}
		// Else nothing but an answer from there tells how far it is.
		r.New = r.Distance == 0
		out = append(out, r)
	}
	return out
}

// found takes what came of a target.
func (s *survey) found(ctx context.Context) func(tracer.EnumerateRequest, *tracer.Fan, *decafpb.Path, error) {
	return func(r tracer.EnumerateRequest, fan *tracer.Fan, _ *decafpb.Path, err error) {
		to := r.Flow.Dst
		if ctx.Err() != nil {
			return
		}
		if err != nil || fan == nil {
			s.fail(to, err)
			return
		}
		s.fans.Add(1)
		s.failing[to] = false
		if old := len(s.walks[to]); old != len(fan.Paths) {
			s.log.Info("equal-cost paths", "to", to, "paths", len(fan.Paths), "before", old, "probes", fan.Probes)
		}
		s.tell(surveyRecord(r, fan, time.Now()))
		s.walks[to] = fan.Walks(r.Flow)
		n := 0
		for w := range maps.Values(s.walks) {
			n += len(w)
		}
		s.paths.Store(uint64(n))
		if s.file == "" {
			return
		}
		if err := s.write(); err != nil {
			s.unwritten.Add(1)
			s.log.Warn("cannot keep what the survey found", "file", s.file, "err", err)
		}
	}
}

// fail says once that a target cannot be surveyed, and counts each time.
func (s *survey) fail(to netip.AddrPort, err error) {
	s.failed.Add(1)
	if !s.failing[to] {
		s.log.Warn("cannot look for all paths", "to", to, "err", err)
	}
	s.failing[to] = true
}

// write makes a topology file of what is known, whole or not at all.
func (s *survey) write() error {
	var all []topology.Walk
	for _, to := range slices.SortedFunc(maps.Keys(s.walks), netip.AddrPort.Compare) {
		all = append(all, s.walks[to]...)
	}
	t, _, err := topology.Learn(s.site, all, nil)
	if err != nil {
		return err
	}
	text, err := t.Marshal()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(s.file), filepath.Base(s.file)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), s.file)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// counters are what heartbeats say of it.
func (s *survey) counters(into map[string]uint64) {
	into[countSurveys] = s.fans.Load()
	into[countSurveysFailed] = s.failed.Load()
	into[countSurveyPaths] = s.paths.Load()
	into[countSurveyUnwritten] = s.unwritten.Load()
}
