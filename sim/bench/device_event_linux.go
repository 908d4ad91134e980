package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"golang.org/x/sync/errgroup"

	"decaf/api/packet"
	"decaf/api/yang"
	"decaf/device"
)

// singleWithin is how soon the event of a single drop must come: later it is lost.
const singleWithin = 2 * time.Second

// singleGap is the mean time from one single drop to the next.
const singleGap = 10 * time.Millisecond

// singles is how many single drops are measured, at most.
const singles = 300

// samples is how many there are in a run, fewer in a brief one.
func (b *deviceRun) samples() int { return int(max(20, singles*min(b.Duration.Seconds(), 1))) }

// told is how long the events of single drops took. A lost one took as long as it
// had, so that it does not make the others look better.
type told struct {
	took []time.Duration
	lost int
}

// tell subscribes to events and sends single drops, with some jitter from one to
// the next, each of a flow of its own by which its event is known.
func (b *deviceRun) tell(ctx context.Context, a *deviceAgent, to netip.AddrPort, class string, n int) (t told, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const firstPort = 20_000
	var mu sync.Mutex
	took := map[uint16]time.Duration{}
	wait, err := a.watch(ctx, "events", func(u *gnmipb.Notification, at time.Time) error {
		ev, is, err := yang.DecodeEvent(u)
		if err != nil || !is || ev.Class != class || ev.GetPacket().GetFlow() == nil {
			return err
		}
		f, err := packet.FlowFromPB(ev.Packet.Flow)
		if err == nil && f.Dst == to && f.Src.Port() >= firstPort {
			mu.Lock()
			defer mu.Unlock()
			if _, again := took[f.Src.Port()]; !again {
				took[f.Src.Port()] = at.Sub(time.Unix(0, int64(ev.TimeNs)))
			}
		}
		return err
	})
	if err != nil {
		return t, err
	}
	var packets [][]byte
	for i := range n {
		packets = append(packets, udp(netip.AddrPortFrom(netip.MustParseAddr("10.0.1.2"), uint16(firstPort+i)), to))
	}
	one, err := b.blast(packets)
	if err != nil {
		return t, err
	}
	defer one.close()
	for sent := 0; sent < n; {
		s, err := one.send(1)
		if err == nil {
			err = pause(ctx, singleGap/2+rand.N(singleGap))
		}
		if err != nil {
			return t, err
		}
		sent += s
	}
	_, err = until(ctx, singleWithin, func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return len(took) >= n, nil
	})
	cancel()
	if err := errors.Join(err, wait()); err != nil {
		return t, err
	}
	for i := range n {
		d, ok := took[uint16(firstPort+i)]
		if !ok || d > singleWithin {
			t.lost++
			d = singleWithin
		}
		t.took = append(t.took, d)
	}
	return t, nil
}

// told adds what was told under names that begin so.
func (b *deviceRun) told(t told, name, what string) {
	b.result(name+"_latency_p50_ms", quantile(t.took, .5, time.Millisecond), "ms", what)
	b.result(name+"_latency_p99_ms", quantile(t.took, .99, time.Millisecond), "ms", "the same")
	b.result(name+"_latency_max_ms", quantile(t.took, 1, time.Millisecond), "ms", "the same")
	b.result(name+"_lost", float64(t.lost), "events", "of these, not there within 2 s, for which they count above")
}

// quiet measures from a drop to its event on a device that drops nothing else.
func (b *deviceRun) quiet(ctx context.Context) error {
	a, err := b.startDevice(ctx, "")
	if err != nil {
		return err
	}
	defer a.stop()
	t, err := b.tell(ctx, a, floodAddress, device.PolicyL3NullRoute, b.samples())
	if err != nil {
		return err
	}
	b.told(t, "event", "from a drop to its event at a gNMI client")
	return nil
}

// quietClass measures the same of a class beside another that is flooded.
func (b *deviceRun) quietClass(ctx context.Context) error {
	a, err := b.startDevice(ctx, "")
	if err != nil {
		return err
	}
	defer a.stop()
	run, cancel := context.WithCancel(ctx)
	var flood errgroup.Group
	flood.Go(func() error { _, err := b.flood.run(run, b.floodRate()); return err })
	t, err := b.tell(ctx, a, quietAddress, device.ErrorsL3RxNoRoute, b.samples())
	cancel()
	if err := errors.Join(err, flood.Wait()); err != nil {
		return err
	}
	b.told(t, "flood_quiet_class", "to the event of a class that is not flooded")
	return nil
}
