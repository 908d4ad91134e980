package scenario

import "slices"

// kinds is every fault kind and what it happens on. What it happens on is what
// is to blame for it (a queue overflows at the sending end of its link).
var kinds = []struct {
	name string
	on   string // "link", "device" or "host"
}{
	{"silent-loss", "link"}, // no device sees it
	{"corrupt", "link"},     // seen as interface errors, no packet
	{"queue", "link"},       // congestion drops
	{"duplex", "link"},      // burst errors, like those of a duplex mismatch
	{"acl", "device"},
	{"blackhole", "device"},
	{"no-route", "device"},
	{"ttl-loop", "device"},
	{"mtu", "device"},
	{"route-flap", "device"},
	{"device-down", "device"},
	{"device-loss", "device"}, // all links of the device
	{"syn-blackhole", "device"},
	{"host-slow", "host"},    // the source host
	{"server-slow", "host"},  // the destination host
	{"server-reset", "host"}, // the destination host
}

// Kinds names all fault kinds.
func Kinds() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return names
}

// HappensOn says what a fault kind happens on: "link", "device" or "host"; "" for
// an unknown kind.
func HappensOn(kind string) string {
	for _, k := range kinds {
		if k.name == kind {
			return k.on
		}
	}
	return ""
}

// verdicts are the words a verdict may be.
var verdicts = []string{
	"network", "source-host", "destination-host", "server", "application",
	"outside", "not-network", "insufficient-evidence",
}

// Verdicts names all verdicts a report may get.
func Verdicts() []string { return slices.Clone(verdicts) }
