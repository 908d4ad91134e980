package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// told is a source that hands on given records, then waits for its end. It
// names everything after its number.
type told struct {
	records      [][]byte
	handed       chan struct{} // closed when all was handed on
	closed       bool
	lost, passed uint64
	err          error // of counts
}

func (s *told) read(ctx context.Context, handle func(r *record, at time.Time)) error {
	for _, b := range s.records {
		r, err := parseRecord(b)
		if err != nil {
			return err
		}
		handle(&r, time.Unix(0, int64(r.time)))
	}
	close(s.handed)
	<-ctx.Done()
	return nil
}

func (s *told) reason(n uint32) string {
	return map[uint32]string{1: "NETFILTER_DROP", 2: "SKB_CONSUMED", 3: "UNHEARD_OF"}[n]
}
func (s *told) function(uint64) string { return "some_function" }
func (s *told) ifname(i uint32) string {
	if i == 0 {
		return ""
	}
	return fmt.Sprintf("eth%d", i)
}
func (s *told) counts() (lost, passed uint64, err error) { return s.lost, s.passed, s.err }
func (s *told) close()                                   { s.closed = true }

// The agent on any system: what it makes of a source's records, and of its end.
func TestAgentWithAnySource(t *testing.T) {
	drop := func(reason, in uint32) []byte {
		return rawRecord(func(b []byte) {
			binary.NativeEndian.PutUint32(b[recReason:], reason)
			binary.NativeEndian.PutUint32(b[recInIf:], in)
		})
	}
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen, cfg.IgnoreInterfaces = "r", "127.0.0.1:0", []string{"eth9"}
	a, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	src := &told{
		records: [][]byte{drop(1, 2), drop(1, 9), drop(2, 2), drop(3, 2), drop(1, 2)},
		handed:  make(chan struct{}), lost: 5, passed: 7,
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, src) }()
	<-src.handed
	s := a.State()
	// Two drops at eth2 and one of a reason nobody knows are events; the one at
	// eth9 and the one that is no loss are ignored, with the 7 of the source.
	if s.Events != 3 || s.DropsUnclassified != 1 || s.DropsIgnored != 2+7 || s.EventsLost != 5 {
		t.Errorf("state: %+v", s)
	}
	classes := a.ledger.totals().classes
	if len(classes) != 2 || classes[0].Name != PolicyL3ACL || classes[0].Packets != 2 || classes[1].Name != Unknown || classes[1].Packets != 1 {
		t.Errorf("classes: %+v", classes)
	}
	cancel()
	if err := <-ended; err != nil || !src.closed {
		t.Errorf("ended with %v, source closed: %v", err, src.closed)
	}
	if s := a.State(); s.EventsLost != 5 || s.DropsIgnored != 9 {
		t.Errorf("the source's last counts are gone: %+v", s)
	}
}

// A source whose counters cannot be read leaves the last that could.
func TestAgentKeepsTheLastCounts(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name = "r"
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	src := &told{lost: 5, passed: 7}
	a.source = src
	a.counts()
	src.lost, src.err = 6, errors.New("gone")
	if lost, passed := a.counts(); lost != 5 || passed != 7 {
		t.Errorf("%d lost, %d passed", lost, passed)
	}
}

// The command's help says what it runs on.
func TestHelpNamesTheSystem(t *testing.T) {
	if long := Command().Long; !strings.Contains(long, "Linux 5.17") || !strings.Contains(long, "--check") {
		t.Errorf("help:\n%s", long)
	}
}
