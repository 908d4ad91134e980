package agentconfig

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Balancer is an external load balancer that an agent asks what became of a
// connection to one of its addresses, before it traces it (package tracer says
// how it asks). The zero value asks nobody.
type Balancer struct {
	URL string
	// Networks holds the addresses that it balances.
	Networks []netip.Prefix
	// Timeout is for one question; 0: the agent's own, 200 ms.
	Timeout time.Duration
}

const (
	maxBalancerURL      = 1024
	maxBalancerNetworks = 256
	maxBalancerTimeout  = 10 * time.Second
)

// ParseBalancer reads "http://lb.example:8080/flow,10.9.0.0/16", with more
// networks and a timeout where wanted: ",2001:db8::/64,500ms"; or "none".
func ParseBalancer(s string) (Balancer, error) {
	if s == "none" {
		return Balancer{}, nil
	}
	parts := strings.Split(s, ",")
	b := Balancer{URL: strings.TrimSpace(parts[0])}
	for _, part := range parts[1:] {
		part = strings.TrimSpace(part)
		if d, err := time.ParseDuration(part); err == nil {
			if b.Timeout != 0 || d == 0 {
				return Balancer{}, fmt.Errorf("%q: give one timeout above 0", part)
			}
			b.Timeout = d
			continue
		}
		f, err := ParseFilter(part)
		if err != nil || f.Port != 0 {
			return Balancer{}, fmt.Errorf("%q: write the address of the balancer, then networks and a timeout, as http://lb.example:8080/flow,10.9.0.0/16,200ms; or none", part)
		}
		b.Networks = append(b.Networks, f.Prefix)
	}
	return b, b.Validate()
}

// Validate says what is wrong with a balancer that is to be asked.
func (b Balancer) Validate() error {
	u, err := url.Parse(b.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("balancer address %q: write http://HOST/… or https://HOST/…", b.URL)
	case len(b.URL) > maxBalancerURL || strings.Contains(b.URL, ","):
		return fmt.Errorf("balancer address of %d bytes: give at most %d, and none of them a comma", len(b.URL), maxBalancerURL)
	case len(b.Networks) == 0:
		return fmt.Errorf("balancer %s: name the networks whose addresses it balances, such as 10.9.0.0/16", b.URL)
	case len(b.Networks) > maxBalancerNetworks:
		return fmt.Errorf("balancer %s: %d networks: give at most %d", b.URL, len(b.Networks), maxBalancerNetworks)
	case b.Timeout < 0 || b.Timeout > maxBalancerTimeout:
		return fmt.Errorf("balancer timeout %v: give more than 0, at most %v", b.Timeout, maxBalancerTimeout)
	}
	for _, p := range b.Networks {
		if !p.IsValid() {
			return fmt.Errorf("balancer %s: a network is not valid: write it as 10.9.0.0/16", b.URL)
		}
	}
	return nil
}

// String is what ParseBalancer reads.
func (b Balancer) String() string {
	if b.URL == "" {
		return "none"
	}
	parts := []string{b.URL}
	for _, p := range b.Networks {
		parts = append(parts, Filter{Prefix: p}.String())
	}
	if b.Timeout > 0 {
		parts = append(parts, b.Timeout.String())
	}
	return strings.Join(parts, ",")
}

// MarshalText is String.
func (b Balancer) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText is ParseBalancer.
func (b *Balancer) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBalancer(string(text))
	return err
}
