package agentconfig

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Survey has an agent look for all equal-cost paths to some destinations, again
// and again, with what its traces leave of the host's budget. The zero value
// looks for none.
type Survey struct {
	Every time.Duration
	To    []netip.AddrPort
	// Confidence is how sure to be of every next hop, in percent: 95 or 99; 0: 95.
	Confidence int
}

// Bounds of Survey. A round sends some hundred probes for each destination.
const (
	MinSurvey    = 10 * time.Second
	MaxSurvey    = 24 * time.Hour
	maxSurveyTo  = 64
	surveySample = "10m,10.0.1.1:443,[2001:db8::1]:443"
)

// ParseSurvey reads "10m,10.0.1.1:443,[2001:db8::1]:443", with ",99%" where
// wanted; or "off".
func ParseSurvey(s string) (Survey, error) {
	if s == "off" {
		return Survey{}, nil
	}
	parts := strings.Split(s, ",")
	every, err := time.ParseDuration(strings.TrimSpace(parts[0]))
	if err != nil {
		return Survey{}, fmt.Errorf("%q: write how often, then where to, as %s; or off", s, surveySample)
	}
	v := Survey{Every: every}
	for _, part := range parts[1:] {
		part = strings.TrimSpace(part)
		if percent, ok := strings.CutSuffix(part, "%"); ok && v.Confidence == 0 {
			if v.Confidence, err = strconv.Atoi(percent); err != nil || v.Confidence == 0 {
				return Survey{}, fmt.Errorf("%q: write 95%% or 99%%", part)
			}
			continue
		}
		to, err := netip.ParseAddrPort(part)
		if err != nil {
			return Survey{}, fmt.Errorf("%q: write where to as ADDRESS:PORT: %s", part, surveySample)
		}
		v.To = append(v.To, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	}
	return v, v.Validate()
}

// Validate says what is wrong with a survey that is to be made.
func (v Survey) Validate() error {
	switch {
	case v.Every < MinSurvey || v.Every > MaxSurvey:
		return fmt.Errorf("survey every %v: give %v to %v", v.Every, MinSurvey, MaxSurvey)
	case len(v.To) == 0 || len(v.To) > maxSurveyTo:
		return fmt.Errorf("survey of %d destinations: give 1 to %d as ADDRESS:PORT: %s", len(v.To), maxSurveyTo, surveySample)
	case v.Confidence != 0 && v.Confidence != 95 && v.Confidence != 99:
		return fmt.Errorf("survey with confidence %d %%: give 95 or 99", v.Confidence)
	}
	for _, to := range v.To {
		if a := to.Addr(); !to.IsValid() || to.Port() == 0 || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "" {
			return fmt.Errorf("survey to %v: give another host's address and a port, as %s", to, surveySample)
		}
	}
	return nil
}

// String is what ParseSurvey reads.
func (v Survey) String() string {
	if v.Every == 0 {
		return "off"
	}
	parts := []string{v.Every.String()}
	for _, to := range v.To {
		parts = append(parts, to.String())
	}
	if v.Confidence != 0 {
		parts = append(parts, strconv.Itoa(v.Confidence)+"%")
	}
	return strings.Join(parts, ",")
}

// MarshalText is String.
func (v Survey) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText is ParseSurvey.
func (v *Survey) UnmarshalText(text []byte) (err error) {
	*v, err = ParseSurvey(string(text))
	return err
}
