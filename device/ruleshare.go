package device

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// shareWindow is how far back "lately" goes: what is older counts half as much,
	// and half again with each window.
	shareWindow = time.Second
	// shareForget is when a rule that was not heard of is forgotten, with what it is
	// still owed.
	shareForget = 10 * time.Second
	// maxShares bounds the rules that are followed, each at its interfaces; one takes
	// some 200 bytes.
	maxShares = 1024
	// shareSlack is how many drops of a rule may be on their way to the agent as
	// records. What nobody claims beyond that wears off.
	shareSlack = 512
)

// ruleWord is what a rule makes of a drop: the prefix of its log, and the class that
// this has. The empty one is that of all rules that do not log.
type ruleWord struct{ reason, class string }

// ports are the interfaces of a drop.
type ports struct{ ingress, egress string }

// ruleDrops are drops of one rule. known is false when nobody can tell which.
type ruleDrops struct {
	ruleWord
	known bool
	drops uint64
}

// ruleShares tells which rules dropped what the kernel held back: it counts that by
// place, reason and interfaces, and does not know the firewall's rules. So each rule
// has an account, at each pair of interfaces, of the drops that are known to be its
// and were not told of yet:
//
//   - by its own counter, where it has one and ends in a drop;
//   - else by its logs, of which the kernel numbers each: how many were lost is known
//     too, and they are taken to be whose the logs are that were read.
//
// What was held back is divided among the accounts. What they do not hold is of rules
// that do not log, unless there are logs still to be read, or counters older than the
// drops: then it is divided as lately, on credit, and the accounts pay for it when
// they are told. So each drop is in one class, and the classes' totals come right.
//
// A rule that logs and lets through has no account; nor has one that logs in front of
// another that drops, until a drop was seen with its log.
//
// Drops are counted as the firewall does: a segmentation offload packet is one. It
// does no I/O; the clock does not jump. It may be used concurrently.
type ruleShares struct {
	cfg *NFLOGConfig

	mu       sync.Mutex
	words    map[ruleWord]*ruleState // bounded by maxShares
	shares   map[ports]map[ruleWord]*ruleShare
	followed int // shares, of all ports
	silence  ruleState
	counters map[ruleID]uint64
	listed   bool
	lost     uint64 // logs, as last told
	turned   time.Time
	unknown  uint64 // drops of which the rule could not be told
	crowded  uint64 // logs and drops of rules that there was no room for
}

// ruleReadings are what was read up to a time: all logs, of which none were lost of
// late, and the rules' counters.
type ruleReadings struct{ logs, counters bool }

// ruleID is what a rule of the firewall keeps for as long as it is there.
type ruleID struct {
	family       uint8
	table, chain string
	handle       uint64
}

// ruleState is what the list of rules says of those of one word.
type ruleState struct {
	listed, drops, counts bool
	named                 bool // a drop was seen with its log
	shares                int
}

// owns reports whether drops can be its.
func (s *ruleState) owns() bool { return !s.listed || s.drops || s.named }

// ruleShare is the account of a rule at a pair of interfaces.
type ruleShare struct {
	ruleWord
	at    ports
	state *ruleState
	owed  float64 // drops that are its and were not told of; told on credit when less than 0
	read  float64 // logs lately
	told  float64 // drops lately
	carry float64 // of a drop, from dividing
	heard time.Time
}

func newRuleShares(cfg *NFLOGConfig) *ruleShares {
	return &ruleShares{cfg: cfg, words: map[ruleWord]*ruleState{}, shares: map[ports]map[ruleWord]*ruleShare{}, counters: map[ruleID]uint64{}}
}

// logged takes in a log that was read.
func (r *ruleShares) logged(now time.Time, w ruleWord, at ports) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	s := r.share(now, w, at)
	if s == nil {
		return
	}
	s.read++
	if !s.state.counts {
		s.owed++
	}
}

// logsLost takes in how many logs were lost in all.
func (r *ruleShares) logsLost(now time.Time, lost uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	n := less(lost, r.lost)
	r.lost = lost
	r.owe(float64(n), func(s *ruleShare) bool { return true }, func(s *ruleShare) bool { return !s.state.counts })
}

// owe divides drops among shares by the logs read of them lately; those who are not
// to have theirs do not. It reports whether there were any.
func (r *ruleShares) owe(n float64, among, have func(*ruleShare) bool) bool {
	var all float64
	for s := range r.all {
		if among(s) {
			all += s.read
		}
	}
	if n == 0 || all == 0 {
		return false
	}
	for s := range r.all {
		if among(s) && have(s) {
			s.owed += n * s.read / all
		}
	}
	return true
}

// named takes in a drop that came as a record and was found to be of a rule.
func (r *ruleShares) named(now time.Time, w ruleWord, at ports) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	s := r.shares[at][w]
	for _, near := range r.near(at) { // its log may have shown other interfaces
		if s == nil && near.ruleWord == w {
			s = near
		}
	}
	if s == nil {
		if s = r.share(now, w, at); s == nil {
			return
		}
	}
	s.state.named, s.heard = true, now
	s.owed--
	s.told++
}

// unnamed takes in a drop that came as a record without its log; whole says that
// there is none: all were read, and none was lost. Else the drop has the class that
// all have that are logged there, if there is no other.
func (r *ruleShares) unnamed(now time.Time, at ports, whole bool) (class string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	if whole {
		r.silent(now, at, 1)
		return "", false
	}
	list := r.near(at)
	one := len(list) > 0
	for _, s := range list {
		one = one && s.class == list[0].class
	}
	if silent := r.shares[at][ruleWord{}]; !one || silent != nil && silent.told >= 1 {
		r.unknown++
		return "", false
	}
	s := slices.MaxFunc(list, func(x, y *ruleShare) int { return cmp.Compare(x.owed, y.owed) })
	s.owed--
	s.told++
	return s.class, true
}

// split divides drops that were held back. upTo says what was read later than the
// drops were counted.
func (r *ruleShares) split(now time.Time, at ports, drops uint64, upTo ruleReadings) (out []ruleDrops) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	whole := r.suffice(upTo)
	list := r.near(at)
	given := make([]uint64, len(list))
	give := func(n uint64, weigh func(s *ruleShare) float64, carries bool) {
		for i, part := range apportion(n, list, weigh, carries) {
			given[i] += part
			list[i].owed -= float64(part)
			list[i].told += float64(part)
			if part > 0 {
				list[i].heard = now
			}
		}
	}
	owed := func(s *ruleShare) float64 { return max(s.owed, 0) }
	var pool float64
	for _, s := range list {
		pool += owed(s)
	}
	paid := min(drops, uint64(pool+0.5))
	give(paid, owed, false)
	rest := drops - paid
	var silent, unknown uint64
	switch {
	case rest == 0:
	case whole:
		silent = rest
		r.silent(now, at, rest)
	default:
		lately := func(s *ruleShare) float64 { return s.told }
		others := r.shares[at][ruleWord{}]
		var told, read float64
		for _, s := range list {
			told, read = told+s.told, read+s.read
		}
		if others != nil {
			told += others.told
		}
		if told == 0 {
			lately = func(s *ruleShare) float64 { return s.read }
		}
		if told+read == 0 {
			unknown = rest
			r.unknown += rest
			break
		}
		if others != nil {
			list, given = append(list, others), append(given, 0)
		}
		give(rest, lately, true)
		if others != nil {
			others.owed = 0 // there is no account of it
			silent = given[len(given)-1]
			list, given = list[:len(list)-1], given[:len(given)-1]
		}
	}
	for i, s := range list {
		if given[i] > 0 {
			out = append(out, ruleDrops{s.ruleWord, true, given[i]})
		}
	}
	if silent > 0 {
		out = append(out, ruleDrops{known: true, drops: silent})
	}
	if unknown > 0 {
		out = append(out, ruleDrops{drops: unknown})
	}
	return out
}

// suffice reports whether readings are all that there is to know.
func (r *ruleShares) suffice(have ruleReadings) bool {
	if !r.listed { // rules that nobody lists can only log
		return have.logs
	}
	for _, s := range r.words {
		if s.owns() && (s.counts && !have.counters || !s.counts && !have.logs) {
			return false
		}
	}
	return true
}

// apportion divides n by weights, by the largest remainders. What one is given too
// little or too much it carries on to the next time, if asked.
func apportion(n uint64, list []*ruleShare, weigh func(*ruleShare) float64, carries bool) []uint64 {
	out := make([]uint64, len(list))
	var all float64
	for _, s := range list {
		all += weigh(s)
	}
	if n == 0 || all == 0 {
		return out
	}
	wants := make([]float64, len(list)) // of what is left
	order := make([]int, len(list))
	left := n
	for i, s := range list {
		order[i] = i
		wants[i] = float64(n) * weigh(s) / all
		if carries {
			wants[i] += s.carry
		}
		out[i] = min(uint64(math.Floor(max(wants[i], 0))), left)
		left -= out[i]
		wants[i] -= float64(out[i])
	}
	for left > 0 {
		slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(wants[y], wants[x]) })
		for _, i := range order {
			if left > 0 && weigh(list[i]) > 0 {
				out[i]++
				wants[i]--
				left--
			}
		}
	}
	if carries {
		for i, s := range list {
			s.carry = wants[i]
		}
	}
	return out
}

// list takes in the rules of the firewall, as they are now: those that log to the
// agent.
func (r *ruleShares) list(now time.Time, rules []ruleRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	for _, s := range r.words {
		s.listed, s.drops, s.counts = false, false, false
	}
	words := make([]*ruleState, len(rules))
	at := make([]ruleWord, len(rules))
	for i := range rules {
		rule := &rules[i]
		if !rule.logs || !slices.Contains(r.cfg.Groups, rule.group) {
			continue
		}
		at[i] = ruleWord{ruleReason(rule.prefix, rule.group), r.cfg.class(rule.prefix, rule.family)}
		s := r.word(at[i])
		if s == nil {
			continue
		}
		words[i] = s
		if rule.drops {
			s.counts = rule.counts && (s.counts || !s.drops)
			s.drops = true
		}
		s.listed = true
	}
	counters := make(map[ruleID]uint64, len(rules))
	for i := range rules {
		rule, s := &rules[i], words[i]
		if s == nil || !s.counts || !rule.drops {
			continue
		}
		id := ruleID{rule.family, rule.table, rule.chain, rule.handle}
		before, known := r.counters[id]
		mine := func(s *ruleShare) bool { return s.ruleWord == at[i] }
		if !known { // new: but for what its logs told of, until now it has told of nothing
			before = rule.packets
			if r.listed && !r.heard(mine) {
				before = 0
			}
		}
		counters[id] = rule.packets
		if rise := less(rule.packets, before); rise > 0 && !r.owe(float64(rise), mine, mine) {
			counters[id] = before // its interfaces are not known yet
		}
	}
	r.counters, r.listed = counters, true
	for w, s := range r.words {
		if !s.listed && s.shares == 0 {
			delete(r.words, w)
		}
	}
}

func (r *ruleShares) heard(of func(*ruleShare) bool) bool {
	for s := range r.all {
		if of(s) {
			return true
		}
	}
	return false
}

// counting reports whether a rule's counter is used.
func (r *ruleShares) counting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.counters) > 0
}

// counts returns drops of which the rule could not be told, and logs of rules that
// there was no room for.
func (r *ruleShares) counts() (unknown, crowded uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unknown, r.crowded
}

// silent takes in drops of rules that do not log.
func (r *ruleShares) silent(now time.Time, at ports, drops uint64) {
	if s := r.share(now, ruleWord{}, at); s != nil {
		s.told += float64(drops)
	}
}

// near lists the accounts of rules that may have dropped at interfaces, in a fixed
// order: a log may show fewer of them than the drop, or others.
func (r *ruleShares) near(at ports) (list []*ruleShare) {
	take := func(s *ruleShare) {
		if s.ruleWord != (ruleWord{}) && s.state.owns() {
			list = append(list, s)
		}
	}
	for _, s := range r.shares[at] {
		take(s)
	}
	for _, fits := range [...]func(p ports) bool{func(p ports) bool { return p.ingress == at.ingress }, func(ports) bool { return true }} {
		if len(list) > 0 {
			break
		}
		for s := range r.all {
			if fits(s.at) {
				take(s)
			}
		}
	}
	slices.SortFunc(list, func(x, y *ruleShare) int {
		return cmp.Or(cmp.Compare(x.reason, y.reason), cmp.Compare(x.class, y.class), cmp.Compare(x.at.ingress, y.at.ingress), cmp.Compare(x.at.egress, y.at.egress))
	})
	return list
}

func (r *ruleShares) all(yield func(*ruleShare) bool) {
	for _, of := range r.shares {
		for _, s := range of {
			if !yield(s) {
				return
			}
		}
	}
}

// share returns an account, nil when there is no room for it.
func (r *ruleShares) share(now time.Time, w ruleWord, at ports) *ruleShare {
	s := r.shares[at][w]
	if s == nil {
		state := r.word(w)
		if state == nil || r.followed >= maxShares {
			r.crowded++
			return nil
		}
		if r.shares[at] == nil {
			r.shares[at] = map[ruleWord]*ruleShare{}
		}
		s = &ruleShare{ruleWord: w, at: at, state: state}
		r.shares[at][w] = s
		state.shares++
		r.followed++
	}
	s.heard = now
	return s
}

func (r *ruleShares) word(w ruleWord) *ruleState {
	if w == (ruleWord{}) {
		return &r.silence
	}
	s := r.words[w]
	if s == nil && len(r.words) < maxShares {
		s = &ruleState{}
		r.words[w] = s
	}
	return s
}

// turn lets time pass.
func (r *ruleShares) turn(now time.Time) {
	if now.Sub(r.turned) < shareWindow {
		return
	}
	r.turned = now
	for at, of := range r.shares {
		maps.DeleteFunc(of, func(w ruleWord, s *ruleShare) bool {
			s.read, s.told = s.read/2, s.told/2
			s.owed -= max(s.owed-shareSlack, 0) / 2
			if now.Sub(s.heard) < shareForget {
				return false
			}
			if s.state.shares--; s.state.shares == 0 && !s.state.listed {
				delete(r.words, w)
			}
			r.followed--
			return true
		})
		if len(of) == 0 {
			delete(r.shares, at)
		}
	}
}
