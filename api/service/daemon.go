package service

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
)

// LogConfig chooses what a service logs to stderr, and how.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text, json
}

// Daemon is a long-running subcommand with a configuration of type C: it takes
// --config, --check and --dump, and reads its configuration anew on SIGHUP.
type Daemon[C any] struct {
	// Load reads the file over the defaults, then the environment, and validates.
	Load func(file string) (C, error)
	// Log picks the logging out of a configuration.
	Log func(C) LogConfig
	// Check looks at what only a start would show: files that are named.
	Check func(C, *slog.Logger) error
	// Needs says which privileges it takes to go on: those that are not among them
	// are given up when all is up. Nil keeps all.
	Needs func(C) Needs
	// Serve runs until ctx is done.
	Serve func(context.Context, C, *slog.Logger) error
}

// Attach makes cmd, which holds the words for users, run the daemon.
func (d Daemon[C]) Attach(cmd *cobra.Command) *cobra.Command {
	var file string
	var check, dump bool
	cmd.Args = cobra.NoArgs
	cmd.SilenceUsage = true
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := d.Load(file)
		if dump {
			// What is in force is worth seeing even when it does not do.
			text, derr := DumpConfig(cfg)
			if derr != nil {
				return derr
			}
			if _, werr := cmd.OutOrStdout().Write(text); werr != nil {
				return werr
			}
		}
		if err != nil {
			return err
		}
		log, err := d.logger(cfg)
		if err != nil {
			return err
		}
		if check {
			if err := d.Check(cfg, log); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "configuration is valid")
		}
		if check || dump {
			return nil
		}
		ctx, stop := Signals(cmd.Context())
		defer stop()
		hangup, stopHangups := hangups()
		defer stopHangups()
		return d.serve(ctx, file, cfg, log, hangup)
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration `file` (YAML)")
	cmd.Flags().BoolVar(&check, "check", false, "check the configuration and the files it names, then exit")
	cmd.Flags().BoolVar(&dump, "dump", false, "print the configuration in force, then exit")
	return cmd
}

func (d Daemon[C]) logger(cfg C) (*slog.Logger, error) {
	l := d.Log(cfg)
	log, err := Logger(l.Level, l.Format)
	if err != nil {
		return nil, fmt.Errorf("configuration: log: %w", err)
	}
	return log, nil
}
