package device

import "github.com/cilium/ebpf"

// memory is [sized]'s: of the agent's own maps and of those that it shares, which any
// agent alone would keep. What is not known, on a kernel before 4.11, counts nothing.
func (k *kernel) memory() (bytes uint64) {
	of := func(m *ebpf.Map) {
		if m == nil {
			return
		}
		if info, err := m.Info(); err == nil {
			n, _ := info.Memlock()
			bytes += n
		}
	}
	for _, m := range k.shared.maps {
		of(m)
	}
	t := k.tenant
	for _, m := range []*ebpf.Map{t.ring, t.causes, t.paces, t.classes, t.sketches, t.token} {
		of(m)
	}
	k.pacing.Lock()
	defer k.pacing.Unlock()
	of(t.filters)
	of(t.flows)
	return bytes
}
