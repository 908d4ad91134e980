package hostagent

import (
	"strings"
	"testing"

	"decaf/api/decafpb"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// isLocal is a record of a flow with a local cause that says so.
func isLocal(p pair, words ...string) func(*decafpb.Retransmit) bool {
	return func(r *decafpb.Retransmit) bool {
		for _, w := range words {
			if !strings.Contains(r.GetLocalCause(), w) {
				return false
			}
		}
		return r.GetFlow().GetSrcPort() == uint32(p.flow().Src.Port()) &&
			r.GetPath().GetStatus() == decafpb.PathStatus_PATH_STATUS_SKIPPED
	}
}

// What the queue of this host's own interface has dropped is no vote: it took
// the packet, and threw it away for a later one.
func TestLocalCauseQueue(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]string{"IPv4": addrB, "IPv6": addrB6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.shortQueue(t)
			rec, _ := l.watch(l.a, tracerFunc(complete))
			// One connection alone keeps its queue short.
			var pairs []pair
			for range 8 {
				p := l.connect(to, false)
				go p.client.Write(make([]byte, 400_000))
				pairs = append(pairs, p)
			}
			rec.wait(t, "a segment the queue dropped", func(r *decafpb.Retransmit) bool {
				for _, p := range pairs {
					if isLocal(p, "queue of this host", "QDISC")(r) {
						return true
					}
				}
				return false
			})
			for _, p := range pairs {
				p.client.SetLinger(0)
				p.client.Close()
			}
		})
	}
}

// shortQueue has a's interface send slowly, from a queue that lets the oldest go
// when it is full.
func (l *lab) shortQueue(t *testing.T) {
	t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(l.a.fd))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	eth0, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetTxQLen(eth0, 4); err != nil {
		t.Fatal(err)
	}
	const rate = 1_000_000 // bytes/s
	index := eth0.Attrs().Index
	if err := h.QdiscAdd(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Buffer: uint32(netlink.Xmittime(rate, 10_000)), Limit: 100_000,
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(2, 0), Parent: netlink.MakeHandle(1, 1)},
		QdiscType:  "pfifo_head_drop",
	}); err != nil {
		t.Fatal(err)
	}
}

// The host's own packet filter, on the way in: what it drops is the
// acknowledgement.
func TestLocalCauseFilterOnTheWayBack(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, to := range []string{addrB, addrB6} {
		rec, _ := l.watch(l.a, tracerFunc(complete))
		p := l.connect(to, false)
		remove := l.a.dropTCP(t, nftables.ChainHookInput)
		if _, err := p.client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		rec.wait(t, "a segment whose acknowledgement was dropped", isLocal(p, "acknowledgement", "packet filter", "NETFILTER_DROP"))
		remove()
	}
}

// A full socket buffer on the same machine, in another network namespace that
// is watched as well.
func TestLocalCauseSocketBuffer(t *testing.T) {
	l := newLab(t)
	rec := l.watchAll(t)
	p := l.connect(addrB, false)
	// The window was offered before the buffer shrank.
	if err := p.server.SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	p.client.SetNoDelay(true)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := p.client.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
	rec.wait(t, "a segment that found a full buffer", isLocal(p, "full socket buffer"))
}

// The reasons named are the kernel's.
func TestLocalReasonsAreThere(t *testing.T) {
	needKernel(t)
	_, names, err := readDropLayout(kernelTypes(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"QDISC_DROP", "NETFILTER_DROP", "SOCKET_RCVBUFF", "SOCKET_BACKLOG", "CPU_BACKLOG"} {
		found := false
		for _, name := range names {
			found = found || name == want
		}
		if !found {
			t.Errorf("this kernel has no reason %s", want)
		}
	}
	for _, name := range names {
		if name == "TCP_CSUM" || name == "NO_SOCKET" || name == "IP_INHDR" {
			t.Errorf("%s is no cause: traces make such drops", name)
		}
	}
}
