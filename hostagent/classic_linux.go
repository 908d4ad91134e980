package hostagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"decaf/api/packet"

	"golang.org/x/sys/unix"
)

// Classic tracepoints tell what happens in records of their own, whose layout
// the kernel describes in a file. They have addresses and ports, but not the
// namespace, and those on retransmits neither cookie, counters nor sequence
// numbers: these are asked for (fallback_linux.go). Those on how connections end
// name the socket by its place in memory, and the last of them by its cookie:
// endings.go puts together what they say of one.

// classicWay is how classic tracepoints are read; the zero one does without.
type classicWay struct {
	// again opens those on retransmits.
	again func() (hinter, error)
	// ends opens those on how connections end, as far as this kernel has them, and
	// names those it lacks.
	ends func() (_ endsReader, missing []string, err error)
}

// classicEvent is a tracepoint that is taken, and what its record has to have
// beside addresses and ports.
type classicEvent struct {
	sort    hintSort
	name    string // below events, in tracefs
	members []string
}

var (
	againEvents = []classicEvent{
		{hintAgain, "tcp/tcp_retransmit_skb", nil},
		{hintAgain, "tcp/tcp_retransmit_synack", nil},
	}
	// endEvents came with Linux 4.16, the error's with 5.14.
	endEvents = []classicEvent{
		{hintClosed, "sock/inet_sock_set_state", []string{"skaddr", "oldstate", "newstate"}},
		{hintError, "sock/inet_sk_error_report", []string{"error", "protocol"}},
		{hintResetReceived, "tcp/tcp_receive_reset", []string{"skaddr"}},
		{hintResetSent, "tcp/tcp_send_reset", []string{"skaddr"}},
		{hintGone, "tcp/tcp_destroy_sock", []string{"skaddr", "sock_cookie"}},
	}
)

// classic is one tracepoint.
type classic struct {
	sort hintSort
	id   uint64
	// Where the members lie in the record; those it does not have are of no bytes.
	sport, dport, saddr6, daddr6  member
	saddr, daddr                  member // instead of these: struct sockaddr_in or _in6 in 28 bytes
	sock, cookie, state, newState member
	protocol, err                 member
	size                          int // bytes of the record that hold them all
}

// member is a number or an address in a record.
type member struct{ at, size int }

// of reads a number; 0 where there is none.
func (m member) of(b []byte) uint64 {
	ne := binary.NativeEndian
	switch m.size {
	case 1:
		return uint64(b[m.at])
	case 2:
		return uint64(ne.Uint16(b[m.at:]))
	case 4:
		return uint64(ne.Uint32(b[m.at:]))
	case 8:
		return ne.Uint64(b[m.at:])
	}
	return 0
}

// readClassic finds a tracepoint in tracefs.
func readClassic(tracefs *os.File, of classicEvent) (*classic, error) {
	read := func(file string) (string, error) {
		fd, err := unix.Openat(int(tracefs.Fd()), "events/"+of.name+"/"+file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("tracepoint %s: %s: %w", of.name, file, err)
		}
		f := os.NewFile(uintptr(fd), file)
		defer f.Close()
		b, err := io.ReadAll(f)
		return strings.TrimSpace(string(b)), err
	}
	id, err := read("id")
	if err != nil {
		return nil, err
	}
	c := &classic{sort: of.sort}
	// Records begin with it, in 16 bits.
	if c.id, err = strconv.ParseUint(id, 10, 16); err != nil {
		return nil, fmt.Errorf("tracepoint %s: id %q is no number of 16 bits", of.name, id)
	}
	format, err := read("format")
	if err != nil {
		return nil, err
	}
	return c, c.layout(of, format)
}

// layout reads the description of a record, lines such as
// "	field:__u16 sport;	offset:28;	size:2;	signed:0;".
func (c *classic) layout(of classicEvent, format string) error {
	members := map[string]member{}
	for line := range strings.Lines(format) {
		var m member
		name := ""
		for part := range strings.SplitSeq(strings.TrimSpace(line), ";") {
			key, value, _ := strings.Cut(strings.TrimSpace(part), ":")
			switch key {
			case "field":
				words := strings.Fields(value)
				if len(words) > 0 {
					name, _, _ = strings.Cut(words[len(words)-1], "[")
				}
			case "offset":
				m.at, _ = strconv.Atoi(value)
			case "size":
				m.size, _ = strconv.Atoi(value)
			}
		}
		if name != "" {
			members[name] = m
		}
	}
	var errs []error
	take := func(into *member, name string, needed bool, sizes ...int) {
		m, ok := members[name]
		for _, n := range sizes {
			if ok && m.size == n {
				*into = m
				c.size = max(c.size, m.at+m.size)
				return
			}
		}
		if needed {
			errs = append(errs, fmt.Errorf("tracepoint %s has no %s of %d bytes", of.name, name, sizes[0]))
		}
	}
	if members["saddr"].size == sockaddrBytes {
		take(&c.saddr, "saddr", true, sockaddrBytes)
		take(&c.daddr, "daddr", true, sockaddrBytes)
	} else {
		take(&c.sport, "sport", true, 2)
		take(&c.dport, "dport", true, 2)
		take(&c.saddr6, "saddr_v6", true, 16)
		take(&c.daddr6, "daddr_v6", true, 16)
	}
	if of.sort != hintAgain {
		needed := func(name string) bool { return slices.Contains(of.members, name) }
		take(&c.sock, "skaddr", needed("skaddr"), 8, 4)
		take(&c.cookie, "sock_cookie", needed("sock_cookie"), 8)
		take(&c.state, "oldstate", needed("oldstate"), 4)
		take(&c.newState, "newstate", needed("newstate"), 4)
		take(&c.err, "error", needed("error"), 4)
		take(&c.protocol, "protocol", needed("protocol"), 2, 1)
		if of.sort == hintResetSent {
			take(&c.state, "state", false, 4)
		}
	}
	if c.size > maxClassic {
		errs = append(errs, fmt.Errorf("tracepoint %s: its record is %d bytes long, more than %d", of.name, c.size, maxClassic))
	}
	return errors.Join(errs...)
}

const (
	// maxClassic bounds a record: it is copied on a program's stack.
	maxClassic = 256
	// sockaddrBytes is the size of struct sockaddr_in6.
	sockaddrBytes = 28
)

// filter is which of the records are wanted, in the language of tracefs; "": all.
func (c *classic) filter() string {
	if c.sort == hintClosed {
		return fmt.Sprintf("newstate == %d", tcpClose)
	}
	return ""
}

// hint reads a record; none says that it is of no connection of TCP.
func (c *classic) hint(at uint64, b []byte) (h hint, none bool, err error) {
	if len(b) < c.size {
		return hint{}, false, fmt.Errorf("record of a tracepoint of %d bytes, want %d", len(b), c.size)
	}
	h = hint{
		sort: c.sort, at: at, flow: packet.Flow{Proto: packet.TCP},
		sock: c.sock.of(b), cookie: c.cookie.of(b), state: uint8(c.state.of(b)), err: int32(c.err.of(b)),
	}
	switch {
	case c.protocol.size > 0 && c.protocol.of(b) != unix.IPPROTO_TCP,
		c.sort == hintClosed && c.newState.of(b) != tcpClose,
		// What it answers is of no socket, of one that waits for connections, or of
		// what stands for one.
		c.sort == hintResetSent && (h.sock == 0 || c.state.size > 0 && (h.state == 0 || h.state == tcpListen || h.state == tcpTimeWait || h.state == tcpNewSynRecv)):
		return hint{}, true, nil
	}
	if c.saddr.size > 0 {
		h.flow.Src, err = sockaddr(b[c.saddr.at:])
		if err == nil {
			h.flow.Dst, err = sockaddr(b[c.daddr.at:])
		}
		if err != nil {
			return hint{}, false, err
		}
	} else {
		// IPv4 comes as the mapped address as well.
		h.flow.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[c.saddr6.at:])).Unmap(), uint16(c.sport.of(b)))
		h.flow.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[c.daddr6.at:])).Unmap(), uint16(c.dport.of(b)))
	}
	if c.sort != hintGone && h.flow.Src.Addr().Is4() != h.flow.Dst.Addr().Is4() {
		if c.sort != hintAgain {
			return hint{}, true, nil // it never had an address to send from
		}
		return hint{}, false, fmt.Errorf("record of a tracepoint from %v to %v", h.flow.Src, h.flow.Dst)
	}
	return h, false, nil
}

// sockaddr reads a struct sockaddr_in or sockaddr_in6 in sockaddrBytes.
func sockaddr(b []byte) (netip.AddrPort, error) {
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), port), nil
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:])).Unmap(), port), nil
	default:
		return netip.AddrPort{}, fmt.Errorf("record of a tracepoint with an address of unknown family %d", family)
	}
}

// readAgain finds the tracepoints on retransmits.
func readAgain() ([]*classic, error) {
	tracefs, err := findTracefs()
	if err != nil {
		return nil, err
	}
	defer tracefs.Close()
	var out []*classic
	for _, of := range againEvents {
		c, err := readClassic(tracefs, of)
		if err != nil {
			if len(out) > 0 && errors.Is(err, os.ErrNotExist) {
				continue // SYN-ACKs are found by the next look
			}
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// readEnds finds the tracepoints on how connections end that this kernel has, with
// what is needed of them; missing are the names of the others.
func readEnds() (found []*classic, missing []string, err error) {
	tracefs, err := findTracefs()
	if err != nil {
		return nil, nil, err
	}
	defer tracefs.Close()
	for _, of := range endEvents {
		c, err := readClassic(tracefs, of)
		switch {
		case errors.Is(err, os.ErrPermission):
			return nil, nil, needsPrivilege("read tracefs", err)
		case err != nil:
			_, name, _ := strings.Cut(of.name, "/")
			missing = append(missing, name)
		default:
			found = append(found, c)
		}
	}
	return found, missing, nil
}
