package device

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestSymbolsAgreeWithKallsyms names addresses within functions and holds the
// names against /proc/kallsyms.
func TestSymbolsAgreeWithKallsyms(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: eBPF")
	}
	text, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Skipf("needs /proc/kallsyms: %v", err)
	}
	s, err := newSymbols()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, want := range []string{"ip_forward", "ip6_forward", "__dev_queue_xmit"} {
		i := strings.Index(string(text), " T "+want+"\n")
		if i < 16 {
			t.Errorf("%s is not in /proc/kallsyms", want)
			continue
		}
		at, err := strconv.ParseUint(string(text[i-16:i]), 16, 64)
		if err != nil || at == 0 {
			t.Skip("needs readable addresses: kernel.kptr_restrict 0 or 1")
		}
		if got, err := s.name(at + 5); err != nil || got != want {
			t.Errorf("%#x: %q, %v; want %q", at+5, got, err, want)
		}
	}
	if got, err := s.name(4096); err != nil || got != "" {
		t.Errorf("address of no function: %q, %v; want none", got, err)
	}
}
