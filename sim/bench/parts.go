package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A part of a benchmark. takes is about how long it is on an idle machine, from
// which follows what is told of the time left.
type part struct {
	what  string
	takes time.Duration
	run   func(context.Context) error
}

// tellEvery is how often a long part says that it is still at work.
const tellEvery = 20 * time.Second

// play runs parts one after the other and says which, and how long is left. One
// that fails leaves the others to be measured.
func (o Options) play(ctx context.Context, parts []part) error {
	var s schedule
	var failed error
	for _, p := range parts {
		s.takes = append(s.takes, p.takes)
	}
	for i, p := range parts {
		o.Log("%d of %d: %s: %s", i+1, len(parts), p.what, s.left(0))
		err := func() error {
			begin, over := time.Now(), make(chan error, 1)
			go func() { over <- p.run(ctx) }()
			tick := time.NewTicker(tellEvery)
			defer tick.Stop()
			for {
				select {
				case err := <-over:
					s.took = append(s.took, time.Since(begin))
					return err
				case <-tick.C:
					o.Log("%d of %d: %s: %s", i+1, len(parts), p.what, s.left(time.Since(begin)))
				}
			}
		}()
		if ctx.Err() != nil {
			return errors.Join(failed, ctx.Err())
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", p.what, err)
			o.Log("%v", err)
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// schedule is how long parts were thought to take, and how long the first of them
// took.
type schedule struct{ takes, took []time.Duration }

// left says how long this part, the one after those that took their time, and all
// of them still take, so long after its beginning. A machine slower than thought
// is so for the rest, too.
func (s schedule) left(sinceBegin time.Duration) string {
	slow, thought, took := 1.0, time.Duration(0), time.Duration(0)
	for i, d := range s.took {
		thought += s.takes[i]
		took += d
	}
	if thought > 0 {
		slow = min(max(float64(took)/float64(thought), .5), 5)
	}
	at := len(s.took)
	this := max(time.Duration(slow*float64(s.takes[at]))-sinceBegin, 0)
	all := this
	for _, d := range s.takes[at+1:] {
		all += time.Duration(slow * float64(d))
	}
	if this == 0 {
		return fmt.Sprintf("longer than thought; after it about %v", all.Round(time.Second))
	}
	return fmt.Sprintf("about %v, with the rest %v", this.Round(time.Second), all.Round(time.Second))
}
