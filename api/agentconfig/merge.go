package agentconfig

import "decaf/topology"

// Told is what a host is told, and by which scope's settings each key.
type Told struct {
	Settings Settings
	From     map[string]Scope // by key
}

// tell puts together what is set for a host.
func tell(h *topology.Host, set map[Scope]Settings) Told {
	told := Told{From: map[string]Scope{}}
	for _, scope := range scopesOf(h) {
		s, ok := set[scope]
		if !ok {
			continue
		}
		told.Settings = Merge(told.Settings, s)
		for _, name := range Keys() {
			if _, ok := s.Get(name); ok {
				told.From[name] = scope
			}
		}
	}
	return told
}
