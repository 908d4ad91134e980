package bus

import (
	"strings"
	"testing"
)

func TestValidURL(t *testing.T) {
	for _, row := range []struct{ url, wrong string }{
		{"nats://127.0.0.1:4222", ""},
		{"tls://nats.example:4222,tls://[2001:db8::1]:4222", ""},
		{"nats.example", ""},
		{"nats.example:4222", ""},
		{"", "it is empty"},
		{"nats://a:4222,", "it is empty"},
		{"http://127.0.0.1:4222", "http is not what NATS speaks"},
		{"nats://:4222", "no host"},
		{"nats://a:99999", "99999 is no port"},
		{"nats://a:0", "0 is no port"},
		{"nats://a:nats", "invalid port"},
		{"nats://a b", "invalid character"},
	} {
		err := ValidURL(row.url)
		if row.wrong == "" && err != nil || row.wrong != "" && (err == nil || !strings.Contains(err.Error(), row.wrong) || !strings.Contains(err.Error(), "tls://host:port")) {
			t.Errorf("%q: %v, want %q", row.url, err, row.wrong)
		}
	}
}
