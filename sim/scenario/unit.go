package scenario

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/VictoriaMetrics/VictoriaMetrics/lib/promutils"
)

// maxDuration bounds every time of a scenario; a week of packets is more than
// any fabric is asked for.
const maxDuration = 7 * 24 * time.Hour

var (
	durationText = regexp.MustCompile(`(?i)^(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d|w|y))+$`)
	durationPart = regexp.MustCompile(`(?i)([0-9.]+)(ms|s|m|h|d|w|y)`)
	partSeconds  = map[string]float64{"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
)

// parseDuration reads VictoriaMetrics' syntax (1h30m, 40s, 0.5s) by its own
// parser, to the millisecond. The parser multiplies without looking for
// overflow, takes a step unit and signs: what may reach it is checked before.
func parseDuration(s string) (time.Duration, error) {
	if !durationText.MatchString(s) || len(s) > 64 {
		return 0, fmt.Errorf("%q is no duration: write it like 40s, 500ms or 1h30m", s)
	}
	var seconds float64
	for _, part := range durationPart.FindAllStringSubmatch(s, -1) {
		n, err := strconv.ParseFloat(part[1], 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration: write it like 40s, 500ms or 1h30m", s)
		}
		seconds += n * partSeconds[strings.ToLower(part[2])]
	}
	if seconds > maxDuration.Seconds() {
		return 0, fmt.Errorf("%s is more than the longest time, 7d", s)
	}
	d, err := promutils.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration: %w", s, err)
	}
	return d, nil
}

// parseShare reads a share of a whole: 1%, 0.01, 1e-6. The result is in [0, 1].
func parseShare(s string) (float64, error) {
	number, percent := strings.CutSuffix(s, "%")
	v, err := parseNumber(strings.TrimSpace(number))
	if err != nil {
		return 0, fmt.Errorf("%q is no share: write it like 1%%, 0.01 or 1e-6", s)
	}
	if percent {
		v /= 100
	}
	if v < 0 || v > 1 {
		return 0, fmt.Errorf("%s is not within 0 and 100%%", s)
	}
	return v, nil
}

// parseRate reads how often per time: 10/s, 600/m, 5/h. The result is per second.
func parseRate(s string) (float64, error) {
	number, unit, ok := strings.Cut(s, "/")
	per, known := map[string]float64{"s": 1, "m": 60, "h": 3600}[strings.TrimSpace(unit)]
	v, err := parseNumber(strings.TrimSpace(number))
	if !ok || !known || err != nil || v < 0 || v > 1e6 {
		return 0, fmt.Errorf("%q is no rate: write it like 10/s, at most 1000000/s", s)
	}
	return v / per, nil
}

// parseNumber is a finite number in decimal notation.
func parseNumber(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || strings.ContainsAny(s, "xX_") {
		return 0, fmt.Errorf("%q is no number", s)
	}
	return v, nil
}

// maxPackets bounds the data packets of one connection.
const maxPackets = 1_000_000

// span is a range of whole numbers, both ends in it.
type span struct{ lo, hi int }

// parseRange reads 1..100, or 50 for 50..50.
func parseRange(s string) (span, error) {
	from, to, ok := strings.Cut(s, "..")
	if !ok {
		to = from
	}
	lo, err1 := strconv.Atoi(strings.TrimSpace(from))
	hi, err2 := strconv.Atoi(strings.TrimSpace(to))
	switch {
	case err1 != nil || err2 != nil:
		return span{}, fmt.Errorf("%q is no range: write it like 1..100", s)
	case lo < 1 || hi > maxPackets:
		return span{}, fmt.Errorf("%s is not within 1..%d", s, maxPackets)
	case lo > hi:
		return span{}, fmt.Errorf("%s runs backwards; did you mean %d..%d?", s, hi, lo)
	}
	return span{lo, hi}, nil
}

// parsePattern reads uniform, skew(0.8, 0.25) or hot(p0-tor0, 0.5).
func parsePattern(s string) (Pattern, error) {
	kind, rest, call := strings.Cut(strings.TrimSpace(s), "(")
	p := Pattern{Kind: strings.TrimSpace(kind)}
	if call {
		inner, ok := strings.CutSuffix(strings.TrimSpace(rest), ")")
		if !ok {
			return Pattern{}, fmt.Errorf("%q: the closing parenthesis is missing", s)
		}
		for arg := range strings.SplitSeq(inner, ",") {
			p.Args = append(p.Args, strings.TrimSpace(arg))
		}
	}
	var err error
	switch {
	case p.Kind == "uniform" && !call:
	case p.Kind == "skew" && len(p.Args) == 2:
		if p.Share, err = parseShare(p.Args[0]); err == nil {
			p.ToRs, err = parseShare(p.Args[1])
		}
		if err == nil && p.ToRs == 0 {
			err = fmt.Errorf("skew towards no ToR at all: give a part above 0")
		}
	case p.Kind == "hot" && len(p.Args) == 2:
		p.ToR = p.Args[0]
		p.Share, err = parseShare(p.Args[1])
	default:
		err = fmt.Errorf("%q is no pattern: write uniform, skew(0.8, 0.25) or hot(p0-tor0, 0.5)", s)
	}
	if err != nil {
		return Pattern{}, err
	}
	return p, nil
}
