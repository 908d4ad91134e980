package agentconfig

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"decaf/topology"
)

// Scope says for whom settings are: all hosts, those with a tag, or one host.
type Scope struct {
	Host  string // one host; or
	Tag   string // name and
	Value string // value of a tag; neither: all
}

// ParseScope reads "all", "tag:NAME=VALUE" or a host's name.
func ParseScope(s string) (Scope, error) {
	if s == "all" {
		return Scope{}, nil
	}
	if tag, ok := strings.CutPrefix(s, "tag:"); ok {
		name, value, ok := strings.Cut(tag, "=")
		if !ok || name == "" || value == "" {
			return Scope{}, fmt.Errorf("%q: write tag:NAME=VALUE, such as tag:rack=r1", s)
		}
		return Scope{Tag: name, Value: value}, nil
	}
	if s == "" || strings.ContainsAny(s, " =:") {
		return Scope{}, fmt.Errorf("%q: write all, tag:NAME=VALUE, or the name of a host", s)
	}
	return Scope{Host: s}, nil
}

// String is what ParseScope reads.
func (s Scope) String() string {
	switch {
	case s.Host != "":
		return s.Host
	case s.Tag != "":
		return "tag:" + s.Tag + "=" + s.Value
	}
	return "all"
}

// in says whether the scope names something in the topology, in words if not.
func (s Scope) in(t *topology.Topology) error {
	switch {
	case s.Host != "":
		if _, ok := t.Host(s.Host); !ok {
			return fmt.Errorf("the topology has no host %q; `decaf topology` lists them", s.Host)
		}
	case s.Tag != "":
		values := map[string]bool{}
		for _, h := range t.Hosts {
			if v, ok := h.Tags[s.Tag]; ok {
				values[v] = true
			}
		}
		if len(values) == 0 {
			return fmt.Errorf("no host has a tag %q; `decaf topology` shows those there are", s.Tag)
		}
		if !values[s.Value] {
			return fmt.Errorf("no host has %s=%s; %s is %s", s.Tag, s.Value, s.Tag, strings.Join(slices.Sorted(maps.Keys(values)), ", "))
		}
	}
	return nil
}

// scopesOf are those whose settings a host takes, the weakest first: for all,
// its tags by name, its own.
func scopesOf(h *topology.Host) []Scope {
	out := []Scope{{}}
	for _, name := range slices.Sorted(maps.Keys(h.Tags)) {
		out = append(out, Scope{Tag: name, Value: h.Tags[name]})
	}
	return append(out, Scope{Host: h.Name})
}

// Keys in the bucket. What is set has a prefix; what comes of it for a host lies
// under the host's own name, the only key that its agent may read.
const setPrefix = "set."

func (s Scope) key() string {
	switch {
	case s.Host != "":
		return setPrefix + "host." + s.Host
	case s.Tag != "":
		// A tag may hold what a key must not.
		return setPrefix + "tag." + base64.RawURLEncoding.EncodeToString([]byte(s.Tag+"="+s.Value))
	}
	return setPrefix + "all"
}
