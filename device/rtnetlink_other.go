//go:build !linux

package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"
)

// counterSource and routeSource are there on Linux only.
type (
	counterSource struct{}
	routeSource   struct{}
)

func notLinux(what string) error {
	return fmt.Errorf("%s: this is %s, and the agent reads them by Linux's netlink: switch the source off: %w", what, runtime.GOOS, errors.ErrUnsupported)
}

func openCounters(CountersConfig, func(time.Time) time.Time, func(uint32) ranges, *slog.Logger) (*counterSource, error) {
	return nil, notLinux("counters")
}

func openRoutes(RoutesConfig, func(uint32) string, *slog.Logger) (*routeSource, error) {
	return nil, notLinux("routes")
}

func openNames(*slog.Logger) (func(uint32) string, func(), error) {
	return nil, nil, notLinux("interfaces")
}

func (*counterSource) observe(context.Context, func(observed)) error { return errors.ErrUnsupported }
func (*counterSource) explain(side, uint32, uint64, uint64)          {}
func (*counterSource) rules() []RuleSet                              { return nil }
func (*counterSource) tellRules(func([]ruleRecord))                  {}
func (*counterSource) readRulesNow() bool                            { return false }
func (*counterSource) interfaces() []InterfaceCounters               { return nil }
func (*counterSource) left() counterCounts                           { return counterCounts{} }
func (*counterSource) close()                                        {}

func (*routeSource) observe(context.Context, routeTeller) error      { return errors.ErrUnsupported }
func (*routeSource) over(uint32) ranges                              { return ranges{} }
func (*routeSource) left() (c routeCounts, flapping, leftOut uint64) { return c, 0, 0 }
func (*routeSource) close()                                          {}
