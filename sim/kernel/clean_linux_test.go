package kernel

import (
	"os"
	"testing"
	"time"
)

// cleanRun is how long the run without faults lasts, from DECAF_CLEAN_RUN.
func cleanRun(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("DECAF_CLEAN_RUN")
	if s == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("DECAF_CLEAN_RUN: %v", err)
	}
	return d
}

// A run without faults has no retransmits but a few that come of the machine
// being busy: nothing but faults drops or reorders.
func TestNoRetransmitsWithoutFaults(t *testing.T) {
	f := build(t, standard)
	hosts := hostNames(f)
	tr := startTraffic(t, f, standardTraffic)
	end := time.Now().Add(cleanRun(t))
	eventually(t, time.Until(end)+time.Second, "the time is up", func() bool { return time.Now().After(end) })
	s := tr.stop(t)
	segments := counter(t, f, hosts, "Tcp", "OutSegs")
	retrans := counter(t, f, hosts, "Tcp", "RetransSegs")
	t.Logf("%d connections, %d data packets, %d segments, %d retransmitted, %d failed", s.Completed, s.SentPackets, segments, retrans, s.Failed)
	for _, name := range []string{"TCPLossProbes", "TCPFastRetrans", "TCPTimeouts", "TCPSpuriousRTOs", "TCPDSACKRecv", "TCPOFOQueue", "TCPSACKReorder", "TCPSynRetrans", "TCPBacklogDrop", "TCPRcvQDrop"} {
		t.Logf("%s %d", name, counter(t, f, hosts, "TcpExt", name))
	}
	if s.Failed > 0 || s.Skipped > 0 {
		t.Errorf("traffic %+v", s)
	}
	if retrans > segments/1000 {
		t.Errorf("%d of %d segments retransmitted without a fault", retrans, segments)
	}
}
