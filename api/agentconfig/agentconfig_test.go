package agentconfig

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What is written is read again as the same, and is the same text.
func TestSettingsKeys(t *testing.T) {
	f := func(key, value, want string) {
		t.Helper()
		var s Settings
		if err := s.Set(key, value); err != nil {
			t.Error(err)
			return
		}
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if got, ok := again.Get(key); !ok || got != want {
			t.Errorf("%s=%s: %q, want %q", key, value, got, want)
		}
		if err := again.Set(key, ""); err != nil || !again.Empty() {
			t.Errorf("%s taken back: %v, %+v", key, err, again)
		}
	}
	f("tracking", "on", "on")
	f("tracking", "false", "off")
	f("interval", "5s", "5s")
	f("interval", "300s", "5m0s")
	f("sample", "1/10", "1/10")
	f("sample", "3/3", "all")
	f("only", "10.1.2.3/8,:443", "10.0.0.0/8,:443")
	f("only", "[2001:db8::/32]:443, 2001:db8::1", "[2001:db8::/32]:443,2001:db8::1")
	f("ignore", "10.1.2.3:22", "10.1.2.3:22")
	f("ignore", "none", "none")
	f("trace_rate", "0.5", "0.5")
	f("switch_icmp", "150", "150")
	f("balancer", "http://lb.example:8080/flow,10.9.1.2/16", "http://lb.example:8080/flow,10.9.0.0/16")
	f("balancer", "https://lb/?pool=1, 10.9.0.1, 2001:db8::/64, 500ms", "https://lb/?pool=1,10.9.0.1,2001:db8::/64,500ms")
	f("balancer", "none", "none")
	f("survey", "10m,10.0.1.1:443,[2001:db8::1]:443", "10m0s,10.0.1.1:443,[2001:db8::1]:443")
	f("survey", "1h, 99%, 10.0.1.1:443", "1h0m0s,10.0.1.1:443,99%")
	f("survey", "off", "off")
}

// What is wrong is said with what would be right, and changes nothing.
func TestSettingsRefused(t *testing.T) {
	f := func(key, value, want string) {
		t.Helper()
		var s Settings
		err := s.Set(key, value)
		if err == nil || !strings.Contains(err.Error(), want) || !s.Empty() {
			t.Errorf("%s=%s: %v and %+v, want an error with %q", key, value, err, s, want)
		}
	}
	f("intervall", "5s", "interval")
	f("interval", "4s", "5s to 5m0s")
	f("interval", "6m", "5s to 5m0s")
	f("interval", "5", "30s")
	f("sample", "0/10", "1/10")
	f("sample", "11/10", "1/10")
	f("sample", "half", "1/10")
	f("tracking", "maybe", "on or off")
	f("only", "10.0.0.0/33", "10.0.0.0/8")
	f("only", ":", ":22")
	f("only", ":0", ":22")
	f("only", "[::1]22", ":22")
	f("ignore", strings.Repeat(":1,", maxFilters)+":1", "at most")
	f("switch_icmp", "0", "more than 0")
	f("switch_icmp", "many", "10")
	f("balancer", "lb.example,10.9.0.0/16", "http://HOST")
	f("balancer", "ftp://lb.example/,10.9.0.0/16", "http://HOST")
	f("balancer", "http://lb.example/", "10.9.0.0/16")
	f("balancer", "http://lb.example/,10.9.0.0/33", "10.9.0.0/16")
	f("balancer", "http://lb.example/,:443", "networks")
	f("balancer", "http://lb.example/,10.9.0.0/16,11s", "at most 10s")
	f("balancer", "http://lb.example/,10.9.0.0/16,0s", "above 0")
	f("balancer", "http://lb.example/,10.9.0.0/16,1s,2s", "one timeout")
	f("balancer", "http://lb.example/"+strings.Repeat("x", maxBalancerURL)+",10.9.0.0/16", "at most 1024")
	f("balancer", "http://lb.example/"+strings.Repeat(",10.9.0.1", maxBalancerNetworks+1), "at most 256")
	f("survey", "soon", "10m,10.0.1.1:443")
	f("survey", "10m", "1 to 64")
	f("survey", "1s,10.0.1.1:443", "10s to 24h0m0s")
	f("survey", "10m,10.0.1.1", "ADDRESS:PORT")
	f("survey", "10m,10.0.1.1:0", "address and a port")
	f("survey", "10m,127.0.0.1:80", "another host's")
	f("survey", "10m,10.0.1.1:443,90%", "95 or 99")
	f("survey", "10m,10.0.1.1:443,x%", "95% or 99%")
	f("survey", "10m"+strings.Repeat(",10.0.1.1:443", maxSurveyTo+1), "1 to 64")
	f("trace_rate", "0", "more than 0")
	f("trace_rate", "NaN", "more than 0")
	f("trace_rate", "1e9", "at most")
}

func TestDecodeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{"intervall":"5s"}`:       "intervall",
		`{"interval":"1s"}`:        "5s to 5m0s",
		`{"interval":5}`:           "cannot be read",
		`{"trace_rate":-1}`:        "trace_rate",
		`{"only":["x"]}`:           "10.0.0.0/8",
		`{} {}`:                    "more follows",
		`{"sample":"1/10"`:         "cannot be read",
		`["interval"]`:             "cannot be read",
		`{"tracking":true,"x":{}}`: "x",
	} {
		if s, err := Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || !s.Empty() {
			t.Errorf("%s: %v and %+v, want an error with %q", text, err, s, want)
		}
	}
	if s, err := Decode(nil); err != nil || !s.Empty() {
		t.Errorf("nothing: %+v, %v", s, err)
	}
}

func TestMerge(t *testing.T) {
	set := func(pairs ...string) (s Settings) {
		for i := 0; i < len(pairs); i += 2 {
			if err := s.Set(pairs[i], pairs[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	all := set("interval", "10s", "sample", "1/10", "only", ":443")
	tag := set("interval", "20s", "tracking", "off")
	host := set("only", "none", "interval", "30s")
	got := Merge(all, tag, host)
	if time.Duration(*got.Interval) != 30*time.Second || *got.Tracking || got.Sample.String() != "1/10" || len(*got.Only) != 0 || got.TraceRate != nil {
		t.Errorf("%+v", got)
	}
	if v, _ := all.Get("interval"); v != "10s" {
		t.Errorf("merging changed what it was made of: %s", v)
	}
}

func TestFilterTakes(t *testing.T) {
	f := func(filter, to string, port uint16, want bool) {
		t.Helper()
		p, err := ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Takes(netip.MustParseAddr(to), port); got != want {
			t.Errorf("%s takes %s port %d: %v", filter, to, port, got)
		}
	}
	f("10.0.0.0/8", "10.9.9.9", 1, true)
	f("10.0.0.0/8", "11.0.0.1", 1, false)
	f("10.0.0.0/8:443", "10.0.0.1", 443, true)
	f("10.0.0.0/8:443", "10.0.0.1", 80, false)
	f(":22", "2001:db8::1", 22, true)
	f(":22", "10.0.0.1", 2222, false)
	f("[2001:db8::/32]:53", "2001:db8:5::1", 53, true)
	f("::ffff:10.0.0.1", "10.0.0.1", 5, true)
}

// Of many connections with cookies in a row n of m are listed, nearly; each
// always or never.
func TestSampling(t *testing.T) {
	s, err := ParseSampling("1/10")
	if err != nil {
		t.Fatal(err)
	}
	listed := 0
	for cookie := range uint64(100_000) {
		if again := s.Takes(cookie); again != s.Takes(cookie) {
			t.Fatal("a connection is sometimes listed")
		}
		if s.Takes(cookie) {
			listed++
		}
	}
	if listed < 9_500 || listed > 10_500 || s.OneIn() != 10 || (Sampling{}).OneIn() != 0 {
		t.Errorf("%d of 100000 are listed, want about 10000; one in %d", listed, s.OneIn())
	}
}

func TestScopes(t *testing.T) {
	for _, text := range []string{"all", "tag:rack=r 1/x", "web-1", "host.with.dots"} {
		s, err := ParseScope(text)
		if err != nil || s.String() != text {
			t.Errorf("%s: %v, %v", text, s, err)
			continue
		}
		name, _ := strings.CutPrefix(s.key(), setPrefix)
		if again, err := scopeOfKey(name); err != nil || again != s {
			t.Errorf("%s as a key: %v, %v", text, again, err)
		}
	}
	for _, text := range []string{"", "tag:rack", "tag:=r1", "tag:rack=", "a=b", "a b"} {
		if s, err := ParseScope(text); err == nil {
			t.Errorf("%q: %v", text, s)
		}
	}
}
