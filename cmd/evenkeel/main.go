// Command evenkeel is the operator's tool: it looks at checkpoints, prints the
// catalogue of faults, and runs the whole of Evenkeel on one machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"

	"github.com/evenkeel/evenkeel/cmd/evenkeel/demo"
	"github.com/evenkeel/evenkeel/internal/fault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// errReported ends the command with status 1 without another message.
var errReported = errors.New("reported")

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := kingpin.New("evenkeel", "Looks after large MoE training and inference clusters: see `evenkeel demo` for the whole of it on this machine.")
	app.Version(version.Print("evenkeel"))
	app.UsageWriter(stderr).ErrorWriter(stderr)
	app.HelpFlag.Short('h')

	commands := map[string]func() error{}
	add := func(cmd *kingpin.CmdClause, do func() error) { commands[cmd.FullCommand()] = do }

	addDemo(app, add, ctx, stdout)
	addCheckpoint(app, add, ctx, stdout)
	addSimulate(app, add, ctx, stdin, stdout, stderr)
	add(app.Command("faults", "Print the catalogue of faults as Markdown: every kind, how it is confirmed, what clears it."), func() error {
		return fault.WriteMarkdown(stdout, fault.NewCatalogue(fault.DefaultTiming()))
	})

	command, err := app.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "evenkeel: %v (try --help)\n", err)
		return 2
	}
	switch err := commands[command](); {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return 1
	default:
		fmt.Fprintf(stderr, "evenkeel: %v\n", err)
		return 1
	}
}

func addDemo(app *kingpin.Application, add func(*kingpin.CmdClause, func() error), ctx context.Context, stdout io.Writer) {
	cmd := app.Command("demo", "Run agents, collector and remediator with the shipped rules and policy against a simulated cluster on loopback: a GPU that falls off the bus, a hot expert, a fabric fault on four nodes, a silent node.")
	options := demo.Options{Stdout: stdout}
	cmd.Flag("once", "End after the last scene; the exit status says whether every scene went right.").BoolVar(&options.Once)
	cmd.Flag("dir", "Folder for the demo's files, kept afterwards. The default is a temporary folder that is removed.").StringVar(&options.Dir)
	cmd.Flag("bin", "Folder with the other three binaries. The default is the folder of this one.").StringVar(&options.Bin)
	cmd.Flag("scene", "Run only this scene (a, b, c or d; repeatable).").EnumsVar(&options.Scenes, "a", "b", "c", "d")
	add(cmd, func() error {
		if err := demo.Run(ctx, options); err != nil {
			if errors.Is(err, demo.ErrSceneFailed) {
				return errReported
			}
			return err
		}
		return nil
	})
}
