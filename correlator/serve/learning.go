package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"decaf/correlator"
	"decaf/topology"

	"github.com/VictoriaMetrics/metrics"
)

// Learned is the topology of a configuration without a file: surveys tell of it.
const Learned = "learned"

// learning keeps the topology in use where no file tells of the network. Not safe for
// concurrent use.
type learning struct {
	site  string
	file  string // where it is kept
	now   func() time.Time
	log   *slog.Logger
	every time.Duration // between two looks
	settling

	inUse   topology.Lasting // the topology is always there
	shown   topology.Lasting // by the latest look that learned something
	about   string           // where what is in use comes from
	told    string           // the same of what is shown
	ip      int              // version of the Internet Protocol in use; 0: none yet
	changes uint64           // of surveys, by the latest look
	hosts   int              // heard of by then
	looked  time.Time        // when it was; zero: none since the start
	due     time.Time        // when the next may be
	written time.Time        // when the file was
	failing bool             // said to be
	dropped bool             // what was kept, and said to be
	through int              // walks left out, as said
}

const (
	// lookAnyway is when surveys are looked at again though none has come: what is not
	// shown any more goes in time, and what is shown stays.
	lookAnyway = 10 * time.Minute
	// idleTimes as long as learning took it rests: on a large network that is seconds.
	idleTimes = 20
)

// newLearning starts with what an earlier run has left.
func newLearning(site, data string, log *slog.Logger) (*learning, error) {
	l := &learning{
		site: site, file: filepath.Join(data, "learned.json"), now: time.Now, log: log, every: 5 * time.Second,
		settling: settling{Quiet: 30 * time.Second, Longest: 5 * time.Minute, Pace: time.Minute},
	}
	none, err := topology.New(site, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	l.inUse.Topology = none
	l.about = "nothing is known of the network yet: no file tells of it, and no surveys of equal-cost paths have come; have hosts make some with `decaf agents config set all survey=10m,ADDRESS:PORT,…`"
	text, err := os.ReadFile(l.file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		var kept topology.Lasting
		if kept, err = topology.DecodeLasting(l.file, text); err == nil && kept.Topology.Site == site {
			l.inUse = kept
			l.about = describe(kept.Topology, "before the start")
			return l, nil
		} else if err == nil {
			err = fmt.Errorf("%s: it is of site %q", l.file, kept.Topology.Site)
		}
	}
	// Surveys are stored and tell the most of it again.
	log.Error("the topology learned by an earlier run cannot be used and is learned again", "err", err)
	return l, nil
}

// describe says what a topology is and where it comes from.
func describe(t *topology.Topology, from string) string {
	return fmt.Sprintf("the topology is learned %s: %d devices, %d hosts, %d links; it names no device to ask for drops, so evidence is that of hosts alone", from, len(t.Devices), len(t.Hosts), len(t.Links))
}

// look looks at what surveys show, and says whether another topology is in use from now
// on.
func (l *learning) look(ctx context.Context, c *correlator.Correlator) (taken bool) {
	now := l.now()
	first := l.looked.IsZero()
	changes, hosts := c.Surveys().Changes, c.Hosts()
	if !now.Before(l.due) && (first || changes != l.changes || len(hosts) != l.hosts || now.Sub(l.looked) >= lookAnyway) {
		l.looked, l.changes, l.hosts = now, changes, len(hosts)
		err := l.learn(ctx, c, hosts, now)
		l.due = now.Add(idleTimes * l.now().Sub(now))
		if err != nil && !l.failing {
			l.log.Warn("nothing can be made of surveys: the topology in use stays", "err", err)
		}
		l.failing = err != nil
	}
	if l.shown.Topology == nil {
		return false
	}
	if l.shown.Topology.Equal(l.inUse.Topology) {
		l.inUse, l.about = l.shown, l.told
		l.see(now, l.inUse.Topology, l.shown.Topology)
		if now.Sub(l.written) >= lookAnyway {
			l.write()
		}
		return false
	}
	// What was surveyed before the start does not change any more.
	nothing := first && len(l.inUse.Topology.Links) == 0 && len(l.shown.Topology.Links) > 0
	if !l.see(now, l.inUse.Topology, l.shown.Topology) && !nothing {
		return false
	}
	l.inUse, l.about = l.shown, l.told
	l.write()
	l.log.Info("the topology in use is another from now on", "what", l.about)
	return true
}

// learn makes shown of all surveys, the hosts heard of and what is in use.
func (l *learning) learn(ctx context.Context, c *correlator.Correlator, hosts map[string]int64, now time.Time) error {
	learned, err := c.Learned(ctx, l.ip)
	if err == nil && learned.Topology == nil && l.ip != 0 {
		learned, err = c.Learned(ctx, 0)
	}
	if err != nil {
		return err
	}
	shown := correlator.Shown(learned)
	shown.Hosts = hosts
	next, dropped, err := l.inUse.Next(l.site, shown, now.UnixNano(), time.Duration(correlator.SurveyAge))
	if err != nil {
		return err
	}
	if dropped != nil && !l.dropped {
		l.log.Warn("what surveys do not show now does not go with what they do: none of it is kept", "err", dropped)
	}
	l.dropped = dropped != nil
	if n := learned.Learning.Through; n != l.through {
		if l.through = n; n > 0 {
			l.log.Warn("walks are left out since more hosts walked through the address they begin at than say that it is a host's: does a host forward for others, or survey from an address that is not its own?", "walks", n)
		}
	}
	if learned.Topology != nil {
		l.ip = learned.IP
	}
	by, newest := make(map[string]bool), uint64(0)
	for _, s := range learned.Surveys {
		by[s.GetOrigin().GetProducer()] = true
		newest = max(newest, s.GetTimeNs())
	}
	from := "from no survey yet"
	if learned.Topology != nil {
		from = fmt.Sprintf("from %d surveys by %d hosts, the latest at %s", len(learned.Surveys), len(by), time.Unix(0, int64(newest)).UTC().Format(time.RFC3339))
	}
	l.shown, l.told = next, describe(next.Topology, from)
	if learned.Topology == nil && learned.Why != "" {
		return errors.New(learned.Why)
	}
	return nil
}

// anew makes the next look learn, by a correlator that has just begun.
func (l *learning) anew() { l.changes, l.shown = ^uint64(0), topology.Lasting{} }

// write keeps what is in use for the next start.
func (l *learning) write() {
	l.written = l.now()
	if err := l.store(); err != nil {
		l.log.Error("the topology in use cannot be kept: after a restart the most of it is learned again", "err", err)
	}
}

func (l *learning) store() (err error) {
	text, err := l.inUse.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.file), 0o700); err != nil {
		return err
	}
	// Always of one name: what a crash leaves of it the next time overwrites.
	f, err := os.OpenFile(l.file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), l.file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// writeMetrics tells of surveys at /metrics.
func writeMetrics(w io.Writer, c *correlator.Correlator) {
	s, t := c.Surveys(), c.Topology()
	metrics.WriteGaugeUint64(w, "decaf_surveys_held", uint64(s.Held))
	metrics.WriteCounterUint64(w, `decaf_surveys_left_out_total{why="room"}`, s.Forgotten)
	metrics.WriteCounterUint64(w, `decaf_surveys_left_out_total{why="foreign"}`, s.Foreign)
	metrics.WriteCounterUint64(w, `decaf_surveys_left_out_total{why="ahead"}`, s.Ahead)
	metrics.WriteGaugeUint64(w, "decaf_topology_devices", uint64(len(t.Devices)))
	metrics.WriteGaugeUint64(w, "decaf_topology_hosts", uint64(len(t.Hosts)))
	metrics.WriteGaugeUint64(w, "decaf_topology_links", uint64(len(t.Links)))
}
