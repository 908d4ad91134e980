package hostagent

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"
)

// withoutBTF has openSource find no type information of the kernel, until the end of
// the test.
func withoutBTF(t *testing.T) {
	before := sources
	t.Cleanup(func() { sources = before })
	sources = slices.Clone(before)
	sources[0] = sourceOpener{sourceBTF, func(sourceOptions, *slog.Logger) (source, error) {
		return nil, errors.New("read the kernel's type information: file does not exist")
	}}
}

// On a machine without BTF the next source is taken and named.
func TestWithoutBTF(t *testing.T) {
	withoutBTF(t)
	l := newLab(t)
	rec, _, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) { c.Source = sourceAuto })
	p := l.connect(addrB, false)
	f := l.drop("eth1")
	if _, err := p.client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	rec.wait(t, "a retransmit", ofFlow(p.flow(), kindTLP, kindRTO))
	f.remove()
	stop()
	if beats := rec.beats(); len(beats) == 0 || beats[len(beats)-1].GetSource() != sourceTracepoint {
		t.Errorf("heartbeats %v, want source %s", beats, sourceTracepoint)
	}
}

// What a kernel lacks of the tracepoints is in the name of the source, each once.
func TestSourceNamesWhatItLacks(t *testing.T) {
	for want, k := range map[string]*kernel{
		"tp_btf":                   {},
		"tp_btf without kfree_skb": {missing: []string{"kfree_skb"}, flows: &flowKernel{}},
		"tp_btf without inet_sock_set_state, tcp_probe, tcp_send_reset": {
			missing: []string{"tcp_send_reset", "inet_sock_set_state"}, flows: &flowKernel{missing: []string{"inet_sock_set_state", "tcp_probe"}}},
	} {
		if got := k.name(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		a := New(DefaultConfig(), Deps{Publisher: newRecorder()})
		name := k.name()
		a.seenBy.Store(&name)
		a.publishHeartbeat(time.Unix(1, 0))
		if b := a.deps.Publisher.(*recorder).beats(); len(b) != 1 || b[0].GetSource() != want {
			t.Errorf("%v, want source %q", b, want)
		}
	}
}

// A classic tracepoint that the kernel lacks costs what it tells, and is named.
func TestLesserSourceNamesWhatItLacks(t *testing.T) {
	needKernel(t)
	ns, inum, err := openNetNS("")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	o := sourceOptions{kernelOptions: kernelOptions{netns: inum, flows: true}, ns: ns}
	s, err := openDiag(o, classicWay{ends: func() (endsReader, []string, error) {
		return nil, []string{"inet_sk_error_report", "tcp_destroy_sock"}, nil
	}}, sourceTracepoint)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if want := "tracepoint without inet_sk_error_report, tcp_destroy_sock"; s.name() != want || s.flowSource() == nil {
		t.Errorf("%q, want %q, and flows", s.name(), want)
	}
}

func sampleOf(b []byte) (flowSample, error) {
	d, err := decodeDiag(b)
	return diagSample(9, &d, b), err
}

// Each field of a sample that sock_diag gives comes from its own place.
func TestDecodeDiagSample(t *testing.T) {
	ne := binary.NativeEndian
	s, err := sampleOf(diagMessage(280, func(msg, info []byte) {
		ne.PutUint32(msg[56:], 300) // not read by the application
		ne.PutUint32(msg[64:], 33)
		info[3] = 5
		for at, value := range map[int]uint32{16: 1448, 68: 900, 72: 450, 80: 10, 100: 7, 144: 5000, 148: 80, 156: 70, 216: 3, 220: 2, 224: 4, 228: 65536, 232: 32768} {
			ne.PutUint32(info[at:], value)
		}
		for at, value := range map[int]uint64{128: 1000, 176: 250_000, 200: 11000, 208: 1000} {
			ne.PutUint64(info[at:], value)
		}
		ne.PutUint16(info[240:], 6)
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		field     string
		got, want uint64
	}{
		{"sent, each byte once", s.bytes, 10000}, {"posted", s.posted, 15000}, {"received", s.received, 1000}, {"read", s.read, 700},
		{"packets", uint64(s.packets), 70}, {"retransmits", uint64(s.retransmits), 7}, {"timeouts", uint64(s.timeouts), 6},
		{"duplicates", uint64(s.duplicates), 3}, {"out of order", uint64(s.outOfOrder), 4}, {"reorderings", uint64(s.reorderings), 2},
		{"held, µs", uint64(s.held.Microseconds()), 250_000}, {"RTT, µs", uint64(s.rtt.Microseconds()), 900},
		{"round trips differ by, µs", uint64(s.rttVar.Microseconds()), 450}, {"lowest, µs", uint64(s.rttMin.Microseconds()), 80},
		{"congestion window", s.cwnd, 14480}, {"received window", s.rwnd, 65536}, {"own window", s.ownRwnd, 32768},
		{"probes", uint64(s.probes), 5}, {"owner", uint64(s.uid), 33},
	} {
		if row.got != row.want {
			t.Errorf("%s: %d, want %d", row.field, row.got, row.want)
		}
	}
	s, err = sampleOf(diagMessage(104, func(_, info []byte) { ne.PutUint32(info[68:], 900) }))
	if err != nil || s.rtt != 900*time.Microsecond || s.ownRwnd != 0 || s.rttMin != 0 {
		t.Errorf("of an older kernel: %+v, %v", s, err)
	}
	s, err = sampleOf(diagMessage(280, func(_, info []byte) { ne.PutUint32(info[148:], 1<<32-1) }))
	if err != nil || s.rttMin != 0 {
		t.Errorf("before the first round trip: %+v, %v", s, err)
	}
}
