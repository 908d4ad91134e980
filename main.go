// Decaf finds out which link or device lost a user's packets, and proves when
// the network did not. One binary: `decaf --help` lists what it can be.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"decaf/api"
	"decaf/api/service"
	"decaf/correlator/serve"
	"decaf/device"
	"decaf/hostagent"
	"decaf/sim"
	"decaf/topology"
	"decaf/tracer"
)

func main() {
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "decaf:", err)
		os.Exit(1)
	}
}

// command wires the parts into one program.
func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "decaf",
		Short: "Find out which link or device lost a user's packets",
		Long: `decaf finds out which link or device lost a user's packets, and proves when the
network did not. Agents on devices and hosts send evidence; the service joins it,
names the component at fault and answers fault reports.

Start with "decaf demo": as root on Linux on a network of namespaces, else on a
simulated one.`,
		Version:       service.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	const (
		try   = "try"
		run   = "run"
		query = "query"
	)
	root.AddGroup(&cobra.Group{ID: try, Title: "Try it:"}, &cobra.Group{ID: run, Title: "Run it:"}, &cobra.Group{ID: query, Title: "Ask it:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(try, sim.Commands()...)
	add(run, serve.Command(), device.Command(), hostagent.Command(), tracer.Command())
	add(query, api.ClientCommands()...)
	// `decaf topology` asks the service; check and clos work on files.
	if c, _, err := root.Find([]string{"topology"}); err == nil && c != root {
		for _, sub := range topology.Command().Commands() {
			c.AddCommand(sub)
		}
	}
	return root
}
