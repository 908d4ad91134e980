package tracer

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"decaf/api/packet"
)

// errNoFamily is what openEndpoint gives where the kernel lacks the address
// family.
var errNoFamily = errors.New("address family not supported")

// receive reads an endpoint's answers until it is closed.
func (t *Tracer) receive(e *endpoint) error {
	buf := make([]byte, 2048) // more than any router quotes (RFC 4443: 1280)
	for broken := 0; ; {
		b, from, err := e.read(buf)
		now := time.Now()
		switch {
		case err == nil:
			broken = 0
			t.take(b, from, e.v6, now)
		case t.isClosed():
			return nil
		default:
			// A socket reports asynchronous errors (an interface going down) once and
			// works on. One that reports nothing else is broken.
			t.counters.receiveErrors.Add(1)
			if broken++; broken == 100 {
				return fmt.Errorf("read ICMP: %w", err)
			}
		}
	}
}

// sample reads the sampled watches now and then until the Tracer is closed.
func (t *Tracer) sample() {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.listen()
		case <-t.closed:
			return
		}
	}
}

// listen reads what the sampled watches have heard so far.
func (t *Tracer) listen() {
	now := time.Now()
	for _, w := range t.watches {
		if w == nil || !w.sampled {
			continue
		}
		err := w.drain(func(b []byte) {
			if h, ok := parseHeard(b); ok {
				t.hear(h, now)
			}
		})
		if err != nil && !t.isClosed() { // an interface going down, say
			t.counters.receiveErrors.Add(1)
		}
	}
}

// attend has the watch take all that comes of a flow from its other end. Where
// that fails it goes on with its sample.
func (t *Tracer) attend(f packet.Flow) {
	w := t.watches[0]
	if f.Is6() {
		w = t.watches[1]
	}
	if w == nil || !w.sampled {
		return
	}
	if err := w.attend(f.Reverse()); err != nil && !t.isClosed() {
		t.counters.receiveErrors.Add(1)
	}
}

// overhear reads a watch's packets until it is closed.
func (t *Tracer) overhear(w *watch) error {
	buf := make([]byte, 2048)
	for broken := 0; ; {
		b, err := w.read(buf)
		now := time.Now()
		switch {
		case err == nil:
			broken = 0
			if h, ok := parseHeard(b); ok {
				t.hear(h, now)
			}
		case t.isClosed():
			return nil
		default:
			t.counters.receiveErrors.Add(1)
			if broken++; broken == 100 {
				return fmt.Errorf("read packets: %w", err)
			}
		}
	}
}

// take reads one message.
func (t *Tracer) take(b []byte, from netip.Addr, v6 bool, now time.Time) {
	msg, err := packet.ParseICMPError(from, b, v6)
	switch {
	case errors.Is(err, packet.ErrNotICMPError):
		return // in the moment between opening the socket and setting its filter
	case err != nil:
		t.counters.invalid.Add(1)
		return
	}
	t.deliver(msg, now)
}
