package tracer

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// drawn gives the picture of paths written as node names by TTL: "a b1 c" and so
// on; "-" for a silent one. Sources are S, destinations D.
func drawn(paths ...string) string {
	f := &Fan{}
	index := map[string]int{}
	for _, p := range paths {
		var nodes []int
		for ttl, name := range strings.Fields(p) {
			for len(f.Hops) <= ttl {
				f.Hops = append(f.Hops, nil)
			}
			key := fmt.Sprint(ttl, name)
			n, ok := index[key]
			if !ok {
				n = len(f.Hops[ttl])
				index[key] = n
				node := Node{}
				if name != "-" {
					node.Address = netip.AddrFrom4([4]byte{byte(ttl + 1), 0, 0, name[0]})
					node.End = name == "x"
				}
				f.Hops[ttl] = append(f.Hops[ttl], node)
			}
			nodes = append(nodes, n)
		}
		f.Paths = append(f.Paths, FanPath{Nodes: nodes})
	}
	text := picture(f, tcpFlow("9.9.9.8:1", "9.9.9.9:2"))
	text = strings.NewReplacer("9.9.9.8", "S", "9.9.9.9", "D").Replace(text)
	for c := byte('a'); c <= 'z'; c++ {
		for ttl := 1; ttl < 9; ttl++ {
			text = strings.ReplaceAll(text, fmt.Sprintf("%d.0.0.%d", ttl, c), string(c))
		}
	}
	return text
}

func TestPictures(t *testing.T) {
	for _, c := range []struct {
		paths []string
		want  string
	}{
		{[]string{"a b c"}, "S ─── a ─── b ─── c ─── D\n"},
		{[]string{"a b d", "a c d"}, "S ─── a ─┬─ b ─┬─ d ─── D\n         └─ c ─┘\n"},
		{[]string{"a - d"}, "S ─── a ─── * ─── d ─── D\n"},
		{[]string{"a b d", "a c e", "a f e"}, "S ─── a ─┬─ b ─── d ─┬─ D\n         ├─ c ─┬─ e ─┘\n         └─ f ─┘\n"},
		{[]string{"a x", "a b c"}, "S ─── a ─┬─ b ─── c ─── D\n         └─ x\n"},
		{nil, "no path was seen from end to end\n"},
	} {
		// Addresses are wider than the letters that stand for them here.
		got := strings.NewReplacer("──────────", "", "          ", "").Replace(drawn(c.paths...))
		if squeeze(got) != squeeze(c.want) {
			t.Errorf("%v: got\n%swant\n%s", c.paths, got, c.want)
		}
	}
	many := make([]string, maxRows+3)
	for i := range many {
		many[i] = "a " + string(rune('b'+i%20)) + " " + string(rune('b'+i/20))
	}
	if got := drawn(many...); strings.Count(got, "\n") != maxRows+1 || !strings.HasSuffix(got, "and 3 more\n") {
		t.Errorf("%d rows", strings.Count(got, "\n"))
	}
}

// squeeze makes runs of blanks and of lines one.
func squeeze(s string) string {
	for _, run := range []string{"  ", "──"} {
		for strings.Contains(s, run) {
			s = strings.ReplaceAll(s, run, run[:len(run)/2])
		}
	}
	return s
}

func TestPrintableNames(t *testing.T) {
	if got := printable("a\x1b[2Jb\nc\u202e"); got != "a[2Jbc" {
		t.Errorf("%q", got)
	}
	if got := labelText([]uint32{16<<12 | 1, 17<<12 | 5<<9 | 1<<8 | 2}); got != "16,17/tc5" {
		t.Errorf("%q", got)
	}
}
