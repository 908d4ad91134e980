package device

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var errNetlinkShort = errors.New("netlink message is shorter than its own lengths say: the kernel and this program disagree, update this program")

// attrTypeMask takes NLA_F_NESTED and NLA_F_NET_BYTEORDER off an attribute's type.
const attrTypeMask = 0x3fff

// attributes walks netlink attributes until each returns false. It does no I/O, and
// is tested anywhere.
func attributes(b []byte, each func(kind uint16, v []byte) bool) error {
	for at := 0; len(b) > 0; {
		if len(b) < 4 {
			return fmt.Errorf("attribute at byte %d: %w", at, errNetlinkShort)
		}
		n, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&attrTypeMask
		if n < 4 || n > len(b) || !each(kind, b[4:n:n]) {
			return fmt.Errorf("attribute %d at byte %d: %w", kind, at, errNetlinkShort)
		}
		step := min((n+3)&^3, len(b))
		b, at = b[step:], at+step
	}
	return nil
}

// cString reads a string that ends with a zero byte.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
