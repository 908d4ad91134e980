package agentconfig

import (
	"encoding/json"
	"fmt"

	"decaf/topology"
)

// Told is what a host is told.
type Told struct {
	Settings
	// TraceBound is 007's bound on traces per second and host (Ct) for the
	// topology, 0 where it says nothing. An agent goes by it where neither
	// TraceRate nor its own file says otherwise.
	TraceBound float64
	// From says whose settings each key's are: a scope, or "topology".
	From map[string]string
}

// FromTopology in Told.From is for what follows from the topology.
const FromTopology = "topology"

// defaultSwitchICMP is 007's Tmax, in answers per second and switch (NSDI 2018,
// section 4.1).
const defaultSwitchICMP = 100

// tell puts together what is set for a host. boundPerICMP is the bound where a
// switch gives one answer a second: it grows with these.
func tell(h *topology.Host, set map[Scope]Settings, boundPerICMP float64) Told {
	told := Told{From: map[string]string{}}
	for _, scope := range scopesOf(h) {
		s, ok := set[scope]
		if !ok {
			continue
		}
		told.Settings = Merge(told.Settings, s)
		for _, name := range Keys() {
			if _, ok := s.Get(name); ok {
				told.From[name] = scope.String()
			}
		}
	}
	told.TraceBound = told.traceBound(boundPerICMP)
	if told.TraceRate == nil && told.TraceBound > 0 {
		told.From["trace_rate"] = FromTopology
	}
	return told
}

// traceBound is the bound with the answers that a switch is said to give.
func (s Settings) traceBound(perICMP float64) float64 {
	icmp := float64(defaultSwitchICMP)
	if s.SwitchICMP != nil {
		icmp = *s.SwitchICMP
	}
	return min(icmp*perICMP, MaxTraceRate)
}

// Get returns what a key comes to for the host.
func (t Told) Get(name string) (string, bool) {
	if t.From[name] == FromTopology {
		return showRate(t.TraceBound), true
	}
	return t.Settings.Get(name)
}

// onWire is Told as an agent reads it.
type onWire struct {
	Settings
	TraceBound float64 `json:"trace_bound,omitempty"`
}

// Encode writes what a host is told as DecodeTold reads it.
func (t Told) Encode() ([]byte, error) { return json.Marshal(onWire{t.Settings, t.TraceBound}) }

// DecodeTold is what an agent is told, without whose settings these are. Errors
// are those of Decode.
func DecodeTold(b []byte) (Told, error) {
	var w onWire
	if err := decode(b, &w); err != nil {
		return Told{}, err
	}
	if err := w.Validate(); err != nil {
		return Told{}, fmt.Errorf("settings: %w", err)
	}
	if w.TraceBound != 0 {
		if err := checkRate(w.TraceBound); err != nil {
			return Told{}, fmt.Errorf("settings: trace_bound: %w", err)
		}
	}
	return Told{Settings: w.Settings, TraceBound: w.TraceBound}, nil
}
