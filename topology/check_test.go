package topology

import (
	"strings"
	"testing"
)

// Each case is a file, its mistakes and their lines.
func TestMistakesInFiles(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"empty", "", []string{"t.yaml:1: the topology is empty: give site, devices, hosts and links"}},
		{"not a mapping", "- a\n", []string{"t.yaml:1: the file must be a mapping (key: value), not a list"}},
		{"unknown key", "site: east\ndevice: []\n", []string{`t.yaml:2: unknown key "device"; did you mean "devices"?`}},
		{"unknown key deep in", `
devices:
  - name: s1
    gnmi:
      adress: 10.0.0.1:9339
`, []string{
			"t.yaml:5: address is missing",
			`t.yaml:5: unknown key "adress"; did you mean "address"?`,
		}},
		{"duplicate names", `
devices:
  - {name: s1}
  - {name: s1}
hosts:
  - {name: h1}
  - {name: s1}
  - {name: h1}
`, []string{
			`t.yaml:4: device "s1" has the name of another device (first on line 3): names must differ, of devices and hosts alike`,
			`t.yaml:7: host "s1" has the name of another device (first on line 3): names must differ, of devices and hosts alike`,
			`t.yaml:8: host "h1" has the name of another host (first on line 6): names must differ, of devices and hosts alike`,
		}},
		{"names that are no subject tokens", `
site: east.1
devices:
  - {name: "a.b"}
  - {name: "a>b"}
  - {name: -x}
  - {tier: t1}
  -
  - s1
  - {name: x, tier: "t 1"}
`, []string{
			`t.yaml:2: site "east.1": use letters, digits, - and _ only, beginning with a letter or digit`,
			`t.yaml:4: device "a.b": use letters`,
			`t.yaml:5: device "a>b": use letters`,
			`t.yaml:6: device "-x": use letters`,
			`t.yaml:7: device has no name`,
			`t.yaml:8: device has no name`,
			`t.yaml:9: devices[5] must be a mapping (key: value), not a single value`,
			`t.yaml:10: tier of device "x" "t 1": use letters`,
		}},
		{"dangling links", `
devices:
  - {name: leaf1}
  - {name: leaf2}
links:
  - {a: "leaf1:eth1", b: "leef2:eth1"}
  - {a: "leaf1:eth2", b: "gone-far-away:eth1"}
  - {a: "leaf1:eth3"}
  - {a: leaf1, b: "leaf2:eth9"}
  - {a: "leaf1:eth4", b: "leaf2:e 4"}
`, []string{
			`t.yaml:6: link end leef2:eth1: no device or host is named "leef2"; did you mean "leaf2"?`,
			`t.yaml:7: link end gone-far-away:eth1: no device or host is named "gone-far-away"`,
			`t.yaml:8: b is missing`,
			`t.yaml:9: link end "leaf1": write node:interface, such as p0-tor0:eth1`,
			`t.yaml:10: link end leaf2:e 4: interface name "e 4": use letters, digits and -_./: only`,
		}},
		{"an interface with two links", `
devices: [{name: a}, {name: b}, {name: c}]
links:
  - {a: "a:e1", b: "b:e1"}
  - {a: "a:e1", b: "c:e1"}
  - {a: "c:e2", b: "c:e2"}
  - {a: "c:e3", b: "c:e4"}
`, []string{
			`t.yaml:5: interface a:e1 already ends another link (first on line 4)`,
			`t.yaml:6: interface c:e2 already ends another link (first on line 6)`,
			`t.yaml:7: link joins c to itself`,
		}},
		{"addresses on links", `
devices: [{name: a}, {name: b}]
links:
  - {a: "a:e1", a_addr: 10.0.0.0/31, b: "b:e1", b_addr: 10.0.0.1/31}
  - {a: "a:e2", a_addr: 10.0.0.0/31, b: "b:e2", b_addr: 10.0.0.3/31}
  - {a: "a:e3", a_addr: 10.0.1.0/31, b: "b:e3", b_addr: 10.0.1.2/31}
  - {a: "a:e4", a_addr: 10.0.2.0/31, b: "b:e4"}
  - {a: "a:e5", a_addr: 10.0.3.1,    b: "b:e5", b_addr: 10.0.3.2/30}
  - {a: "a:e6", a_addr: 0.0.0.0/31,  b: "b:e6", b_addr: 0.0.0.1/31}
  - {a: "a:e7", a_addr: 10.0.4.1/24, b: "b:e7", b_addr: 10.0.4.2/24}
  - {a: "a:e8", a_addr: 10.0.4.8/31, b: "b:e8", b_addr: 10.0.4.9/31}
  - a: "a:e9"
    a_addr: 2001:db8::/127
    b: "b:e9"
    b_addr: 2001:db8::2/127
`, []string{
			`t.yaml:5: overlapping addresses: 10.0.0.0 of a:e2 already belongs to a:e1 (first on line 4)`,
			`t.yaml:6: link a:e3>b:e3: 10.0.1.0/31 and 10.0.1.2/31 are not of one subnet`,
			`t.yaml:7: link a:e4>b:e4: b_addr is missing while a_addr is given`,
			`t.yaml:8: address "10.0.3.1" of a:e5: write address/length, such as 10.128.0.0/31`,
			`t.yaml:9: address of a:e6: 0.0.0.0 cannot be one node's own address`,
			`t.yaml:11: overlapping addresses: 10.0.4.8/31 of link a:e8>b:e8 overlaps 10.0.4.0/24 of link a:e7>b:e7 (first on line 10)`,
			`t.yaml:15: link a:e9>b:e9: 2001:db8::/127 and 2001:db8::2/127 are not of one subnet`,
		}},
		{"two addresses on a link", `
devices: [{name: a}, {name: b}]
links:
  - {a: "a:e1", a_addr: 10.0.0.0/31, a_addr6: "fd00::/127", b: "b:e1", b_addr: 10.0.0.1/31, b_addr6: "fd00::1/127"}
  - {a: "a:e2", a_addr: 10.0.0.2/31, a_addr6: "fd00::1/127", b: "b:e2", b_addr: 10.0.0.3/31, b_addr6: "fd00::/127"}
  - {a: "a:e3", a_addr: 10.0.1.0/31, a_addr6: "fd00::2/127", b: "b:e3", b_addr: 10.0.1.1/31}
  - {a: "a:e4", a_addr6: "fd00::4/127", b: "b:e4", b_addr6: "fd00::5/127"}
  - {a: "a:e5", a_addr: 10.0.2.0/31, a_addr6: 10.0.3.0/31, b: "b:e5", b_addr: 10.0.2.1/31, b_addr6: 10.0.3.1/31}
  - {a: "a:e6", a_addr6: "fd00::6", b: "b:e6"}
`, []string{
			`t.yaml:5: overlapping addresses: fd00::1 of a:e2 already belongs to b:e1 (first on line 4)`,
			`t.yaml:5: overlapping addresses: fd00:: of b:e2 already belongs to a:e1 (first on line 4)`,
			`t.yaml:6: link a:e3>b:e3: b_addr6 is missing while a_addr6 is given`,
			`t.yaml:7: link a:e4>b:e4: a_addr6 is for an IPv6 address beside the IPv4 address in a_addr`,
			`t.yaml:8: link a:e5>b:e5: a_addr6 is for an IPv6 address beside the IPv4 address in a_addr`,
			`t.yaml:9: address "fd00::6" of a:e6: write address/length, such as fd0a::a80:0/127`,
		}},
		{"addresses of hosts", `
devices: [{name: s}]
hosts:
  - {name: h1, addresses: [10.0.0.1]}
  - {name: h2, addresses: [10.0.0.3, 10.0.0.3, 10.0.0.1]}
  - name: h3
    addresses:
      - 10.0.0.2
      - 10.1.0.77
      - "::ffff:10.2.0.1"
      - fe80::1%eth0
      - 10.2.0.0/24
links:
  - {a: "s:e1", a_addr: 10.0.0.0/31, b: "h1:eth0", b_addr: 10.0.0.1/31}
  - {a: "s:e2", a_addr: 10.0.0.2/31, b: "h2:eth0", b_addr: 10.0.0.3/31}
  - {a: "s:e3", a_addr: 10.1.0.1/24, b: "h1:eth1", b_addr: 10.1.0.2/24}
`, []string{
			`t.yaml:5: overlapping addresses: 10.0.0.1 of host h2 belongs to h1:eth0 (first on line 14)`,
			`t.yaml:8: overlapping addresses: 10.0.0.2 of host h3 belongs to s:e2 (first on line 15)`,
			`t.yaml:9: overlapping addresses: 10.1.0.77 of host h3 lies in 10.1.0.0/24 of the link s:e3>h1:eth1 (first on line 16)`,
			`t.yaml:10: address of host h3: write ::ffff:10.2.0.1 as the IPv4 address 10.2.0.1`,
			`t.yaml:11: address of host h3: fe80::1%eth0 has a zone; give a routable address`,
			`t.yaml:12: address "10.2.0.0/24" of host h3 is not an IP address such as 10.0.0.2`,
		}},
		{"gnmi and tags", `
devices:
  - {name: a, gnmi: {address: 10.0.0.1}}
  - {name: b, gnmi: {address: "10.0.0.1:99999"}}
  - {name: c, gnmi: {address: "10.0.0.1:1", tls: {cert: c.pem}}}
  - {name: d, gnmi: 10.0.0.1}
  - {name: e, tags: {"a b": c}}
  - {name: f, tags: [c]}
  - {name: g, gnmi: {address: "10.0.0.1:1", username: noc}}
  - {name: h, gnmi: {address: "10.0.0.1:1", password_file: p}}
  - {name: i, gnmi: {address: "10.0.0.1:1", username: "n c", password_file: "p\x01"}}
  - {name: j, gnmi: {address: "10.0.0.1:1", usrname: noc}}
`, []string{
			`t.yaml:3: gnmi address "10.0.0.1" of device a: give host:port, such as 192.0.2.11:9339`,
			`t.yaml:4: gnmi address "10.0.0.1:99999" of device b: give host:port, such as 192.0.2.11:9339`,
			`t.yaml:5: gnmi tls of device c: give cert and key both, or neither`,
			`t.yaml:6: gnmi must be a mapping (key: value), not a single value`,
			`t.yaml:7: tag "a b" of e: use letters, digits and -_./ only`,
			`t.yaml:8: tags must be a mapping (key: value), not a list`,
			`t.yaml:9: gnmi of device g: give username and password_file both, or neither`,
			`t.yaml:10: gnmi of device h: give username and password_file both, or neither`,
			`t.yaml:11: gnmi username "n c" of device i: use at most 128 printable ASCII characters without spaces`,
			`t.yaml:11: gnmi password_file of device i: "p\x01" is no file name`,
			`t.yaml:12: unknown key "usrname"; did you mean "username"?`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("t.yaml", []byte(c.text))
			if err == nil {
				t.Fatal("no error")
			}
			got := err.Error()
			for _, want := range c.want {
				if !strings.Contains("\n"+got, "\n"+want) {
					t.Errorf("no line %q in:\n%s", want, got)
				}
			}
			if n := strings.Count(got, "\n") + 1; n != len(c.want) {
				t.Errorf("%d mistakes, want %d:\n%s", n, len(c.want), got)
			}
		})
	}
}

// The same checks hold for topologies built in code; there is no line to name.
func TestNewChecksToo(t *testing.T) {
	_, err := New("east", []*Device{{Name: "a"}, {Name: "a"}}, nil, []Cable{{A: Interface{Node: "a", Name: "e1"}, B: Interface{Node: "b", Name: "e1"}}})
	want := `device "a" has the name of another device: names must differ, of devices and hosts alike
link end b:e1: no device or host is named "b"`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}
