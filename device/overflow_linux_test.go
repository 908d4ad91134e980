package device

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/nftables"
)

// When nobody reads, the ring buffer runs over: each drop is counted all the same,
// as sent up or as lost, and what is left over is read when somebody does.
func TestKernelRingOverflow(t *testing.T) {
	l := newLab(t)
	denied := l.r.nftCount(nftables.ChainHookForward, "10.0.2.99", true)
	var k *kernel
	l.r.must("open", l.r.do(func() error {
		s, err := openSource(newClassifier(rules).never(), pace{rate: 1e9, burst: 1e9}, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err == nil {
			k = s.(*kernel)
		}
		return err
	}))
	t.Cleanup(k.close)
	const room = kernelBuffer / recSize // less what each record's own header takes
	f := frames{from: l.h1.link("eth0").Attrs().HardwareAddr, to: l.r.link("eth1").Attrs().HardwareAddr}
	l.h1.sendFrames("eth0", 2*room, func(i int) []byte { return f.udp4("10.0.1.2", "10.0.2.99", 9, 60, uint16(i), nil, nil) })
	until(t, "all but what the machine had no room for is dropped", func() bool {
		return denied()+l.r.link("eth1").Attrs().Statistics.RxDropped >= 2*room
	})
	lost, _, err := k.counts()
	if err != nil || lost < room/2 || k.backlog() < 0.99 {
		t.Errorf("%d lost of %d, the buffer is %.0f %% full: %v", lost, denied(), 100*k.backlog(), err)
	}

	isDenied := func(r *record) bool { return k.reason(r.reason) == netfilterDrop }
	var told, read uint64
	l.r.must("held", k.held(func(h held) {
		if h.lost && isDenied(h.record) {
			told += h.packets
		}
	}))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- k.read(ctx, func(r *record, _ time.Time) {
			if isDenied(r) {
				read++
			}
		})
	}()
	until(t, "the buffer is empty", func() bool { return k.backlog() == 0 })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if read == 0 || read+told != denied() {
		t.Errorf("of %d drops %d were read and %d are told of as lost", denied(), read, told)
	}
	t.Logf("%d drops: %d read, %d lost", denied(), read, told)
}
