package device

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"
)

// A policer and an ACL that log, and a rule that does not, at one place.
var (
	testRate = ruleWord{"rate-5", PolicyL3Policer}
	testACL  = ruleWord{"acl-12", PolicyL3ACL}
	testAt   = ports{"eth1", "eth2"}
	allRead  = ruleReadings{logs: true, counters: true}
)

func testShares() *ruleShares {
	return newRuleShares(&NFLOGConfig{Groups: []uint16{12}, Classes: []NFLOGClass{{"rate-", PolicyL3Policer}}})
}

// loggingRule is a rule of group 12 as the firewall lists it.
func loggingRule(handle uint64, prefix string, counts, drops bool, packets uint64) ruleRecord {
	return ruleRecord{family: nfInet, table: "t", chain: "c", handle: handle, prefix: prefix, logs: true, group: 12, counts: counts, drops: drops, packets: packets}
}

// sum adds up what was told, by word, and holds the drops against their number.
func (sum ruleSums) add(t *testing.T, drops uint64, parts []ruleDrops) {
	t.Helper()
	var n uint64
	for _, p := range parts {
		n += p.drops
		if p.known {
			sum[p.ruleWord] += p.drops
		} else {
			sum[ruleWord{reason: ruleNotKnown}] += p.drops
		}
	}
	if n != drops {
		t.Fatalf("%d of %d drops in %v", n, drops, parts)
	}
}

type ruleSums map[ruleWord]uint64

// While all logs are read what was held back is divided to the drop.
func TestHeldDropsByTheirLogs(t *testing.T) {
	r, now, told, truth := testShares(), time.Unix(1000, 0), ruleSums{}, ruleSums{}
	draw := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		now = now.Add(50 * time.Millisecond)
		var held uint64
		for range 30 + draw.IntN(200) {
			w := []ruleWord{testRate, testRate, testRate, testACL, {}}[draw.IntN(5)]
			if w != (ruleWord{}) {
				r.logged(now, w, testAt)
			}
			truth[w]++
			if draw.IntN(10) > 0 {
				held++
				continue
			}
			told[w]++ // it came as a record
			if w != (ruleWord{}) {
				r.named(now, w, testAt)
			} else if _, ok := r.unnamed(now, testAt, true); ok {
				t.Fatal("a drop without a log has the class of one")
			}
		}
		told.add(t, held, r.split(now, testAt, held, allRead))
	}
	for w, n := range truth {
		if told[w] != n {
			t.Errorf("%v: told of %d, want %d", w, told[w], n)
		}
	}
	if unknown, crowded := r.counts(); unknown != 0 || crowded != 0 || len(told) != len(truth) {
		t.Errorf("%d unknown, %d crowded, told %v", unknown, crowded, told)
	}
}

// A hundred times as many logs as are read: the shares are those of the logs that
// were, and how many there were in all is what the kernel's numbers say.
func TestHeldDropsWithLostLogs(t *testing.T) {
	r, now, told := testShares(), time.Unix(1000, 0), ruleSums{}
	var lost uint64
	for range 10 { // seconds, of 30,000 drops of the policer, 10,000 of the ACL, and 20,000 that nobody logs
		for beat := range 20 {
			now = now.Add(50 * time.Millisecond)
			whole := beat < 2
			if whole {
				for range 1500 {
					r.logged(now, testRate, testAt)
				}
				for range 500 {
					r.logged(now, testACL, testAt)
				}
			}
			if whole && beat == 0 {
				r.logsLost(now, lost) // the next number tells
			}
			told.add(t, 3000, r.split(now, testAt, 3000, ruleReadings{logs: whole}))
		}
		lost += 18 * 2000
	}
	for w, n := range map[ruleWord]float64{testRate: 300_000, testACL: 100_000, {}: 200_000} {
		if got := float64(told[w]); got < 0.99*n || got > 1.01*n {
			t.Errorf("%v: told of %g, want %g", w, got, n)
		}
	}
}

// What a rule counts is its, however few of its logs are read, and of two rules of
// one prefix too.
func TestHeldDropsByTheirCounters(t *testing.T) {
	r, now, told := testShares(), time.Unix(1000, 0), ruleSums{}
	var rate, acl uint64
	list := func() {
		r.list(now, []ruleRecord{
			loggingRule(1, "rate-5", true, true, 5+rate), loggingRule(2, "rate-5", true, true, rate),
			loggingRule(3, "acl-12", true, true, 77+acl), loggingRule(4, "seen", true, false, 1_000_000+rate),
		})
	}
	list()
	for i := range 100 {
		now = now.Add(50 * time.Millisecond)
		if i%20 == 0 { // one log of each is read, and of what is let through many
			r.logged(now, testRate, testAt)
			r.logged(now, testACL, testAt)
			for range 1000 {
				r.logged(now, ruleWord{"seen", PolicyL3ACL}, testAt)
			}
		}
		rate, acl = rate+400, acl+700
		list()
		told.add(t, 2500, r.split(now, testAt, 2500, ruleReadings{counters: true}))
	}
	if told[testRate] != 80_000 || told[testACL] != 70_000 || told[ruleWord{}] != 100_000 || len(told) != 3 {
		t.Errorf("told of %v", told)
	}
}

// Drops of which nothing is known have no rule; and a rule is not that of drops at
// interfaces where others are.
func TestHeldDropsOfUnknownRules(t *testing.T) {
	r, now, told := testShares(), time.Unix(1000, 0), ruleSums{}
	told.add(t, 10, r.split(now, testAt, 10, ruleReadings{}))
	if unknown, _ := r.counts(); unknown != 10 || told[ruleWord{reason: ruleNotKnown}] != 10 {
		t.Errorf("%d unknown, told of %v", unknown, told)
	}
	other := ports{"eth3", "eth4"}
	for range 100 {
		r.logged(now, testRate, testAt)
		r.logged(now, testACL, other)
	}
	if class, ok := r.unnamed(now, other, false); !ok || class != PolicyL3ACL {
		t.Errorf("a drop whose log was lost is %q, %v", class, ok)
	}
	told = ruleSums{}
	told.add(t, 100, r.split(now, testAt, 100, allRead))
	told.add(t, 99, r.split(now, other, 99, allRead))
	if told[testRate] != 100 || told[testACL] != 99 {
		t.Errorf("told of %v", told)
	}
	r.logged(now, testRate, other)
	if class, ok := r.unnamed(now, other, false); ok {
		t.Errorf("a drop of one of two rules is %q", class)
	}
	// A log may show fewer interfaces than the drop.
	r.logged(now, testRate, ports{"eth5", ""})
	told = ruleSums{}
	told.add(t, 1, r.split(now, ports{"eth5", "eth2"}, 1, allRead))
	if told[testRate] != 1 {
		t.Errorf("told of %v", told)
	}
}

// Rules beyond the room are counted, and those that are silent make room again; what
// nobody claimed wears off.
func TestRuleSharesAreBounded(t *testing.T) {
	r, now := testShares(), time.Unix(1000, 0)
	for i := range 2 * maxShares {
		r.logged(now, ruleWord{string(rune('a' + i)), PolicyL3ACL}, testAt)
	}
	if _, crowded := r.counts(); crowded != maxShares || r.followed != maxShares {
		t.Errorf("%d crowded, %d followed", crowded, r.followed)
	}
	now = now.Add(shareForget)
	for range 100_000 {
		r.logged(now, testRate, testAt)
	}
	if r.followed != 1 || len(r.words) != 1 {
		t.Errorf("%d followed of %d rules after they were silent", r.followed, len(r.words))
	}
	for range 9 {
		now = now.Add(shareWindow)
		r.logged(now, testRate, testAt)
	}
	told := ruleSums{}
	told.add(t, 10_000, r.split(now, testAt, 10_000, allRead))
	if n := told[testRate]; n < shareSlack || n > 2*shareSlack {
		t.Errorf("%d drops are of a rule whose logs nobody claimed", n)
	}
}

// apportion gives all, as the weights say, and over many times as they say too.
func TestApportion(t *testing.T) {
	list := []*ruleShare{{told: 1}, {told: 2}, {told: 0}, {told: 4}}
	var sum [4]uint64
	for range 700 {
		for i, n := range apportion(1, list, func(s *ruleShare) float64 { return s.told }, true) {
			sum[i] += n
		}
	}
	if sum != [4]uint64{100, 200, 0, 400} {
		t.Errorf("one by one %v", sum)
	}
	if got := apportion(10, list, func(s *ruleShare) float64 { return s.told }, false); got[0]+got[1]+got[3] != 10 || got[3] < 5 || got[2] != 0 {
		t.Errorf("ten at once %v", got)
	}
}

// A rule says whether it logs to a group, and whether what comes to its end is dropped.
func TestParseLoggingRule(t *testing.T) {
	verdict := func(code int32) []byte {
		v := nlAttr(nil, nftVerdictCode, binary.BigEndian.AppendUint32(nil, uint32(code))...)
		return nftExpr("immediate", nlAttr(nlAttr(nil, 1, 0, 0, 0, 0), nftImmediateData|0x8000, nlAttr(nil, nftDataVerdict|0x8000, v...)...))
	}
	load := nftExpr("immediate", nlAttr(nlAttr(nil, 1, 0, 0, 0, 1), nftImmediateData|0x8000, nlAttr(nil, 1, 0, 0, 0, 0)...)) // a value for a register
	group := nftExpr("log", nlAttr(nlAttr(nil, nftLogGroup, 0, 12), nftLogPrefix, []byte("rate-5: \x00")...))
	syslog := nftExpr("log", nlAttr(nil, nftLogPrefix, []byte("rate-5\x00")...))
	for _, tc := range []struct {
		what                string
		exprs               [][]byte
		logs, drops, counts bool
	}{
		{"logs and drops", [][]byte{group, verdict(nfDrop)}, true, true, false},
		{"counts too", [][]byte{nftCounter(3, 180), group, verdict(nfDrop)}, true, true, true},
		{"logs and accepts", [][]byte{group, verdict(1)}, true, false, false},
		{"logs and goes on", [][]byte{group}, true, false, false},
		{"jumps", [][]byte{group, verdict(-3)}, true, false, false},
		{"loads a value", [][]byte{load, group}, true, false, false},
		{"rejects", [][]byte{group, nftExpr("reject", nil)}, true, true, false},
		{"logs to the system", [][]byte{syslog, verdict(nfDrop)}, false, true, false},
	} {
		r, err := parseRule(nftRule(nfInet, "t", "c", 4, "", tc.exprs...))
		if err != nil {
			t.Fatalf("%s: %v", tc.what, err)
		}
		if r.logs != tc.logs || r.drops != tc.drops || r.counts != tc.counts || r.logs && r.group != 12 || r.prefix != "rate-5" {
			t.Errorf("%s: %+v", tc.what, r)
		}
	}
}

// TestFlowsOfADividedCause: where rules of several classes drop at one place a flow
// has as much in each class as is left when all of the others is its.
func TestFlowsOfADividedCause(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name = "r"
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	cause, s := [causeKeySize]byte{1}, newSketch(1, 7)
	s.write(0, cause, testFlow(1), 90)
	s.write(0, cause, testFlow(2), 10)
	a.divided.add(cause[:], PolicyL3Policer, 70)
	a.divided.add(cause[:], PolicyL3ACL, 30)
	flows := a.heldFlows(&told{}, &heldBack{causes: []heldCause{{cause, &record{reason: 1, inIf: 1, devIf: 2}}}, sketch: s})
	for class, least := range map[string]uint64{PolicyL3Policer: 60, PolicyL3ACL: 20} {
		key := aggregateKey{class, "eth1", "eth2"}
		if got, most := flows.least[key][testFlow(1)], flows.most(key, testFlow(1)); got != least || most != 90 {
			t.Errorf("%s: %d to %d packets, want %d to 90", class, got, most, least)
		}
		if got := flows.least[key][testFlow(2)]; got != 0 {
			t.Errorf("%s: %d packets of the small flow for certain", class, got)
		}
	}
	if len(a.divided) != 0 {
		t.Errorf("%v is divided still", a.divided)
	}
}
