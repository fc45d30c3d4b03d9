package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kingpin/v2"

	"github.com/evenkeel/evenkeel/internal/sim/scheduler"
	"github.com/evenkeel/evenkeel/internal/sim/trainer"
)

// addSimulate adds what the demo starts as processes of their own. It is hidden:
// none of it is of use on a real cluster.
func addSimulate(app *kingpin.Application, add func(*kingpin.CmdClause, func() error), ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) {
	parent := app.Command("simulate", "Processes of the demo's simulated cluster.").Hidden()

	train := parent.Command("trainer", "Train a small MoE model as a job of the simulated cluster.")
	trainConfig := train.Flag("config", "JSON configuration file.").Required().String()
	add(train, func() error {
		f, err := os.Open(*trainConfig)
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		defer f.Close()
		config, err := trainer.DecodeConfig(f)
		if err != nil {
			return err
		}
		config.Events = stdout
		return trainer.Run(ctx, config)
	})

	ctl := parent.Command("schedulerctl", "Speak to the simulated scheduler: one JSON request on standard input, one answer on standard output.")
	add(ctl, func() error {
		if scheduler.Ctl(stdin, stdout, stderr, os.Getenv("EVENKEEL_ENDPOINT")) != 0 {
			return errReported
		}
		return nil
	})
}
