package hostagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"decaf/api/packet"

	"golang.org/x/sys/unix"
)

// Classic tracepoints tell of a retransmit in a record of their own, whose
// layout the kernel describes in a file. It has addresses and ports, but neither
// namespace nor cookie, counters or sequence numbers: these are asked for
// (fallback.go).

// classicEvents are the tracepoints taken.
var classicEvents = []string{"tcp_retransmit_skb", "tcp_retransmit_synack"}

// classic is one tracepoint.
type classic struct {
	id uint64
	// Where the members lie in the record, and bytes of it that hold them all.
	sport, dport, saddr6, daddr6 int
	size                         int
}

// readClassic finds a tracepoint in tracefs.
func readClassic(tracefs *os.File, name string) (*classic, error) {
	read := func(file string) (string, error) {
		fd, err := unix.Openat(int(tracefs.Fd()), "events/tcp/"+name+"/"+file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("tracepoint %s: %s: %w", name, file, err)
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
	c := new(classic)
	if c.id, err = strconv.ParseUint(id, 10, 32); err != nil {
		return nil, fmt.Errorf("tracepoint %s: id %q is no number", name, id)
	}
	format, err := read("format")
	if err != nil {
		return nil, err
	}
	return c, c.layout(name, format)
}

// layout reads the description of a record, lines such as
// "	field:__u16 sport;	offset:28;	size:2;	signed:0;".
func (c *classic) layout(name, format string) error {
	type at struct{ offset, size int }
	members := map[string]at{}
	for line := range strings.Lines(format) {
		var m at
		member := ""
		for part := range strings.SplitSeq(strings.TrimSpace(line), ";") {
			key, value, _ := strings.Cut(strings.TrimSpace(part), ":")
			switch key {
			case "field":
				words := strings.Fields(value)
				if len(words) > 0 {
					member, _, _ = strings.Cut(words[len(words)-1], "[")
				}
			case "offset":
				m.offset, _ = strconv.Atoi(value)
			case "size":
				m.size, _ = strconv.Atoi(value)
			}
		}
		if member != "" {
			members[member] = m
		}
	}
	var errs []error
	for _, want := range []struct {
		into *int
		name string
		size int
	}{
		{&c.sport, "sport", 2}, {&c.dport, "dport", 2}, {&c.saddr6, "saddr_v6", 16}, {&c.daddr6, "daddr_v6", 16},
	} {
		m, ok := members[want.name]
		if !ok || m.size != want.size {
			errs = append(errs, fmt.Errorf("tracepoint %s has no %s of %d bytes", name, want.name, want.size))
			continue
		}
		*want.into = m.offset
		c.size = max(c.size, m.offset+m.size)
	}
	if c.size > maxClassic {
		errs = append(errs, fmt.Errorf("tracepoint %s: its record is %d bytes long, more than %d", name, c.size, maxClassic))
	}
	return errors.Join(errs...)
}

// maxClassic bounds a record: it is copied on a program's stack.
const maxClassic = 256

// hint reads a record.
func (c *classic) hint(at uint64, b []byte) (hint, error) {
	if len(b) < c.size {
		return hint{}, fmt.Errorf("record of a tracepoint of %d bytes, want %d", len(b), c.size)
	}
	ne := binary.NativeEndian
	// IPv4 comes as the mapped address as well.
	from := netip.AddrFrom16([16]byte(b[c.saddr6:])).Unmap()
	to := netip.AddrFrom16([16]byte(b[c.daddr6:])).Unmap()
	if from.Is4() != to.Is4() {
		return hint{}, fmt.Errorf("record of a tracepoint from %v to %v", from, to)
	}
	return hint{at: at, flow: packet.Flow{
		Src:   netip.AddrPortFrom(from, ne.Uint16(b[c.sport:])),
		Dst:   netip.AddrPortFrom(to, ne.Uint16(b[c.dport:])),
		Proto: packet.TCP,
	}}, nil
}

// readClassics finds all.
func readClassics() ([]*classic, error) {
	tracefs, err := findTracefs()
	if err != nil {
		return nil, err
	}
	defer tracefs.Close()
	var out []*classic
	for _, name := range classicEvents {
		c, err := readClassic(tracefs, name)
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
