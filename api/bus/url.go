package bus

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// ValidURL says what is wrong with the addresses of NATS servers: nats://host:port
// or tls://host:port, several with commas. Without a port it is 4222.
func ValidURL(list string) error {
	for one := range strings.SplitSeq(list, ",") {
		one = strings.TrimSpace(one)
		bad := func(why string) error {
			return fmt.Errorf("nats url %q: %s: write nats://host:port or tls://host:port", one, why)
		}
		if one == "" {
			return bad("it is empty")
		}
		if !strings.Contains(one, "://") {
			one = "nats://" + one // as the client takes it
		}
		u, err := url.Parse(one)
		switch {
		case err != nil:
			return bad(err.(*url.Error).Err.Error())
		case u.Scheme != "nats" && u.Scheme != "tls":
			return bad(u.Scheme + " is not what NATS speaks")
		case u.Hostname() == "":
			return bad("no host")
		}
		if port := u.Port(); port != "" {
			if _, err := net.LookupPort("tcp", port); err != nil || port == "0" {
				return bad(port + " is no port")
			}
		}
	}
	return nil
}
