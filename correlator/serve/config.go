package serve

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"decaf/api/bus"
	"decaf/api/service"
	"decaf/correlator"
)

// Config of the service process.
type Config struct {
	// Topology is the file of the network to watch, or [Learned].
	Topology string `yaml:"topology"`
	// Site is that of a learned topology, the second word of every NATS subject; empty:
	// "default", as of host agents. A file has its own.
	Site string `yaml:"site"`
	// Method by which links, devices and hosts are named: fused or vote.
	Method string `yaml:"method"`
	// Data is the directory that evidence, reports and findings are kept in.
	Data   string            `yaml:"data"`
	NATS   NATS              `yaml:"nats"`
	Tables Tables            `yaml:"tables"`
	API    API               `yaml:"api"`
	Log    service.LogConfig `yaml:"log"`
}

// NATS says which server carries the evidence.
type NATS struct {
	// URL of a server or cluster. Empty: one is embedded.
	URL string `yaml:"url"`
	// Listen is where the embedded server takes agents: host:port. Empty: this
	// process only. Off loopback it needs TLS.
	Listen string            `yaml:"listen"`
	TLS    *service.TLSFiles `yaml:"tls"`
	// MaxBytes and MaxAge bound the evidence kept.
	MaxBytes int64         `yaml:"max_bytes"`
	MaxAge   time.Duration `yaml:"max_age"`
}

// Tables bounds what hosts tell of each connection and service, kept in memory for
// people to look at.
type Tables struct {
	// MaxBytes is for both, a quarter for services; what is of the least interest goes
	// first. A connection takes 400 bytes, and up to 2,500 the longer it is told of.
	// 0: none are kept.
	MaxBytes int `yaml:"max_bytes"`
}

// minTables holds the connections of a small host: fewer bytes than that were meant
// in another unit.
const minTables = 1 << 20

// API says where users reach the service.
type API struct {
	// Listen is host:port, or fd://N for a socket that the parent process has
	// opened. Off loopback it needs TLS.
	Listen string            `yaml:"listen"`
	TLS    *service.TLSFiles `yaml:"tls"`
}

// DefaultConfig keeps a day or a GiB of evidence, 64 MiB of connections, and listens
// on loopback.
func DefaultConfig() Config {
	return Config{
		Method: correlator.Methods()[0],
		NATS:   NATS{MaxBytes: 1 << 30, MaxAge: 24 * time.Hour},
		Tables: Tables{MaxBytes: correlator.DefaultStoreLimits().TableBytes},
		API:    API{Listen: "127.0.0.1:8080"},
		Log:    service.LogConfig{Level: "info", Format: "text"},
	}
}

// Validate says what is missing.
func (c *Config) Validate() error {
	switch {
	case c.Topology == "":
		return errors.New("no topology: name the file that describes the network, or write learned where there is none, and surveys of hosts tell; `decaf trace HOST:PORT --all-paths --learn FILE` makes a file of what it finds, `decaf topology clos` writes an example")
	case c.Topology != Learned && c.Site != "":
		return fmt.Errorf("site: %q: the topology's file says of which site it is; leave this out, or set topology: learned", c.Site)
	case c.Data == "":
		return errors.New("data: name a directory to keep evidence, reports and findings in")
	case c.NATS.URL != "" && c.NATS.Listen != "":
		return errors.New("nats: url and listen exclude each other: either use a server or embed one")
	case !slices.Contains(correlator.Methods(), c.Method):
		return fmt.Errorf("method %q: give one of %s", c.Method, strings.Join(correlator.Methods(), ", "))
	case c.Tables.MaxBytes != 0 && c.Tables.MaxBytes < minTables:
		return fmt.Errorf("tables: max_bytes: %d: give at least %d bytes, or 0 to keep no connections", c.Tables.MaxBytes, minTables)
	}
	if c.NATS.URL != "" {
		if err := bus.ValidURL(c.NATS.URL); err != nil {
			return err
		}
	}
	for key, address := range map[string]string{"nats": c.NATS.Listen, "api": c.API.Listen} {
		if address == "" || strings.HasPrefix(address, "fd://") {
			continue
		}
		if err := service.ValidListen(address); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}
