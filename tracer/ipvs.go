package tracer

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"decaf/api/packet"
)

// ipvs reads the connections of Linux' load balancer in the process's network
// namespace (/proc/net/ip_vs_conn), and how each real server is reached
// (/proc/net/ip_vs).
type ipvs struct {
	open func(name string) (io.ReadCloser, error)
}

// openIPVS gives nil where the kernel has no IPVS.
func openIPVS() Translator {
	const dir = "/proc/net/"
	if _, err := os.Stat(dir + "ip_vs_conn"); err != nil {
		return nil
	}
	return ipvs{open: func(name string) (io.ReadCloser, error) { return os.Open(dir + name) }}
}

// maxIPVSBytes bounds what is read of either file: some two million connections.
const maxIPVSBytes = 256 << 20

// Translate looks a flow up. How packets go on decides: Masq changes where to,
// Route and Local change nothing that is in a packet, Tunnel puts them into
// others, whose path is not that of the flow's five-tuple.
func (v ipvs) Translate(_ context.Context, f packet.Flow) (packet.Flow, error) {
	forward, err := v.servers(f.Dst)
	if err != nil || forward == nil {
		return f, err
	}
	var real netip.AddrPort
	err = v.scan("ip_vs_conn", func(words []string) bool {
		// Pro FromIP FPrt ToIP TPrt DestIP DPrt State Expires
		if len(words) < 8 || words[0] != "TCP" || ipvsAddr(words[1], words[2]) != f.Src || ipvsAddr(words[3], words[4]) != f.Dst {
			return true
		}
		real = ipvsAddr(words[5], words[6])
		return false
	})
	if err != nil || !real.IsValid() {
		return f, err
	}
	switch cmp.Or(forward[real], forward[netip.AddrPortFrom(real.Addr(), 0)]) {
	case "Masq":
		f.Dst = real
		return f, nil
	case "Route", "Local":
		return f, nil
	case "Tunnel":
		return f, unresolved(ReasonTunnel, "IPVS sends it to %s inside other packets", real)
	}
	return f, unresolved(ReasonUnknown, "IPVS sends it to %s, a server of %s no longer", real, f.Dst)
}

// servers gives how each server is reached of the services that connections to an
// address may be to: its own, that of all its ports (port 0), and those by firewall
// mark, which have no address. Its own says best how a server is reached. nil: there
// are none, as of most connections. Then those of all clients, of which there may be a
// million, need not be read.
func (v ipvs) servers(to netip.AddrPort) (forward map[netip.AddrPort]string, err error) {
	all := netip.AddrPortFrom(to.Addr(), 0)
	of, own := false, false
	err = v.scan("ip_vs", func(words []string) bool {
		switch {
		case len(words) >= 2 && (words[0] == "TCP" || words[0] == "UDP" || words[0] == "SCTP" || words[0] == "FWM"):
			service := ipvsHostPort(words[1])
			own = words[0] == "TCP" && service == to
			of = own || words[0] == "FWM" || words[0] == "TCP" && service == all
			if of && forward == nil {
				forward = make(map[netip.AddrPort]string)
			}
		case len(words) >= 3 && words[0] == "->" && of:
			server := ipvsHostPort(words[1])
			if own || forward[server] == "" {
				forward[server] = words[2]
			}
		}
		return true
	})
	return forward, err
}

// scan hands over a file's lines, in words, until each returns false.
func (v ipvs) scan(name string, each func(words []string) bool) error {
	file, err := v.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // IPVS was unloaded
	} else if err != nil {
		return fmt.Errorf("read IPVS: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, maxIPVSBytes))
	for lines.Scan() {
		if !each(strings.Fields(lines.Text())) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read IPVS: %w", err)
	}
	return nil
}

// ipvsHostPort reads C0A80101:0050 or [2001:…]:0050.
func ipvsHostPort(s string) netip.AddrPort {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}
	}
	return ipvsAddr(strings.Trim(s[:i], "[]"), s[i+1:])
}

// ipvsAddr reads an address, IPv4 in eight hexadecimal digits, and a port in
// four; the zero value when they are none.
func ipvsAddr(host, port string) netip.AddrPort {
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}
	}
	if len(host) == 8 && !strings.Contains(host, ":") {
		b, err := hex.DecodeString(host)
		if err != nil {
			return netip.AddrPort{}
		}
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
		return netip.AddrPortFrom(netip.AddrFrom4(a), uint16(p))
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p))
}
