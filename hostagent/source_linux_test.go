package hostagent

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"decaf/api/decafpb"
	"decaf/api/packet"
)

// lesser are the sources that ask sock_diag for what they tell.
var lesser = []string{sourceTracepoint, sourcePerf, sourceDiag}

func (l *lab) watchBy(t *testing.T, s *space, source string) (*recorder, *Agent) {
	t.Helper()
	rec, a, stop := l.watchWith(s, tracerFunc(complete), func(c *Config) { c.Source = source })
	t.Cleanup(stop)
	return rec, a
}

// ofFlow is a record of a flow of any kind among some.
func ofFlow(f packet.Flow, kinds ...decafpb.RetransmitKind) func(*decafpb.Retransmit) bool {
	return func(r *decafpb.Retransmit) bool {
		for _, k := range kinds {
			if isFlow(f, k)(r) {
				return true
			}
		}
		return false
	}
}

// Each source sees the tail of a connection sent again, and its cookie; those
// with a program at once, the others within a second, when a timeout may have come
// on top of the probe: not every event reaches the buffers that perf reads (perf_linux.go).
func TestSourcesSeeData(t *testing.T) {
	for _, source := range append(lesser, sourceBTF) {
		for name, to := range map[string]struct {
			addr string
			dual bool
		}{"IPv4": {addrB, false}, "IPv6": {addrB6, false}, "dual-stack": {addrB, true}} {
			t.Run(source+" "+name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				rec, a := l.watchBy(t, l.a, source)
				p := l.connect(to.addr, to.dual)
				f := l.drop("eth1")
				defer f.remove()
				if _, err := p.client.Write(make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
				first := rec.wait(t, "a retransmit", ofFlow(p.flow(), kindTLP, kindRTO))
				if (source == sourceBTF || source == sourceTracepoint) && first.GetKind() != kindTLP {
					t.Errorf("first %v, want the tail loss probe", first.GetKind())
				}
				last := rec.wait(t, "a timeout", isFlow(p.flow(), kindRTO))
				if last.GetCookie() != p.cookie(t) || last.GetSegments() == 0 || last.GetPath().GetStatus() == decafpb.PathStatus_PATH_STATUS_UNSPECIFIED {
					t.Errorf("%v: want the cookie %d, segments, a path", last, p.cookie(t))
				}
				until(t, "a heartbeat names the source", func() bool {
					for _, b := range rec.beats() {
						if b.GetSource() == source {
							return true
						}
					}
					return false
				})
				if n := a.Counters()[countBroken]; n != 0 {
					t.Errorf("%d events could not be read", n)
				}
			})
		}
	}
}

// Handshakes too, on either side.
func TestSourcesSeeHandshakes(t *testing.T) {
	for _, source := range append(lesser, sourceBTF) {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			ln := l.listen()
			port := ln.Addr().(*net.TCPAddr).Port
			asking, _ := l.watchBy(t, l.a, source)
			answering, _ := l.watchBy(t, l.b, source)
			f := l.drop("eth2") // what comes from b
			defer f.remove()
			var wg sync.WaitGroup
			defer wg.Wait()
			for _, to := range []string{addrB, addrB6} {
				wg.Go(func() {
					if c, err := l.dial(to, port, false, 2500*time.Millisecond); err == nil {
						c.Close()
					}
				})
			}
			for _, c := range []struct{ src, dst string }{{addrA, addrB}, {addrA6, addrB6}} {
				is := func(kind decafpb.RetransmitKind, src, dst string) func(*decafpb.Retransmit) bool {
					return func(r *decafpb.Retransmit) bool {
						return r.GetKind() == kind && r.GetWayBackSuspect() && r.GetCookie() != 0 &&
							net.IP(r.GetFlow().GetSrc()).String() == src && net.IP(r.GetFlow().GetDst()).String() == dst
					}
				}
				asking.wait(t, "a SYN from "+c.src, is(kindSYN, c.src, c.dst))
				answering.wait(t, "a SYN-ACK from "+c.dst, is(kindSYNACK, c.dst, c.src))
			}
		})
	}
}

// What the other end had already is taken back, by its number on a live
// connection and as a whole at its end.
func TestSourcesTakeBack(t *testing.T) {
	for _, source := range append(lesser, sourceBTF) {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			rec, a := l.watchBy(t, l.a, source)
			p := l.connect(addrB, false)
			flow := p.flow()
			f := l.drop("eth2", nth(0)...) // or, on a busy machine, the answer to what is sent again too
			if _, err := p.client.Write(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			until(t, "the acknowledgement is dropped", func() bool { return f.dropped() > 0 })
			f.remove()
			r := rec.wait(t, "the probe", ofFlow(flow, kindTLP, kindRTO))
			rec.wait(t, "the word that takes it back", func(m *decafpb.Retransmit) bool {
				return m.GetUndone() && m.GetUndoneSeq() == r.GetOrigin().GetSeq()
			})
			p.client.Close()
			p.server.Close()
			rec.wait(t, "the last word", func(m *decafpb.Retransmit) bool {
				got, err := packet.FlowFromPB(m.GetFlow())
				return err == nil && got == flow && m.GetUndone() && m.GetUndoneSeq() == 0
			})
			if n := a.Counters()[countUndone]; n != 1 {
				t.Errorf("%d connections undone, want 1", n)
			}
		})
	}
}

// No source misses a segment, however many come at once and however short the
// connection.
func TestSourcesCountSegments(t *testing.T) {
	for _, source := range lesser {
		t.Run(source, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			_, a := l.watchBy(t, l.a, source)
			before := l.a.retransSegs(t)
			f := l.drop("eth1", permille(30)...)
			for l.a.retransSegs(t)-before < 300 {
				l.transfer(t, addrB, 20, 1<<18)
			}
			f.remove()
			var want, got uint64
			until(t, "all segments are counted", func() bool {
				got = a.Counters()[countSegments]
				want = l.a.retransSegs(t) - before
				return got*1000 >= want*999
			})
			t.Logf("the kernel counts %d, the agent %d", want, got)
			if got*1000 > want*1001 {
				t.Errorf("%d segments, the kernel counts %d", got, want)
			}
		})
	}
}

// Without a better source the next is taken, and it is said why; a missing
// privilege is no reason.
func TestOpenSource(t *testing.T) {
	before := sources
	defer func() { sources = before }()
	broken := func(err error) sourceOpener {
		return sourceOpener{sourceBTF, func(sourceOptions, *slog.Logger) (source, error) { return nil, err }}
	}
	works := sourceOpener{sourceDiag, func(sourceOptions, *slog.Logger) (source, error) {
		return &diagSource{called: sourceDiag}, nil
	}}
	log := slog.New(slog.DiscardHandler)
	f := func(name string, all []sourceOpener, want, wantErr string) {
		t.Helper()
		sources = all
		k, err := openSource(name, sourceOptions{}, log)
		switch {
		case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
			t.Errorf("%s: error %v, want %q", name, err, wantErr)
		case wantErr == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case wantErr == "" && k.name() != want:
			t.Errorf("%s: %s, want %s", name, k.name(), want)
		}
	}
	f(sourceAuto, []sourceOpener{broken(errors.New("no types")), works}, sourceDiag, "")
	f(sourceBTF, []sourceOpener{broken(errors.New("no types")), works}, "", "no types")
	f(sourceDiag, []sourceOpener{broken(errors.New("no types")), works}, sourceDiag, "")
	f(sourceAuto, []sourceOpener{broken(errors.New("no types"))}, "", "no types")
	f(sourceAuto, []sourceOpener{broken(needsPrivilege("load", io.EOF)), works}, sourceDiag, "")
	f(sourceAuto, []sourceOpener{broken(needsPrivilege("load", fsPermission)), works}, "", "CAP_BPF")
	if err := validSource("ebpf"); err == nil || !strings.Contains(err.Error(), sourcePerf) {
		t.Errorf("error %v, want one that names the sources", err)
	}
}

// A namespace that is named before it is there is watched once it is, and one
// that is not named is not.
func TestNamespacesComeAndGo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	name := t.TempDir() + "/b"
	rec, a, stop := l.watchWith(l.a, tracerFunc(complete), func(c *Config) {
		c.Namespaces = []string{name}
		c.Heartbeat = 100 * time.Millisecond
	})
	defer stop()
	p := l.connect(addrB, false)
	link := l.drop("eth2")
	again := func(what string) {
		t.Helper()
		if _, err := p.server.Write([]byte("x")); err != nil {
			t.Fatal(what, err)
		}
	}
	// Not yet: an event of b would be there before that of a.
	again("unseen")
	until(t, "b sends again", func() bool { return l.b.retransSegs(t) > 0 })
	if n := a.Counters()[countEvents]; n != 0 {
		t.Errorf("%d events of a namespace that was not watched", n)
	}
	linkTo(t, l.b.file(), name)
	r := rec.wait(t, "a retransmit of b", ofFlow(p.flow().Reverse(), kindTLP, kindRTO))
	if r.GetPath().GetStatus() != decafpb.PathStatus_PATH_STATUS_SKIPPED || !strings.Contains(r.GetPath().GetWhy(), "another network namespace") {
		t.Errorf("path %v, want it skipped, and why", r.GetPath())
	}
	link.remove()
	if err := read(p.client, 1); err != nil {
		t.Fatal(err)
	}
}

// All namespaces of the machine are watched when asked for.
func TestAllNamespaces(t *testing.T) {
	l := newLab(t)
	rec := l.watchAll(t)
	p := l.connect(addrB, false)
	f := l.drop("eth1")
	defer f.remove()
	g := l.drop("eth2")
	defer g.remove()
	p.client.Write([]byte("x"))
	p.server.Write([]byte("x"))
	rec.wait(t, "a retransmit of a", ofFlow(p.flow(), kindTLP, kindRTO))
	rec.wait(t, "a retransmit of b", ofFlow(p.flow().Reverse(), kindTLP, kindRTO))
}
