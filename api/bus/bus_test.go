package bus

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"

	"github.com/VictoriaMetrics/metrics"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
)

func TestEveryRecordTypeArrives(t *testing.T) {
	c := inProcess(t, startServer(t, ServerConfig{}))
	got := consume(t, c, time.Time{})
	p := NewPublisher(c, "p0-tor0", PublisherOptions{BootID: 7})
	for _, m := range oneOfEach() {
		p.Publish(m)
	}
	closePublisher(t, p)
	eventually(t, "all record types", func() bool { return got.records() == len(kinds) })
	for _, k := range kinds {
		inOrder(t, got.of(k.record, "p0-tor0"), 1)
	}
	if s := p.Stats(); s.Records != uint64(len(kinds)) || s.Stored != s.Records || s.LeftOut+s.Rejected+s.Waiting != 0 {
		t.Errorf("stats %+v", s)
	}
	// One batch per record type: each has its own subject.
	if s := c.ConsumeStats(); s.Batches != uint64(len(kinds)) || s.Undecodable+s.Forged != 0 {
		t.Errorf("consume stats %+v", s)
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	for _, b := range got.batches {
		eachRecord(b, func(_ int, m evidence) bool {
			if m.GetOrigin().BootId != 7 {
				t.Errorf("boot id %d, want 7", m.GetOrigin().BootId)
			}
			if r := m.(interface{ GetReceivedNs() uint64 }); r.GetReceivedNs() == 0 {
				t.Errorf("%T without the time it was received", m)
			}
			return true
		})
	}
}

func oneOfEach() []proto.Message {
	return []proto.Message{
		&decafpb.DropEvent{Class: "policy/l3/acl"}, &decafpb.LossAggregate{Packets: 3}, &decafpb.RouteEvent{},
		&decafpb.FlowRecord{Packets: 5}, retransmit(1), &decafpb.Exchange{}, &decafpb.Heartbeat{Role: "host"},
		&decafpb.Survey{Src: []byte{10, 0, 0, 1}, Dst: []byte{10, 0, 0, 2}},
	}
}

func TestOriginGivenByTheCallerIsKept(t *testing.T) {
	c := inProcess(t, startServer(t, ServerConfig{}))
	got := consume(t, c, time.Time{})
	p := NewPublisher(c, "t2-0", PublisherOptions{})
	for _, seq := range []uint64{40, 41, 45} {
		p.Publish(&decafpb.DropEvent{Origin: &decafpb.Origin{Producer: "t2-0", BootId: 9, Seq: seq}})
	}
	p.Publish(&decafpb.DropEvent{Origin: &decafpb.Origin{Producer: "t2-1", BootId: 9, Seq: 1}})
	closePublisher(t, p)
	eventually(t, "three drops", func() bool { return got.records() == 3 })
	if s := fmt.Sprint(got.of(RecordDrop, "t2-0")); s != "[40 41 45]" {
		t.Errorf("sequence numbers %s", s)
	}
	if s := p.Stats(); s.Rejected != 1 {
		t.Errorf("a record of another producer: %+v, want 1 rejected", s)
	}
}

func TestMalformedRecordsAreRejectedAndCounted(t *testing.T) {
	c := inProcess(t, startServer(t, ServerConfig{}))
	p := NewPublisher(c, "h", PublisherOptions{})
	bad := []proto.Message{
		nil, (*decafpb.DropEvent)(nil), &decafpb.Finding{},
		&decafpb.Retransmit{Flow: &decafpb.Flow{Src: []byte{1, 2, 3}}},
		&decafpb.Retransmit{Flow: &decafpb.Flow{Src: make([]byte, 4), Dst: make([]byte, 16)}},
		&decafpb.Retransmit{Flow: &decafpb.Flow{SrcPort: 65536}},
		&decafpb.DropEvent{Reason: "not utf-8: \xff"},
		&decafpb.DropEvent{Packet: &decafpb.Packet{Header: make([]byte, 129)}},
		&decafpb.FlowRecord{StartNs: 2, EndNs: 1},
		&decafpb.Exchange{Origin: &decafpb.Origin{Producer: "h"}},
		&decafpb.Heartbeat{Version: strings.Repeat("x", maxRecordBytes+1)},
	}
	for _, m := range bad {
		p.Publish(m)
	}
	p.Publish(&decafpb.Exchange{}) // and the numbering has no hole from them
	closePublisher(t, p)
	if s := p.Stats(); s.Rejected != uint64(len(bad)) || s.Stored != 1 {
		t.Errorf("stats %+v, want %d rejected and 1 stored", s, len(bad))
	}
	got := consume(t, c, time.Time{})
	eventually(t, "the good one", func() bool { return got.records() == 1 })
	inOrder(t, got.of(RecordExchange, "h"), 1)
}

func TestBatchesAreCutByCountAndByTime(t *testing.T) {
	c := inProcess(t, startServer(t, ServerConfig{}))
	p := NewPublisher(c, "h", PublisherOptions{MaxRecords: 100, MaxDelay: time.Hour})
	for i := range 250 {
		p.Publish(retransmit(uint32(i)))
	}
	eventually(t, "two full batches stored, the third waiting", func() bool {
		s := p.Stats()
		return s.Batches == 2 && s.Stored == 200 && s.Waiting == 50
	})
	p.Flush() // does not wait for the hour
	eventually(t, "the third stored too", func() bool { return p.Stats().Stored == 250 })
	p.Publish(retransmit(250))
	closePublisher(t, p) // nor does this
	if s := p.Stats(); s.Batches != 4 || s.Stored != 251 {
		t.Errorf("stats %+v", s)
	}
	q := NewPublisher(c, "h", PublisherOptions{MaxDelay: time.Millisecond})
	defer closePublisher(t, q)
	q.Publish(retransmit(1))
	eventually(t, "a lone record sent by time", func() bool { return q.Stats().Stored == 1 })
}

func TestConsumeStartsAtSince(t *testing.T) {
	c := inProcess(t, startServer(t, ServerConfig{}))
	p := NewPublisher(c, "h", PublisherOptions{})
	p.Publish(retransmit(1))
	eventually(t, "the first", func() bool { return p.Stats().Stored == 1 })
	since := time.Now()
	p.Publish(retransmit(2))
	p.Publish(retransmit(3))
	closePublisher(t, p)
	got := consume(t, c, since)
	eventually(t, "the later two", func() bool { return got.records() == 2 })
	if s := fmt.Sprint(got.of(RecordRetransmit, "h")); s != "[2 3]" {
		t.Errorf("sequence numbers %s", s)
	}
}

// The server goes away in order and comes back at the same address with the
// same store, three times, while records are published all along: each comes
// exactly once and in order.
func TestNothingIsLostWhenTheServerRestarts(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0", Dir: dir})
	addr := strings.TrimPrefix(s.URL(), "nats://")
	inProcess(t, s)
	c := connect(t, ConnConfig{URL: s.URL(), Name: "host.h"})
	p := NewPublisher(c, "h", PublisherOptions{MaxRecords: 20})
	n, restarts := 0, 3
	for range restarts {
		stored := p.Stats().Stored
		for range 1000 {
			n++
			p.Publish(retransmit(uint32(n)))
		}
		eventually(t, "some stored", func() bool { return p.Stats().Stored > stored })
		s.Stop()
		for range 1000 {
			n++
			p.Publish(retransmit(uint32(n)))
		}
		s = startServer(t, ServerConfig{Listen: addr, Dir: dir})
	}
	closePublisher(t, p)
	got := consume(t, connect(t, ConnConfig{Server: s}), time.Time{})
	eventually(t, "all records", func() bool { return len(got.of(RecordRetransmit, "h")) >= n })
	inOrder(t, got.of(RecordRetransmit, "h"), n)
	if st := p.Stats(); st.Stored != uint64(n) || st.LeftOut != 0 || st.Resent == 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestSpoolOverflowIsCountedAndLeavesTheNewest(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0", Dir: dir})
	addr := strings.TrimPrefix(s.URL(), "nats://")
	inProcess(t, s)
	c := connect(t, ConnConfig{URL: s.URL(), Name: "host.h"})
	p := NewPublisher(c, "h", PublisherOptions{MaxRecords: 10, MaxDelay: time.Hour, SpoolBytes: 20_000})
	s.Stop()
	eventually(t, "the connection to notice", func() bool { return c.Ready() != nil })
	const n = 5000
	for i := range n {
		p.Publish(retransmit(uint32(i)))
	}
	eventually(t, "all batches cut", func() bool { return p.Stats().Batches == n/10 })
	s = startServer(t, ServerConfig{Listen: addr, Dir: dir})
	closePublisher(t, p)
	st := p.Stats()
	if st.LeftOut == 0 || st.Stored == 0 || st.Stored+st.LeftOut != n || st.Waiting != 0 {
		t.Fatalf("stats %+v: stored and left out must add up to %d", st, n)
	}
	got := consume(t, connect(t, ConnConfig{Server: s}), time.Time{})
	eventually(t, "what was stored", func() bool { return len(got.of(RecordRetransmit, "h")) == int(st.Stored) })
	// The hole in the sequence is what was left out.
	seqs := got.of(RecordRetransmit, "h")
	if first, last := seqs[0], seqs[len(seqs)-1]; first != st.LeftOut+1 || last != n {
		t.Errorf("sequence numbers %d to %d, want %d to %d", first, last, st.LeftOut+1, n)
	}
}

func TestAgentStartsBeforeItsServer(t *testing.T) {
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	url, addr := s.URL(), strings.TrimPrefix(s.URL(), "nats://")
	s.Stop()
	c := connect(t, ConnConfig{URL: url, Name: "host.h"})
	if c.Ready() == nil {
		t.Fatal("ready without a server")
	}
	p := NewPublisher(c, "h", PublisherOptions{})
	p.Publish(retransmit(1))
	s = startServer(t, ServerConfig{Listen: addr})
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The server is there, but nobody has made the stream yet.
	admin := connect(t, ConnConfig{Server: s})
	if got := p.Stats(); got.Stored != 0 {
		t.Fatalf("stored without a stream: %+v", got)
	}
	if err := admin.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	closePublisher(t, p)
	if got := p.Stats(); got.Stored != 1 {
		t.Errorf("stats %+v", got)
	}
}

func TestCloseSaysWhatWasNotStored(t *testing.T) {
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	inProcess(t, s)
	c := connect(t, ConnConfig{URL: s.URL(), Name: "host.h"})
	s.Stop()
	p := NewPublisher(c, "h", PublisherOptions{})
	p.Publish(retransmit(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := p.Close(ctx)
	if err == nil || !strings.Contains(err.Error(), "1 records of h were not stored") {
		t.Errorf("error %v", err)
	}
	p.Publish(retransmit(2))
	if st := p.Stats(); st.LeftOut != 2 || st.Waiting != 0 {
		t.Errorf("stats %+v", st)
	}
}

// Who stops an agent whose NATS is gone is not kept waiting for it.
func TestCloseDoesNotWaitForAServerThatIsAway(t *testing.T) {
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	inProcess(t, s)
	c := connect(t, ConnConfig{URL: s.URL(), Name: "host.h"})
	s.Stop()
	eventually(t, "the connection is seen to be gone", func() bool { return c.Ready() != nil })
	p := NewPublisher(c, "h", PublisherOptions{})
	p.Publish(retransmit(1))
	err := p.Close(t.Context()) // which never ends
	if err == nil || !strings.Contains(err.Error(), "1 records of h were not stored: nats at nats://127.0.0.1:") {
		t.Errorf("error %v", err)
	}
	if st := p.Stats(); st.LeftOut != 1 || st.Waiting != 0 {
		t.Errorf("stats %+v", st)
	}
}

// Records published from many goroutines: none is lost, and every producer's
// numbers come in order.
func TestManyPublishersAtOnce(t *testing.T) {
	c := inProcess(t, startServer(t, ServerConfig{}))
	got := consume(t, c, time.Time{})
	const producers, each = 8, 2000
	var wg sync.WaitGroup
	for i := range producers {
		p := NewPublisher(c, fmt.Sprintf("h%d", i), PublisherOptions{})
		for range 2 {
			wg.Go(func() {
				for j := range each / 2 {
					p.Publish(retransmit(uint32(j)))
				}
			})
		}
		t.Cleanup(func() { closePublisher(t, p) })
	}
	wg.Wait()
	eventually(t, "all records", func() bool { return got.records() == producers*each })
	for i := range producers {
		inOrder(t, got.of(RecordRetransmit, fmt.Sprintf("h%d", i)), each)
	}
}

func TestDuplicateBatchesAreDropped(t *testing.T) {
	c := inProcess(t, startServer(t, ServerConfig{}))
	raw, err := appendRecord(nil, 4, withOrigin(retransmit(1), "h", 1))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		m := &nats.Msg{Subject: Subject("east", RecordRetransmit, "h"), Header: nats.Header{nats.MsgIdHdr: {"same"}}, Data: raw}
		if _, err := c.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	info, err := c.js.Stream(t.Context(), evidenceStream("east"))
	if err != nil {
		t.Fatal(err)
	}
	if n := info.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("%d batches stored, want 1", n)
	}
}

func withOrigin(m *decafpb.Retransmit, producer string, seq uint64) *decafpb.Retransmit {
	m.Origin = &decafpb.Origin{Producer: producer, BootId: 1, Seq: seq}
	return m
}

// What does not decode, or speaks in another's name, is left out and counted;
// what comes after it is read.
func TestConsumeLeavesOutWhatItCannotTrust(t *testing.T) {
	c := inProcess(t, startServer(t, ServerConfig{}))
	good := func(producer string, seq uint64) []byte {
		raw, err := appendRecord(nil, 4, withOrigin(retransmit(1), producer, seq))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, m := range []struct {
		record, producer string
		data             []byte
	}{
		{RecordRetransmit, "h", []byte("no protobuf")},
		{RecordRetransmit, "h", append([]byte(nil), zstdMagic...)},
		{RecordRetransmit, "h", good("other", 1)},
		{RecordFlow, "h", good("h", 1)},
		{RecordRetransmit, "h", good("h", 2)},
	} {
		if _, err := c.js.Publish(t.Context(), Subject("east", m.record, m.producer), m.data); err != nil {
			t.Fatal(err)
		}
	}
	got := consume(t, c, time.Time{})
	eventually(t, "the good one", func() bool { return got.records() == 1 })
	if s := c.ConsumeStats(); s.Undecodable != 2 || s.Forged != 2 || s.Batches != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestBucketsKeepWhatIsPut(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, ServerConfig{Dir: dir})
	c := inProcess(t, s)
	if err := c.EnsureStreams(t.Context()); err != nil {
		t.Errorf("a second time: %v", err)
	}
	for _, b := range buckets {
		kv, err := c.KV(b.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Put(t.Context(), "k", []byte(b.name)); err != nil {
			t.Fatal(err)
		}
	}
	s.Stop()
	c = connect(t, ConnConfig{Server: startServer(t, ServerConfig{Dir: dir})})
	for _, b := range buckets {
		kv, err := c.KV(b.name)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := kv.Get(t.Context(), "k"); err != nil || string(e.Value()) != b.name {
			t.Errorf("bucket %s: %v", b.name, err)
		}
	}
	if _, err := c.KV("nosuch"); err == nil || !strings.Contains(err.Error(), "nosuch does not exist") {
		t.Errorf("unknown bucket: %v", err)
	}
}

func TestStreamsAreBoundedAndSynced(t *testing.T) {
	dir := t.TempDir()
	look := func(cfg ServerConfig) jetstream.StreamConfig {
		cfg.Dir = dir
		s := startServer(t, cfg)
		defer s.Stop()
		c := inProcess(t, s)
		info, err := c.js.Stream(t.Context(), evidenceStream("east"))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range buckets {
			kv, err := c.js.Stream(t.Context(), "KV_"+b.name)
			if err != nil {
				t.Fatal(err)
			}
			// Default: with the server's SyncAlways, on disk when acknowledged.
			if cfg := kv.CachedInfo().Config; cfg.PersistMode != jetstream.DefaultPersistMode || cfg.MaxBytes != b.bytes || cfg.Storage != jetstream.FileStorage {
				t.Errorf("bucket %s: %+v", b.name, cfg)
			}
		}
		return info.CachedInfo().Config
	}
	got := look(ServerConfig{MaxBytes: 8 * mib, MaxAge: time.Hour})
	if got.MaxBytes != 8*mib || got.MaxAge != time.Hour || got.PersistMode != jetstream.AsyncPersistMode || got.Discard != jetstream.DiscardOld {
		t.Errorf("evidence: %+v", got)
	}
	// Other bounds take hold at the next start.
	got = look(ServerConfig{MaxBytes: 64 * mib, MaxAge: time.Minute})
	if got.MaxBytes != 64*mib || got.MaxAge != time.Minute || got.Duplicates != time.Minute {
		t.Errorf("evidence: %+v", got)
	}
}

func TestPublisherOutlivesItsConnection(t *testing.T) {
	s := startServer(t, ServerConfig{})
	inProcess(t, s)
	c, err := Connect(t.Context(), ConnConfig{Server: s, Site: "east"}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	p := NewPublisher(c, "h", PublisherOptions{MaxRecords: 10})
	c.Close()
	for i := range 25 {
		p.Publish(retransmit(uint32(i)))
	}
	if err := p.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "25 records of h were not stored: the connection is closed") {
		t.Errorf("error %v", err)
	}
	if err := c.Consume(t.Context(), time.Time{}, nil); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("consume: %v", err)
	}
	if err := c.Ready(); err == nil {
		t.Error("ready although closed")
	}
}

func TestMetrics(t *testing.T) {
	c := inProcess(t, startServer(t, ServerConfig{}))
	p := NewPublisher(c, "h", PublisherOptions{})
	set := metrics.NewSet()
	c.RegisterMetrics(set)
	p.RegisterMetrics(set)
	p.Publish(retransmit(1))
	p.Publish(&decafpb.Finding{})
	closePublisher(t, p)
	var out bytes.Buffer
	set.WritePrometheus(&out)
	for _, line := range []string{
		`decaf_publisher_records_total{producer="h"} 2`, `decaf_publisher_stored_records_total{producer="h"} 1`,
		`decaf_publisher_rejected_records_total{producer="h"} 1`, `decaf_publisher_waiting_records{producer="h"} 0`, "decaf_nats_up 1",
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("no %q in\n%s", line, out.String())
		}
	}
}
