package service

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

// Capability is a privilege of a Linux process, by its number in
// include/uapi/linux/capability.h.
type Capability uint8

// Those that a daemon may need.
const (
	CapDACOverride    Capability = 1  // write to any file
	CapDACReadSearch  Capability = 2  // read any file
	capSetPCap        Capability = 8  // shrink the bounding set
	CapNetBindService Capability = 10 // listen on ports below 1024
	CapNetAdmin       Capability = 12
	CapNetRaw         Capability = 13
	CapSysPtrace      Capability = 19 // see other processes' namespaces
	CapSysAdmin       Capability = 21
	CapPerfmon        Capability = 38
	CapBPF            Capability = 39
)

var capabilityNames = map[Capability]string{
	CapDACOverride: "cap_dac_override", CapDACReadSearch: "cap_dac_read_search", capSetPCap: "cap_setpcap", CapNetBindService: "cap_net_bind_service",
	CapNetAdmin: "cap_net_admin", CapNetRaw: "cap_net_raw", CapSysPtrace: "cap_sys_ptrace", CapSysAdmin: "cap_sys_admin", CapPerfmon: "cap_perfmon", CapBPF: "cap_bpf",
}

func (c Capability) String() string {
	if name, ok := capabilityNames[c]; ok {
		return name
	}
	return "cap_" + strconv.Itoa(int(c))
}

// Needs is what a daemon goes on needing once it is up, also to begin again with
// other settings.
type Needs struct {
	Capabilities []Capability
	// Read are files that are read again, Write folders that are written to: where
	// the process's user alone may not, the capability to do so is kept.
	Read, Write []string
}

// NeedsToListen are the capabilities for listening at these addresses, "host:port";
// "" is none.
func NeedsToListen(addresses ...string) []Capability {
	for _, a := range addresses {
		if _, port, err := net.SplitHostPort(a); err == nil {
			if n, err := strconv.Atoi(port); err == nil && n > 0 && n < 1024 {
				return []Capability{CapNetBindService}
			}
		}
	}
	return nil
}

// Files are the names of the PEM files that are given.
func (f TLSFiles) Files() []string {
	return slices.DeleteFunc([]string{f.CA, f.Cert, f.Key}, func(name string) bool { return name == "" })
}

// capabilities is a set, a bit each.
type capabilities uint64

func capabilitySet(list []Capability) (set capabilities) {
	for _, c := range list {
		set |= 1 << c
	}
	return set
}

func (s capabilities) has(c Capability) bool { return s>>c&1 != 0 }

// String lists them, as capabilities(7) calls them.
func (s capabilities) String() string {
	var names []string
	for c := Capability(0); c < 64; c++ {
		if s.has(c) {
			names = append(names, c.String())
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, " ")
}
