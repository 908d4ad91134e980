package topology

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// Command gives `decaf topology` with its verbs check and clos.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topology",
		Short: "Check topology files, or write one for a Clos fabric",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(checkCommand(), closCommand())
	return cmd
}

func checkCommand() *cobra.Command {
	var asJSON bool
	packets, icmp := "1..100", 100.
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a topology file and print what it holds and what can be found on it",
		Long: `Check a topology file. Prints how many devices, hosts and links it holds, and
warns of what is allowed but worth a look. Every mistake is reported with its
line: duplicate names, links that dangle, addresses that overlap.

Then, for a three-tier Clos, what votes of retransmitting flows are sure to find
(Theorem 2 of 007, NSDI 2018): how many links between switches may be bad at
once, and how much good links may lose at most while all bad ones still rank
first. Longer connections raise the second number, --packets says how long they
are. It is a bound for votes alone; the fused method, which also knows the flows
without loss, is not held to it. Last, how many traces per second each host may
send so that no switch has to answer more than --icmp of their packets. On
another network it says why nothing is known.

Where nobody has such a file, "decaf trace HOST:PORT --all-paths --learn FILE" writes
one of the ways it found, which is checked and used as any other.

FILE may be - for standard input. Up to 16 MiB any YAML is read; larger files,
up to 256 MiB, in the form that "topology clos" writes: one device, host or link
a line.`,
		Example: `  decaf topology check fabric.yaml
  decaf topology check fabric.yaml --packets 50..1000
  decaf topology check fabric.yaml --json | jq .detection.max_bad_links
  decaf topology clos --pods 2 --tors 20 --t1 8 --t2 10 --hosts 40 | decaf topology check -`,
		Args:         cobra.ExactArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			lo, hi, err := parsePackets(packets)
			if err != nil {
				return err
			}
			if !(icmp > 0 && icmp <= 1e9) {
				return fmt.Errorf("--icmp is %g: give the ICMP replies per second that a switch may send, such as 100", icmp)
			}
			t, err := loadOrStdin(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			s := t.summarize()
			s.Detection = t.detect(lo, hi, icmp)
			if asJSON {
				return s.writeJSON(cmd.OutOrStdout())
			}
			return s.writeTable(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.StringVar(&packets, "packets", packets, "fewest..most packets of a connection")
	f.Float64Var(&icmp, "icmp", icmp, "ICMP replies per second that a switch may send")
	return cmd
}

// parsePackets reads "1..100".
func parsePackets(s string) (lo, hi int, err error) {
	from, to, ok := strings.Cut(s, "..")
	lo, errLo := strconv.Atoi(from)
	hi, errHi := strconv.Atoi(to)
	if !ok || errLo != nil || errHi != nil || lo < 1 || hi < lo || hi > 1e9 {
		return 0, 0, fmt.Errorf("--packets is %q: give fewest..most, such as 1..100", s)
	}
	return lo, hi, nil
}

func loadOrStdin(name string, stdin io.Reader) (*Topology, error) {
	if name != "-" {
		return Load(name)
	}
	return read("standard input", stdin)
}

func closCommand() *cobra.Command {
	var s ClosSpec
	var out string
	ip := s.IP.String()
	cmd := &cobra.Command{
		Use:   "clos",
		Short: "Write the topology of a Clos fabric as YAML",
		Long: `Write the topology of a three-tier Clos fabric as YAML: in each pod every ToR is
joined to every T1, and every T1 to every T2. Devices are named p0-tor0, p0-t1-0
and t2-0, hosts p0-tor0-h0; every interface has an address out of 10.0.0.0/8, with
--ip both an IPv6 address beside it and with --ip 6 that alone, which is fd0a:: and
the IPv4 address.`,
		Example: `  decaf topology clos --pods 2 --tors 2 --t1 2 --t2 2 --hosts 2 --file fabric.yaml
  decaf topology clos --pods 2 --tors 20 --t1 8 --t2 10 --hosts 40     # the set-up of 007: 4160 directed links
  decaf topology clos --pods 40 --tors 64 --t1 32 --t2 64 --hosts 128 | wc -l   # near the limit of 1048576`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if s.IP, err = ParseIP(ip); err != nil {
				return fmt.Errorf("--ip: %w", err)
			}
			t, err := Clos(s)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if out != "" && out != "-" {
				f, err := os.Create(out)
				if err != nil {
					return fmt.Errorf("write topology: %w", err)
				}
				return errors.Join(t.write(f), f.Close())
			}
			return t.write(w)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.Site, "site", "sim", "name of the site")
	f.IntVar(&s.Pods, "pods", 2, "pods")
	f.IntVar(&s.ToRs, "tors", 2, "top-of-rack switches per pod")
	f.IntVar(&s.T1s, "t1", 2, "tier-1 switches per pod")
	f.IntVar(&s.T2s, "t2", 2, "tier-2 switches in all")
	f.IntVar(&s.Hosts, "hosts", 2, "hosts per top-of-rack switch")
	f.StringVar(&ip, "ip", ip, "versions of the Internet Protocol: 4, 6 or both")
	f.StringVarP(&out, "file", "f", "", "file to write (default standard output)")
	return cmd
}
