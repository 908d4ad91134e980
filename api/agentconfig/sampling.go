package agentconfig

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Sampling lists n of m connections: always the same ones, so that one that is
// listed is so in every interval. The zero value lists all.
type Sampling struct{ N, M uint64 }

// maxSampling bounds m.
const maxSampling = 1_000_000

// ParseSampling reads "1/10", or "all".
func ParseSampling(s string) (Sampling, error) {
	if s == "all" {
		return Sampling{}, nil
	}
	bad := fmt.Errorf("%q: write n/m with 1 <= n <= m <= %d, such as 1/10, or all", s, maxSampling)
	of, from, ok := strings.Cut(s, "/")
	if !ok {
		return Sampling{}, bad
	}
	n, err := strconv.ParseUint(of, 10, 32)
	if err != nil {
		return Sampling{}, bad
	}
	m, err := strconv.ParseUint(from, 10, 32)
	if err != nil || n < 1 || n > m || m > maxSampling {
		return Sampling{}, bad
	}
	if n == m {
		return Sampling{}, nil
	}
	return Sampling{n, m}, nil
}

// String is what ParseSampling reads.
func (s Sampling) String() string {
	if s.M == 0 {
		return "all"
	}
	return strconv.FormatUint(s.N, 10) + "/" + strconv.FormatUint(s.M, 10)
}

// MarshalText is String.
func (s Sampling) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseSampling.
func (s *Sampling) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSampling(string(b))
	return err
}

// Takes says whether a connection is among the n. Socket cookies count up by
// one, so they are mixed first (Knuth, TAOCP 6.4: multiplicative hashing).
func (s Sampling) Takes(cookie uint64) bool {
	return s.M == 0 || (cookie*0x9e3779b97f4a7c15>>32)%s.M < s.N
}

// OneIn is how many connections one that is listed stands for, rounded; 0 when
// all are.
func (s Sampling) OneIn() uint64 {
	if s.M == 0 {
		return 0
	}
	return uint64(math.Round(float64(s.M) / float64(s.N)))
}
