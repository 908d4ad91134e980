package device

import (
	"log/slog"
	"testing"
	"time"
)

// keeper is a source whose kernel keeps much for it.
type keeper struct{ told }

func (*keeper) memory() uint64 { return 1 << 40 }

// TestFuseSeesTheKernelsMemory: what the kernel keeps for a source is held against the
// budget, beside what the process holds.
func TestFuseSeesTheKernelsMemory(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name = "r"
	a, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	a.sources = &sources{kernel: &keeper{}}
	now := time.Now()
	for range 2 {
		a.look(now)
		now = now.Add(time.Second)
	}
	if s := a.State(); s.MemoryBytes <= 1<<40 || s.MemoryBytes > 2<<40 || s.Fuse != "sampled" {
		t.Errorf("takes %d bytes, and the fuse allows %s", s.MemoryBytes, s.Fuse)
	}
}
