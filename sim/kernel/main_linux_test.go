package kernel

import (
	"fmt"
	"os"
	"testing"
)

// childMode tells this test program, started again in a namespace of a fabric,
// what to be instead of running tests.
const childMode = "DECAF_KERNEL_TEST_CHILD"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(childMode); mode {
	case "":
		os.Exit(m.Run())
	case "traffic":
		cmd := TrafficCommand()
		cmd.SetArgs(os.Args[1:])
		if err := cmd.Execute(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "serve":
		serveChild()
	case "holder":
		holdFabric()
	default:
		fmt.Fprintln(os.Stderr, "no such mode:", mode)
		os.Exit(2)
	}
}
