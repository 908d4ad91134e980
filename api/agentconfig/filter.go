package agentconfig

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Filter takes connections by the other end's address and the port of the
// service.
type Filter struct {
	Prefix netip.Prefix // not valid: any address
	Port   uint16       // 0: any port
}

// ParseFilter reads "10.0.0.0/8", "10.1.2.3:443", "[2001:db8::/32]:443" or
// ":22".
func ParseFilter(s string) (Filter, error) {
	bad := fmt.Errorf("%q: write an address or prefix, a port, or both: 10.0.0.0/8, 10.1.2.3:443, [2001:db8::/32]:443, :22", s)
	var f Filter
	addr, port := s, ""
	switch {
	case strings.HasPrefix(s, "["):
		in, after, ok := strings.Cut(s[1:], "]")
		if !ok {
			return f, bad
		}
		addr = in
		if after != "" {
			if port, ok = strings.CutPrefix(after, ":"); !ok || port == "" {
				return f, bad
			}
		}
	case strings.Count(s, ":") == 1:
		addr, port, _ = strings.Cut(s, ":")
		if port == "" {
			return f, bad
		}
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return f, bad
		}
		f.Port = uint16(n)
	}
	if addr == "" {
		if f.Port == 0 {
			return f, bad
		}
		return f, nil
	}
	if a, err := netip.ParseAddr(addr); err == nil && a.Zone() == "" {
		a = a.Unmap()
		f.Prefix = netip.PrefixFrom(a, a.BitLen())
		return f, nil
	}
	p, err := netip.ParsePrefix(addr)
	if err != nil {
		return Filter{}, bad
	}
	f.Prefix = p.Masked()
	return f, nil
}

// String is what ParseFilter reads.
func (f Filter) String() string {
	addr := ""
	switch {
	case !f.Prefix.IsValid():
	case f.Prefix.IsSingleIP():
		addr = f.Prefix.Addr().String()
	default:
		addr = f.Prefix.String()
	}
	if f.Port == 0 {
		return addr
	}
	if strings.Contains(addr, ":") {
		addr = "[" + addr + "]"
	}
	return addr + ":" + strconv.Itoa(int(f.Port))
}

// MarshalText is String.
func (f Filter) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText is ParseFilter.
func (f *Filter) UnmarshalText(b []byte) (err error) {
	*f, err = ParseFilter(string(b))
	return err
}

// Takes says whether the filter matches.
func (f Filter) Takes(to netip.Addr, port uint16) bool {
	return (f.Port == 0 || f.Port == port) && (!f.Prefix.IsValid() || f.Prefix.Contains(to))
}
