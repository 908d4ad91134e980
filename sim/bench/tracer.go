package bench

// tracerBench is "decaf sim bench tracer".
var tracerBench = bench{
	name:  "tracer",
	short: "Measure traces: one path, all paths, from retransmit to path, and other tools beside",
	long: `Measure the tracer on a fan of four equal paths, h1 - r1 - s1..s4 - r2 - h2, with
switches that hash the whole five-tuple:

  - one path in a running process and as a fresh "decaf trace";
  - all paths as a fresh "decaf trace --all-paths";
  - a live flow over links of 1 Gbit/s, which it fills until they drop, with a hundred
    traces of it and without in turn: what it gets through and sends again; and one
    as fast as the machine lets it, whose losses are those of the processors' own
    backlogs;
  - under traffic with 1 % loss on each path: from the retransmission to its path,
    and how many of the paths are those that the flows' own packets took, as seen
    at the switches;
  - ICMP answers per second of the busiest switch meanwhile;
  - traceroute -T, tcptraceroute, mtr and scamper on the same fan, where installed:
    time, packets sent and paths found.

All of it for IPv4, then for IPv6, whose figures are named ..._ipv6.

--duration is for a tenth of the traffic, --pairs the number of fresh processes.`,
	run: runTracer,
}
