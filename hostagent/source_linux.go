package hostagent

import "log/slog"

// sources in the order they are tried.
var sources = []sourceOpener{
	{sourceBTF, func(o sourceOptions, log *slog.Logger) (source, error) {
		k, err := openKernel(o.kernelOptions, log)
		if err != nil {
			return nil, err
		}
		return kernelSource{k}, nil
	}},
	{sourceTracepoint, func(o sourceOptions, _ *slog.Logger) (source, error) {
		return openDiag(o, classicByBPF, sourceTracepoint)
	}},
	{sourcePerf, func(o sourceOptions, _ *slog.Logger) (source, error) { return openDiag(o, classicByPerf, sourcePerf) }},
	{sourceDiag, func(o sourceOptions, _ *slog.Logger) (source, error) { return openDiag(o, classicWay{}, sourceDiag) }},
}

// kernelSource is a kernel, which knows namespaces by their numbers.
type kernelSource struct{ *kernel }

func (k kernelSource) follow(w watchedSpaces) error { return k.kernel.follow(w.inums()) }
