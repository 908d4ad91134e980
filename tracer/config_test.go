package tracer

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("default: %v", err)
	}
	for want, change := range map[string]func(*Config){
		"rate 0":          func(c *Config) { c.Rate = 0 },
		"rate NaN":        func(c *Config) { c.Rate = math.NaN() },
		"rate +Inf":       func(c *Config) { c.Rate = math.Inf(1) },
		"burst 0":         func(c *Config) { c.Burst = 0 },
		"max TTL 64":      func(c *Config) { c.MaxTTL = 64 },
		"max TTL 0":       func(c *Config) { c.MaxTTL = 0 },
		"resend 1µs":      func(c *Config) { c.Resend = time.Microsecond },
		"timeout 1ms":     func(c *Config) { c.Timeout = time.Millisecond },
		"timeout 1m0s":    func(c *Config) { c.Timeout = time.Minute },
		"glance -1ns":     func(c *Config) { c.Glance = -1 },
		"glance 3ms":      func(c *Config) { c.Glance = 3 * time.Millisecond },
		"cached 0":        func(c *Config) { c.MaxCached = 0 },
		"live 0":          func(c *Config) { c.MaxLive = 0 },
		"buffer -1 bytes": func(c *Config) { c.ReceiveBuffer = -1 },
	} {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
