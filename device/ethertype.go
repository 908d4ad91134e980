package device

// EtherTypes of the packets whose drops are told of (IEEE 802 numbers).
const (
	etherIPv4      = 0x0800
	etherARP       = 0x0806
	etherIPv6      = 0x86dd
	etherMPLS      = 0x8847
	etherMPLSMulti = 0x8848 // upstream-assigned labels, RFC 5332
)

// isMPLS reports whether an EtherType is that of a label stack (RFC 3032).
func isMPLS(etherType uint16) bool { return etherType == etherMPLS || etherType == etherMPLSMulti }

// etherClasses give a class to what is no IP where the rules, made for IP, have
// another: no rule about IP addresses can have dropped it, and what is wrong with
// it stands in its own header.
var etherClasses = []struct {
	of       func(etherType uint16) bool
	from, to string
}{
	{isARP, PolicyL3ACL, PolicyL2ACL},
	{isARP, ErrorsL3RxInvalid, ErrorsL2RxFrame},
	{isMPLS, PolicyL3ACL, PolicyL2ACL},
	{isMPLS, ErrorsL3RxInvalid, ErrorsL3RxLabel},
}

func isARP(etherType uint16) bool { return etherType == etherARP }

// etherClass is the class of a packet of an EtherType, where a rule said class.
func etherClass(class string, etherType uint16) string {
	for _, row := range etherClasses {
		if row.from == class && row.of(etherType) {
			return row.to
		}
	}
	return class
}
