package topology

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

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
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a topology file and print what it holds",
		Long: `Check a topology file. Prints how many devices, hosts and links it holds, and
warns of what is allowed but worth a look. Every mistake is reported with its
line: duplicate names, links that dangle, addresses that overlap.

FILE may be - for standard input.`,
		Example:      "  decaf topology check fabric.yaml\n  decaf topology clos --pods 2 | decaf topology check -",
		Args:         cobra.ExactArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := loadOrStdin(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			return t.summary(cmd.OutOrStdout())
		},
	}
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
	cmd := &cobra.Command{
		Use:   "clos",
		Short: "Write the topology of a Clos fabric as YAML",
		Long: `Write the topology of a three-tier Clos fabric as YAML: in each pod every ToR is
joined to every T1, and every T1 to every T2.`,
		Example:      "  decaf topology clos --pods 2 --tors 2 --t1 2 --t2 2 --hosts 2 --file fabric.yaml",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := Clos(s)
			if err != nil {
				return err
			}
			text, err := t.Marshal()
			if err != nil {
				return err
			}
			if out == "" || out == "-" {
				_, err = cmd.OutOrStdout().Write(text)
			} else {
				err = os.WriteFile(out, text, 0o644)
			}
			if err != nil {
				return fmt.Errorf("write topology: %w", err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.Site, "site", "sim", "name of the site")
	f.IntVar(&s.Pods, "pods", 2, "pods")
	f.IntVar(&s.ToRs, "tors", 2, "top-of-rack switches per pod")
	f.IntVar(&s.T1s, "t1", 2, "tier-1 switches per pod")
	f.IntVar(&s.T2s, "t2", 2, "tier-2 switches in all")
	f.IntVar(&s.Hosts, "hosts", 2, "hosts per top-of-rack switch")
	f.StringVarP(&out, "file", "f", "", "file to write (default standard output)")
	return cmd
}

// summary prints the counts and the warnings.
func (t *Topology) summary(w io.Writer) error {
	tiers := make(map[string]int)
	var order []string
	agents := 0
	for _, d := range t.Devices {
		tier := d.Tier
		if tier == "" {
			tier = "no tier"
		}
		if tiers[tier]++; tiers[tier] == 1 {
			order = append(order, tier)
		}
		if d.GNMI != nil {
			agents++
		}
	}
	var perTier []string
	for _, tier := range order {
		perTier = append(perTier, fmt.Sprintf("%d %s", tiers[tier], tier))
	}
	addresses := make(map[string]bool)
	hostLinks := 0
	for _, l := range t.Links {
		if l.From.Addr.IsValid() {
			addresses[l.From.Addr.Addr().String()] = true
		}
		if _, ok := t.HostLink(l); ok {
			hostLinks++
		}
	}
	for _, h := range t.Hosts {
		for _, a := range h.Addresses {
			addresses[a.String()] = true
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(what string, n int, more string) {
		if more != "" {
			more = "  (" + more + ")"
		}
		fmt.Fprintf(tw, "%s\t%d%s\n", what, n, more)
	}
	if t.Site != "" {
		fmt.Fprintf(tw, "site\t%s\n", t.Site)
	}
	row("devices", len(t.Devices), strings.Join(perTier, ", "))
	row("with gNMI", agents, "")
	row("hosts", len(t.Hosts), "")
	row("links", len(t.Links), fmt.Sprintf("directed; %d of them to or from hosts", hostLinks))
	row("addresses", len(addresses), "")
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print summary: %w", err)
	}
	for _, warning := range t.warnings() {
		if _, err := fmt.Fprintf(w, "warning: %s\n", warning); err != nil {
			return fmt.Errorf("print summary: %w", err)
		}
	}
	return nil
}

// maxNamed is how many nodes a warning names.
const maxNamed = 5

// warnings are about what is allowed but will leave evidence without a place.
func (t *Topology) warnings() []string {
	var unlinked, unaddressed, bare, apart []string
	reach := t.reached()
	for _, d := range t.Devices {
		if len(t.LinksFrom(d.Name)) == 0 {
			unlinked = append(unlinked, d.Name)
		}
	}
	for _, h := range t.Hosts {
		switch links := t.LinksFrom(h.Name); {
		case len(links) == 0:
			unlinked = append(unlinked, h.Name)
		case !reach[h.Name]:
			apart = append(apart, h.Name)
		}
		if len(h.Addresses) == 0 && !slices.ContainsFunc(t.LinksFrom(h.Name), func(l *Link) bool { return l.From.Addr.IsValid() }) {
			unaddressed = append(unaddressed, h.Name)
		}
	}
	for _, l := range t.Links {
		if !l.From.Addr.IsValid() {
			bare = append(bare, l.From.String())
		}
	}
	var out []string
	for _, w := range []struct {
		nodes []string
		what  string
	}{
		{unlinked, "without a link, so on no path"},
		{apart, "that the first linked host cannot reach"},
		{unaddressed, "without an address, so no flow can be told to be theirs"},
		{bare, "without an address, so traced paths cannot name them"},
	} {
		if n := len(w.nodes); n > 0 {
			named := strings.Join(w.nodes[:min(n, maxNamed)], ", ")
			if n > maxNamed {
				named += fmt.Sprintf(" and %d more", n-maxNamed)
			}
			out = append(out, fmt.Sprintf("%d %s: %s", n, w.what, named))
		}
	}
	return out
}

// reached is the set of nodes with a path to the first host that has a link.
func (t *Topology) reached() map[string]bool {
	ix := t.index()
	set := make(map[string]bool)
	for _, h := range t.Hosts {
		if len(t.LinksFrom(h.Name)) == 0 {
			continue
		}
		for n, d := range t.field(ix.node[h.Name]).dist {
			if d >= 0 {
				set[ix.names[n]] = true
			}
		}
		break
	}
	return set
}
