//go:build !linux

package service

import "log/slog"

// giveUp does nothing: capabilities are Linux's.
func giveUp(Needs, *slog.Logger) (given capabilities) { return 0 }
