package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// setting is one sysctl under /proc/sys/net. What the kernel lacks is passed over
// when optional, an error otherwise.
type setting struct {
	path     string
	value    string
	optional bool
}

// hashFields are those of the flow's five-tuple: source address 0x1, destination
// address 0x2, protocol 0x4, source port 0x10, destination port 0x20
// (Documentation/networking/ip-sysctl.rst, fib_multipath_hash_fields).
const hashFields = 0x37

// everywhere holds in every namespace of a fabric that speaks these versions. To be
// set before there are links, since these copy conf/default.
func everywhere(speaks ...version) []setting {
	all := []setting{
		// All receive work of the fabric on one CPU: with two, packets of one flow
		// overtake each other from hop to hop, and flows retransmit without a loss.
		{"core/rps_default_mask", "1", true},
		{"ipv4/conf/all/rp_filter", "0", false},
		{"ipv4/conf/default/rp_filter", "0", false},
		{"ipv4/conf/all/send_redirects", "0", false},
		{"ipv4/conf/default/send_redirects", "0", false},
		{"ipv4/conf/all/accept_redirects", "0", false},
		{"ipv4/conf/default/accept_redirects", "0", false},
		// bit 3 unreachable, 4 source quench, 12 parameter problem stay limited;
		// time exceeded (11) does not, so every probe has its answer.
		{"ipv4/icmp_ratemask", strconv.Itoa(1<<3 | 1<<4 | 1<<12), false},
		// An answer names the port the probe came in by, which is the link.
		{"ipv4/icmp_errors_use_inbound_ifaddr", "1", false},
		// One connection's losses are not to slow the next one down.
		{"ipv4/tcp_no_metrics_save", "1", false},
	}
	if !slices.Contains(speaks, ipv6) {
		// This also keeps neighbour discovery off the links.
		return append(all,
			setting{"ipv6/conf/all/disable_ipv6", "1", true},
			setting{"ipv6/conf/default/disable_ipv6", "1", true},
		)
	}
	return append(all,
		setting{"ipv6/conf/all/disable_ipv6", "0", false},
		setting{"ipv6/conf/default/disable_ipv6", "0", false},
		// Addresses hold at once, and there are none but those given; nobody looks
		// for routers.
		setting{"ipv6/conf/default/accept_dad", "0", false},
		setting{"ipv6/conf/default/dad_transmits", "0", false},
		setting{"ipv6/conf/default/addr_gen_mode", "1", false}, // IN6_ADDR_GEN_MODE_NONE
		setting{"ipv6/conf/default/accept_ra", "0", false},
		setting{"ipv6/conf/default/autoconf", "0", false},
		setting{"ipv6/conf/default/accept_redirects", "0", false},
		setting{"ipv6/conf/default/router_solicitations", "0", false},
		// What must be told of groups is over at once, in milliseconds.
		setting{"ipv6/conf/default/mldv1_unsolicited_report_interval", "1", false},
		setting{"ipv6/conf/default/mldv2_unsolicited_report_interval", "1", false},
		// A link that goes and comes has its addresses again.
		setting{"ipv6/conf/default/keep_addr_on_down", "1", false},
		// All but packet too big (2), of which path MTU discovery lives, and time
		// exceeded (3) stay limited. The limit of the whole machine is not of this
		// namespace, and types outside the mask do not count towards it.
		setting{"ipv6/icmp/ratemask", "0-1,4-127", false},
	)
}

// forwarding makes a namespace a switch. Policy 1 would hash by what the sending
// socket left in the packet's metadata, which a raw probe has not; policy 3 reads
// the packet. Without a seed of its own every switch would choose alike, and half
// of the links behind the first choice would never carry a flow.
func forwarding(seed uint32, speaks ...version) []setting {
	all := []setting{
		{"ipv4/ip_forward", "1", false},
		{"ipv4/fib_multipath_hash_policy", "3", false},
		{"ipv4/fib_multipath_hash_fields", strconv.Itoa(hashFields), false},
		{"ipv4/fib_multipath_hash_seed", strconv.FormatUint(uint64(seed), 10), false}, // of IPv6 too
	}
	if !slices.Contains(speaks, ipv6) {
		return all
	}
	// Without the flow label (0x8), which a sender draws anew after a timeout.
	return append(all,
		setting{"ipv6/conf/all/forwarding", "1", false},
		setting{"ipv6/conf/default/forwarding", "1", false},
		setting{"ipv6/fib_multipath_hash_policy", "3", false},
		setting{"ipv6/fib_multipath_hash_fields", strconv.Itoa(hashFields), false},
	)
}

// applySettings writes sysctls of the namespace the calling thread is in:
// /proc/sys/net shows that of the thread that opens the file.
func applySettings(list []setting) (missing []string, err error) {
	for _, s := range list {
		err := writeSysctl(s.path, s.value)
		switch {
		case err == nil:
		case s.optional && errors.Is(err, fs.ErrNotExist):
			missing = append(missing, s.path)
		case errors.Is(err, fs.ErrNotExist):
			return missing, fmt.Errorf("set net/%s to %s: %w (this kernel lacks it: Linux 6.11 or later has all that the fabric needs)", s.path, s.value, err)
		default:
			return missing, fmt.Errorf("set net/%s to %s: %w", s.path, s.value, err)
		}
	}
	return missing, nil
}

// loseNormally chooses a congestion control that backs off on loss, which the
// machine's default may not (bbr). A kernel may keep all but its default and reno
// from namespaces other than the first (tcp_allowed_congestion_control); sockets
// of privileged processes may still choose.
func loseNormally() error {
	const path = "ipv4/tcp_congestion_control"
	var errs []error
	for _, name := range []string{congestionControl, "reno"} {
		err := writeSysctl(path, name)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("set net/%s to %s: %w", path, name, err))
	}
	return errors.Join(errs...)
}

func writeSysctl(path, value string) error {
	f, err := os.OpenFile("/proc/sys/net/"+path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile("/proc/sys/net/" + path)
	return strings.TrimSpace(string(b)), err
}
