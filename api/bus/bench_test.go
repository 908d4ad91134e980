package bus

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"decaf/api/decafpb"
)

// BenchmarkPublishToConsume is the whole way: agents over TCP, JetStream on
// disk, a reader in the server's process. It reports records per second and
// how many bytes each takes on the wire.
func BenchmarkPublishToConsume(b *testing.B) {
	s, err := StartServer(ServerConfig{Site: "east", Dir: b.TempDir(), Listen: "127.0.0.1:0"}, quiet())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop()
	reader := inProcess(b, s)
	var got atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- reader.Consume(ctx, time.Time{}, func(b *decafpb.Batch) { got.Add(int64(len(b.Retransmits))) })
	}()
	p := NewPublisher(connect(b, ConnConfig{URL: s.URL(), Name: "host.h"}), "h", PublisherOptions{})
	m := retransmit(1)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		m.Origin = nil
		m.TcpSeq, m.TimeNs, m.Cookie = uint32(i)*1448, uint64(i)*1e6, uint64(i)
		p.Publish(m)
		i++
		for int64(i)-got.Load() > 50_000 { // within the spool's bound
			runtime.Gosched()
		}
	}
	n := p.Stats().Records
	eventually(b, "all read", func() bool { return uint64(got.Load()) == n })
	st := p.Stats()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(st.Bytes)/float64(st.Stored), "bytes/record")
	closePublisher(b, p)
	cancel()
	<-done
}

// BenchmarkPublish is what an agent's event loop pays per record.
func BenchmarkPublish(b *testing.B) {
	s := startServer(b, ServerConfig{})
	p := NewPublisher(inProcess(b, s), "h", PublisherOptions{})
	m := retransmit(1)
	b.ReportAllocs()
	for b.Loop() {
		m.Origin = nil
		p.Publish(m)
	}
	closePublisher(b, p)
}

// BenchmarkUnpack is what a reader pays per batch of 500.
func BenchmarkUnpack(b *testing.B) {
	c := testCodec(b)
	var raw []byte
	for i := range 500 {
		raw, _ = appendRecord(raw, 4, withOrigin(retransmit(uint32(i)), "h", uint64(i+1)))
	}
	payload := c.pack(raw)
	b.ReportAllocs()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := c.unpack(payload); err != nil {
			b.Fatal(err)
		}
	}
}
