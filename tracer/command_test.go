package tracer

import (
	"io"
	"strings"
	"testing"
)

func TestCommandBadInput(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"", "accepts 1 arg"},
		{"10.0.0.1", "want HOST:PORT"},
		{"2001:db8::1", "want HOST:PORT, an IPv6 address in brackets"},
		{"10.0.0.1:http", "want a number from 1 to 65535"},
		{"10.0.0.1:0", "want a number from 1 to 65535"},
		{"10.0.0.1:65536", "want a number from 1 to 65535"},
		{"10.0.0.1:80 --flow 10.0.0.2", "want ADDRESS:PORT of the flow's own end"},
		{"10.0.0.1:80 --flow 10.0.0.2:0", "want ADDRESS:PORT of the flow's own end"},
		{"10.0.0.1:80 --flow [2001:db8::1]:5", "no address of the family"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --flow-label 1048576", "20 bits"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --distance 16", "want 0 (unknown) to --max-ttl (15)"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --distance -1", "want 0 (unknown) to --max-ttl (15)"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --max-ttl 64", "max TTL 64"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --all-paths --confidence 90", "want 95 or 99"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --all-paths --max-flows 0", "want 1 to 32768"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --every 1ms", "want at least 1s"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --learn x.yaml", "give both"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --topology /nonexistent.yaml", "no such file"},
		{"10.0.0.1:80 --names -n", "none of the others can be"},
		{"10.0.0.1:80 --flow 10.0.0.2:5 --timeout 1m", "timeout 1m0s"},
	} {
		cmd := Command()
		cmd.SetArgs(strings.Fields(c.args))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("trace %s: %v, want %q", c.args, err, c.want)
		}
	}
}
