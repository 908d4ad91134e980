package api

import (
	"strings"
	"time"

	"decaf/api/decafpb"
)

// A queue that overflows is no fault and lasts for moments: shown with its time,
// not as a class of drops alone.

// classCongestion is the class of what an overflowing queue dropped.
const classCongestion = "no-buffer"

// Classes of losses that no device told of: those that would have seen them tell of all
// that they drop, and told of nothing; or nobody would have told, or it is not known yet
// whether a queue overflows or the link is at fault.
const (
	classSilent  = "silent"
	classUnknown = "unknown"
)

// congestion says in words when a finding's queue overflowed: "congestion
// 12:00:03–12:00:05", while it is open "congestion since 12:00:03"; "" for a finding
// of any other class.
func congestion(f *decafpb.Finding) string {
	if f.Class != classCongestion && !strings.HasPrefix(f.Class, classCongestion+"/") {
		return ""
	}
	clock := func(ns uint64) string { return time.Unix(0, int64(ns)).UTC().Format(time.TimeOnly) }
	switch {
	case timeText(f.FromNs) == "":
		return ""
	case f.ResolvedNs == 0 || timeText(f.LastNs) == "":
		return "congestion since " + clock(f.FromNs)
	}
	return "congestion " + clock(f.FromNs) + "–" + clock(f.LastNs)
}

// what is the class of a finding for people.
func (f FindingView) what() string {
	switch {
	case f.Congestion != "":
		return f.Congestion
	case f.Class == "":
		return classUnknown
	}
	return f.Class
}

// words is the class of a finding as a sentence.
func (f FindingView) words() string {
	if f.Congestion != "" {
		return strings.ToUpper(f.Congestion[:1]) + f.Congestion[1:] + " UTC: a queue overflowed; the link itself is not at fault."
	}
	return classWords(f.Class)
}
