package device

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"decaf/api/service"
)

// clientEvents is how many events each client is to see.
const clientEvents = 200

// startMutual runs an agent that asks its clients for certificates, and returns
// those of one.
func startMutual(t *testing.T) (*Agent, service.TLSFiles) {
	t.Helper()
	ca, err := service.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen = "r", "127.0.0.1:0"
	cfg.Fuse.CPU, cfg.Fuse.MemoryBytes = 1024, 1<<40 // the process is the test's too
	if cfg.TLS, err = ca.Issue("r", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	client, err := ca.Issue("collector.test")
	if err != nil {
		t.Fatal(err)
	}
	return runTold(t, cfg), client
}

// lines starts a client that dies with the test and returns what it prints, line
// by line.
func lines(t *testing.T, cmd *exec.Cmd) <-chan string {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := make(chan string, 1<<16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(out)
		s := bufio.NewScanner(stdout)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			out <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	})
	return out
}

// tellOnceSubscribed has the agent see drops as soon as somebody listens.
func tellOnceSubscribed(t *testing.T, a *Agent) {
	t.Helper()
	poll(t, "the client subscribes", func() bool { return a.State().Subscribers > 0 })
	for i := range clientEvents {
		a.told1([]string{PolicyL3ACL, NoBuffer, ErrorsL3RxTTL}[i%3], i, 0, time.Now())
	}
}

// gnmi_cli sees each event as one response, over mutual TLS.
func TestGNMICLISeesEachEventOnce(t *testing.T) {
	cli := filepath.Join(t.TempDir(), "gnmi_cli")
	if out, err := exec.Command("go", "build", "-o", cli, "github.com/openconfig/gnmi/cmd/gnmi_cli").CombinedOutput(); err != nil {
		t.Fatalf("build gnmi_cli: %v\n%s", err, out)
	}
	a, files := startMutual(t)
	cmd := exec.Command(cli, "-address", a.Addr(t.Context()).String(), "-ca_crt", files.CA, "-client_crt", files.Cert, "-client_key", files.Key,
		"-query", "/loss/events", "-query_type", "streaming", "-display_type", "proto")
	out := lines(t, cmd)
	tellOnceSubscribed(t, a)
	// A response begins with "update:" at the margin; its sequence is the value
	// of the leaf of that name.
	sequence := regexp.MustCompile(`json_val:\s*"(\d+)"`)
	responses, next, in := 0, 1, false
	timeout := time.After(30 * time.Second)
	for next <= clientEvents {
		select {
		case line, ok := <-out:
			if !ok {
				t.Fatalf("gnmi_cli ended after %d events", next-1)
			}
			switch {
			case strings.HasPrefix(line, "update:"):
				responses++
			case strings.Contains(line, `"sequence"`):
				in = true
			case in && sequence.MatchString(line):
				in = false
				if got := sequence.FindStringSubmatch(line)[1]; got != strconv.Itoa(next) || responses != next {
					t.Fatalf("event %s in response %d, want %d", got, responses, next)
				}
				next++
			}
		case <-timeout:
			t.Fatalf("gnmi_cli showed %d responses with %d events", responses, next-1)
		}
	}
}

// telegraf returns a Telegraf of the plug-ins that a collector of this agent
// needs, built when it is not there yet: most of a minute on two cores.
func telegraf(t *testing.T) string {
	t.Helper()
	const version = "v1.37.2"
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(cache, "decaf-test", "telegraf-"+version)
	path := filepath.Join(bin, "telegraf")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path
	}
	begin := time.Now()
	cmd := exec.Command("go", "install", "-tags", "custom,inputs.gnmi,outputs.file,serializers.influx,serializers.json", "github.com/influxdata/telegraf/cmd/telegraf@"+version)
	cmd.Dir = t.TempDir() // outside of this module
	cmd.Env = append(os.Environ(), "GOBIN="+bin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install Telegraf: %v\n%s", err, out)
	}
	t.Logf("built Telegraf %s in %s", version, time.Since(begin).Round(time.Second))
	return path
}

// Telegraf makes one metric of each event, over mutual TLS, in each encoding.
func TestTelegrafSeesEachEventOnce(t *testing.T) {
	bin := telegraf(t)
	for _, encoding := range []string{"proto", "json", "json_ietf"} {
		a, files := startMutual(t)
		conf := filepath.Join(t.TempDir(), "telegraf.conf")
		if err := os.WriteFile(conf, []byte(`
[agent]
  interval = "1s"
  flush_interval = "200ms"
  omit_hostname = true
  quiet = true
[[inputs.gnmi]]
  addresses = ["`+a.Addr(t.Context()).String()+`"]
  encoding = "`+encoding+`"
  tls_enable = true
  tls_ca = "`+files.CA+`"
  tls_cert = "`+files.Cert+`"
  tls_key = "`+files.Key+`"
  [[inputs.gnmi.subscription]]
    name = "drop"
    path = "/loss/events"
    subscription_mode = "target_defined"
[[outputs.file]]
  files = ["stdout"]
  data_format = "json"
  json_timestamp_units = "1ns"
`), 0o600); err != nil {
			t.Fatal(err)
		}
		out := lines(t, exec.Command(bin, "--config", conf))
		tellOnceSubscribed(t, a)
		seen := map[string]bool{}
		timeout := time.After(30 * time.Second)
		for len(seen) < clientEvents {
			select {
			case line, ok := <-out:
				if !ok {
					t.Fatalf("%s: Telegraf ended after %d events", encoding, len(seen))
				}
				var m struct {
					Name      string
					Tags      map[string]string
					Fields    map[string]any
					Timestamp int64
				}
				if err := json.Unmarshal([]byte(line), &m); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				field := func(name string) string {
					v, _ := json.Marshal(m.Fields["event/"+name])
					return strings.Trim(string(v), `"`)
				}
				n := field("state/sequence")
				if len(seen) == 0 {
					t.Log(line)
				}
				// All of the event is in the one metric, with its own time.
				switch {
				case m.Name != "drop" || m.Tags["slot"] != n || seen[n]:
					t.Fatalf("%s: %s", encoding, line)
				case !strings.Contains(field("state/class"), "/") && field("state/class") != NoBuffer,
					field("state/packet/source_address") == "null", field("state/packet/header") == "null", m.Timestamp == 0:
					t.Fatalf("%s: not whole: %s", encoding, line)
				}
				seen[n] = true
			case <-timeout:
				t.Fatalf("%s: Telegraf showed %d events of %d", encoding, len(seen), clientEvents)
			}
		}
	}
}
