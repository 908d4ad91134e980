package device

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

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
	// Users are those who may call with a username and password; without any,
	// whom TLS lets in, or anyone on loopback.
	Users []UserConfig `yaml:"users"`
	// Settings is the file that what clients set over gNMI is kept in, over what
	// stands here. By default it lies beside the configuration file; without
	// either, what is set is gone with the agent.
	Settings string `yaml:"settings"`
	// Ring is how many events the target keeps.
	Ring int `yaml:"ring"`
	// IgnoreInterfaces lists interfaces whose drops are not this device's
	// work: management. A packet that came in by one or was to leave by one
	// is left out.
	IgnoreInterfaces []string `yaml:"ignore_interfaces"`
	// Kernel is whether the agent sees the drops of the kernel it runs on.
	Kernel bool `yaml:"kernel"`
	// NFLOG names the firewall rules that dropped.
	NFLOG NFLOGConfig `yaml:"nflog"`
	// Counters tells of losses that leave no packet to show.
	Counters CountersConfig `yaml:"counters"`
	// Routes tells of changes of routes and neighbours.
	Routes RoutesConfig `yaml:"routes"`
	// SFlow speaks for switches, each at an address of its own. What is said of
	// report, classes, aggregates, fuse, tls and ring holds for each of them.
	SFlow SFlowConfig `yaml:"sflow"`
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

// DefaultConfig sees the kernel's drops, listens on gNMI's own port on loopback and
// keeps 1024 events.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:9339", Ring: 1024, Kernel: true,
		Counters: CountersConfig{Interval: time.Second}, Routes: defaultRoutes(),
		Report: defaultReport(), Aggregates: defaultAggregates(), Fuse: defaultFuse(),
	}
}

// own reports whether this device itself has a source of drops, and so an agent.
// An agent without one would show a device that drops nothing. Where one speaks for
// switches, counters alone make none of the machine it runs on.
func (c *Config) own() bool {
	return c.Kernel || len(c.NFLOG.Groups) > 0 || c.Counters.Interval > 0 && c.SFlow.Listen == ""
}

// of is the configuration of the agent that speaks for a switch.
func (c Config) of(s SwitchConfig) Config {
	c.Name, c.Listen, c.IgnoreInterfaces = s.Name, s.Listen, s.IgnoreInterfaces
	if ext := filepath.Ext(c.Settings); c.Settings != "" {
		c.Settings = strings.TrimSuffix(c.Settings, ext) + "." + s.Name + ext
	}
	c.Kernel, c.NFLOG, c.SFlow, c.Health = false, NFLOGConfig{}, SFlowConfig{}, ""
	c.Counters, c.Routes = CountersConfig{}, RoutesConfig{}
	return c
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
	case !c.own() && c.SFlow.Listen == "":
		return errors.New("no source of drops: leave kernel true, or give nflog.groups, counters.interval or sflow.listen")
	}
	if err := c.validateListen(c.Listen); err != nil {
		return err
	}
	if c.Settings != "" {
		dir := filepath.Dir(c.Settings)
		if at, err := os.Stat(dir); err != nil || !at.IsDir() {
			return fmt.Errorf("settings %s: there is no folder %s: make it, or name another file", c.Settings, dir)
		}
	}
	if err := c.NFLOG.Validate(); err != nil {
		return err
	}
	if err := c.Counters.Validate(); err != nil {
		return err
	}
	if err := c.Routes.Validate(); err != nil {
		return err
	}
	if err := c.SFlow.Validate(); err != nil {
		return err
	}
	for _, s := range c.SFlow.Switches {
		if err := c.validateListen(s.Listen); err != nil {
			return fmt.Errorf("sflow: switch %s: %w", s.Name, err)
		}
		switch {
		case c.own() && s.Name == c.Name:
			return fmt.Errorf("sflow: switch %s has the name of this device: give each the name that it has in the topology", s.Name)
		case c.own() && s.Listen == c.Listen && !strings.HasSuffix(s.Listen, ":0"):
			return fmt.Errorf("sflow: switch %s listens on %s, as this device does: give each a port of its own", s.Name, s.Listen)
		}
	}
	if err := validateUsers(c.Users); err != nil {
		return err
	}
	return c.validateReporting()
}

func (c *Config) validateListen(address string) error {
	if err := service.ValidListen(address); err != nil {
		return err
	}
	if !service.Loopback(address) && (c.TLS.CA == "" && len(c.Users) == 0 || c.TLS.Cert == "" || c.TLS.Key == "") {
		return fmt.Errorf("listen %s can be reached from outside: give tls ca, cert and key (or users in place of ca), or listen on a loopback address", address)
	}
	return nil
}
