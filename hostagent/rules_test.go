package hostagent

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestJudge(t *testing.T) {
	r := rules{
		ignored: netip.MustParsePrefix("198.18.0.0/16").Contains,
		known:   func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.2") },
	}
	f := func(name string, e event, src, dst string, want verdict) {
		t.Helper()
		e.src = netip.AddrPortFrom(netip.MustParseAddr(src), 40000)
		e.dst = netip.AddrPortFrom(netip.MustParseAddr(dst), 443)
		got := r.judge(&e)
		// Words may change, not whether there are any.
		if got.drop != want.drop || got.wayBack != want.wayBack ||
			!strings.Contains(got.skip, want.skip) || (want.skip == "") != (got.skip == "") ||
			!strings.Contains(got.local, want.local) || (want.local == "") != (got.local == "") {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	data := event{what: whatRetransmit, flags: flagACK}
	failed := func(err int32) event { e := data; e.err = err; return e }
	syn := event{what: whatRetransmit, flags: flagSYN}
	synAck := event{what: whatSynAck, flags: flagSYN | flagACK}

	f("data to a host", data, "10.0.0.1", "10.0.0.2", verdict{})
	f("data to anywhere", data, "10.0.0.1", "192.0.2.1", verdict{})
	f("from the management network", data, "198.18.0.1", "198.18.0.2", verdict{drop: countIgnored})
	f("to the management network", data, "10.0.0.1", "198.18.0.2", verdict{drop: countIgnored})
	f("SYN to a host", syn, "10.0.0.1", "10.0.0.2", verdict{wayBack: true})
	f("SYN to anywhere", syn, "10.0.0.1", "192.0.2.1", verdict{wayBack: true, skip: "not in the topology"})
	f("SYN-ACK to a host", synAck, "10.0.0.1", "10.0.0.2", verdict{wayBack: true})
	f("SYN-ACK to anywhere", synAck, "10.0.0.1", "192.0.2.1", verdict{wayBack: true, skip: "not in the topology"})
	f("loopback", data, "127.0.0.1", "127.0.0.1", verdict{skip: "does not leave"})
	f("to itself", data, "10.0.0.1", "10.0.0.1", verdict{skip: "does not leave"})
	f("still in the host's own queue", failed(-int32(unix.EBUSY)), "10.0.0.1", "10.0.0.2", verdict{drop: countNotSent})
	f("window closed", failed(-int32(unix.EAGAIN)), "10.0.0.1", "10.0.0.2", verdict{drop: countNotSent})
	f("own firewall", failed(-int32(unix.EPERM)), "10.0.0.1", "10.0.0.2", verdict{local: "packet filter", skip: "could not send"})
	f("own queue", failed(1), "10.0.0.1", "10.0.0.2", verdict{local: "queue", skip: "could not send"})
	f("any other error", failed(-int32(unix.EIO)), "10.0.0.1", "10.0.0.2", verdict{local: "input/output error", skip: "could not send"})
	f("any other result", failed(4), "10.0.0.1", "10.0.0.2", verdict{local: "below TCP", skip: "could not send"})
	for err, words := range localCauses {
		f("local cause", failed(err), "10.0.0.1", "10.0.0.2", verdict{local: words, skip: words})
	}
}

func TestUndoneRule(t *testing.T) {
	f := func(what what, total, dups uint32, want bool) {
		t.Helper()
		if got := undone(&event{what: what, totalRetrans: total, dsackDups: dups}); got != want {
			t.Errorf("%d sent again, %d duplicates: undone %v, want %v", total, dups, got, want)
		}
	}
	f(whatClosed, 1, 1, true)
	f(whatClosed, 3, 4, true) // the network may duplicate, too
	f(whatClosed, 2, 1, false)
	f(whatClosed, 1, 0, false)
	f(whatClosed, 0, 0, false)
	f(whatRetransmit, 1, 1, false) // more may follow
}
