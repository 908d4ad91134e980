package bus

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
)

// logger shows what the code under test logs if the test fails.
func logger(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(w.close)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct {
	mu   sync.Mutex
	t    testing.TB
	done bool
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done { // a goroutine of the NATS client's may log after the test
		w.t.Logf("%s", b)
	}
	return len(b), nil
}

func (w *testWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func startServer(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	if cfg.Site == "" {
		cfg.Site = "east"
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 256 * mib
	}
	s, err := StartServer(cfg, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func connect(t testing.TB, cfg ConnConfig) *Conn {
	t.Helper()
	if cfg.Site == "" {
		cfg.Site = "east"
	}
	c, err := Connect(t.Context(), cfg, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// inProcess is a privileged connection with the streams made.
func inProcess(t testing.TB, s *Server) *Conn {
	t.Helper()
	c := connect(t, ConnConfig{Server: s})
	if err := c.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// eventually polls until ok, for at most 20 s.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-tick.C
	}
}

func closePublisher(t testing.TB, p *Publisher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

// sink collects what a Consume hands on.
type sink struct {
	mu      sync.Mutex
	batches []*decafpb.Batch
	seqs    map[string][]uint64 // by record type and producer, in order of coming
	stop    context.CancelFunc
	done    chan error
}

func consume(t testing.TB, c *Conn, since time.Time) *sink {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sink{seqs: map[string][]uint64{}, stop: cancel, done: make(chan error, 1)}
	go func() { s.done <- c.Consume(ctx, since, s.take) }()
	t.Cleanup(func() {
		cancel()
		<-s.done
	})
	return s
}

func (s *sink) take(b *decafpb.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, b)
	eachRecord(b, func(k int, m evidence) bool {
		key := kinds[k].record + " " + m.GetOrigin().Producer
		s.seqs[key] = append(s.seqs[key], m.GetOrigin().Seq)
		return true
	})
}

func (s *sink) of(record, producer string) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]uint64(nil), s.seqs[record+" "+producer]...)
}

func (s *sink) records() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.seqs {
		n += len(q)
	}
	return n
}

// inOrder fails unless got is 1, 2, 3, … up to n.
func inOrder(t testing.TB, got []uint64, n int) {
	t.Helper()
	if len(got) != n {
		t.Errorf("%d records came, want %d", len(got), n)
	}
	for i, s := range got {
		if s != uint64(i+1) {
			t.Fatalf("record %d that came has sequence number %d: order or completeness is lost", i+1, s)
		}
	}
}

func retransmit(seq uint32) *decafpb.Retransmit {
	return &decafpb.Retransmit{
		TimeNs: 1_700_000_000_000_000_000 + uint64(seq),
		Flow: &decafpb.Flow{
			Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 1, 0, byte(seq)},
			SrcPort: 40000 + seq%1000, DstPort: 80, Protocol: 6,
		},
		Cookie: uint64(seq), Segments: 1, TcpSeq: seq * 1448, TcpEndSeq: seq*1448 + 1448,
		Kind: decafpb.RetransmitKind_RETRANSMIT_KIND_FAST,
		Path: &decafpb.Path{Status: decafpb.PathStatus_PATH_STATUS_COMPLETE, Distance: 2, Hops: []*decafpb.Hop{
			{Ttl: 1, Status: decafpb.HopStatus_HOP_STATUS_ANSWERED, Address: []byte{10, 0, 0, 0}, RttNs: 100_000},
			{Ttl: 2, Status: decafpb.HopStatus_HOP_STATUS_ANSWERED, Address: []byte{10, 128, 0, 1}, RttNs: 200_000},
		}},
	}
}

// contextEnded is for calls that must not wait.
func contextEnded() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx, cancel
}
