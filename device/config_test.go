package device

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"decaf/api/service"
)

func TestLoadConfig(t *testing.T) {
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files, err := ca.Issue("r", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	tls := "tls: {ca: " + files.CA + ", cert: " + files.Cert + ", key: " + files.Key + "}\n"
	for _, tc := range []struct{ what, yaml, wrong string }{
		{"all keys", "name: r\nlisten: 192.0.2.1:9339\n" + tls + "ring: 10\nignore_interfaces: [mgmt0]\nhealth: 127.0.0.1:0\nlog: {level: warn, format: json}\n", ""},
		{"defaults", "name: r\n", ""},
		{"unknown key", "name: r\nignore_interface: [mgmt0]\n", `:2: unknown key "ignore_interface": did you mean "ignore_interfaces"?`},
		{"no name", "name: ''\n", "name is empty"},
		{"name that is no subject token", "name: a.b\n", `name "a.b": use letters`},
		{"plain text off loopback", "name: r\nlisten: 192.0.2.1:9339\n", "give tls ca, cert and key"},
		{"everywhere in plain text", "name: r\nlisten: :9339\n", "give tls ca, cert and key"},
		{"no ring", "name: r\nring: 0\n", "ring 0"},
		{"huge ring", "name: r\nring: 2000000\n", "ring 2000000"},
	} {
		file := filepath.Join(t.TempDir(), "device.yaml")
		if err := os.WriteFile(file, []byte(tc.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := LoadConfig(file)
		switch {
		case tc.wrong == "" && err != nil:
			t.Errorf("%s: %v", tc.what, err)
		case tc.wrong == "" && cfg.Name != "r":
			t.Errorf("%s: %+v", tc.what, cfg)
		case tc.wrong != "" && (err == nil || !strings.Contains(err.Error(), tc.wrong)):
			t.Errorf("%s: %v, want %q in it", tc.what, err, tc.wrong)
		}
	}
}

func TestCommandChecks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "device.yaml")
	if err := os.WriteFile(file, []byte("name: r\ntls: {cert: none.pem, key: none.pem}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := Command()
		cmd.SetArgs(args)
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	if _, err := run("--config", file, "--check"); err == nil || !strings.Contains(err.Error(), "none.pem") {
		t.Errorf("check with a certificate that is not there: %v", err)
	}
	out, err := run("--config", file, "--dump")
	if err != nil || !strings.Contains(out, "name: r\n") || !strings.Contains(out, "ring: 1024") {
		t.Errorf("dump: %v\n%s", err, out)
	}
	if _, err := run("--config", filepath.Join(t.TempDir(), "none.yaml")); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("no such file: %v", err)
	}
}
