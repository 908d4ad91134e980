package device

import (
	"errors"
	"fmt"
	"regexp"

	"decaf/api/service"
)

// Config is the agent's configuration file.
type Config struct {
	// Name of the device, as in the topology: a NATS subject token.
	Name string `yaml:"name"`
	// Listen is where the gNMI target listens, "host:port".
	Listen string `yaml:"listen"`
	// TLS is the target's certificate, and the authority that signs its
	// clients'. Without ca any client may read; off loopback all three are a
	// must.
	TLS service.TLSFiles `yaml:"tls"`
	// Ring is how many events the target keeps.
	Ring int `yaml:"ring"`
	// IgnoreInterfaces lists interfaces whose drops are not this device's
	// work: management. A packet that came in by one or was to leave by one
	// is left out.
	IgnoreInterfaces []string `yaml:"ignore_interfaces"`
	// Report is how drops are reported, and Classes what is different for a
	// class and all below it: the nearest that gives a key counts.
	Report  ReportConfig           `yaml:"report"`
	Classes map[string]ClassConfig `yaml:"classes"`
	// Aggregates is how loss aggregates are made.
	Aggregates AggregatesConfig `yaml:"aggregates"`
	// Fuse bounds what the agent takes from the device.
	Fuse FuseConfig `yaml:"fuse"`
	// Health is a loopback address for /healthz, /readyz and /metrics; empty
	// is none.
	Health string            `yaml:"health"`
	Log    service.LogConfig `yaml:"log"`
}

// DefaultConfig listens on gNMI's own port on loopback and keeps 1024 events.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:9339", Ring: 1024,
		Report: defaultReport(), Aggregates: AggregatesConfig{PrefixV4: 24, PrefixV6: 48}, Fuse: defaultFuse(),
	}
}

const maxRing = 1 << 20

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)

// Validate says what is wrong with the configuration and what to do about it.
func (c *Config) Validate() error {
	switch {
	case c.Name == "":
		return errors.New("name is empty: give the device's name in the topology")
	case !nameRE.MatchString(c.Name):
		return fmt.Errorf("name %q: use letters, digits, _ and -, and begin with a letter or digit", c.Name)
	case c.Listen == "":
		return errors.New("listen is empty: give an address such as 127.0.0.1:9339")
	case c.Ring < 1 || c.Ring > maxRing:
		return fmt.Errorf("ring %d: give a number of events from 1 to %d", c.Ring, maxRing)
	case !service.Loopback(c.Listen) && (c.TLS.CA == "" || c.TLS.Cert == "" || c.TLS.Key == ""):
		return fmt.Errorf("listen %s can be reached from outside: give tls ca, cert and key, or listen on a loopback address", c.Listen)
	}
	return c.validateReporting()
}
