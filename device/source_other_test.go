//go:build !linux

package device

import (
	"errors"
	"strings"
	"testing"
)

func TestWithoutLinuxTheAgentSaysSo(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen = "r", "127.0.0.1:0"
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "run it on a device that runs Linux") {
		t.Errorf("ended with %v", err)
	}
}
