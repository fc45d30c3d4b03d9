// The command evenkeel-remediator takes the nodes' reports, decides what is to
// be done, does it within the policy's guards, and remembers it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"
	"go.yaml.in/yaml/v3"

	"github.com/evenkeel/evenkeel/internal/httpserve"
	"github.com/evenkeel/evenkeel/remediate"
)

const help = `Evenkeel's remediator: it takes the reports of the nodes' agents, judges them by a policy, and
isolates, replaces and resumes within the policy's guards.

Without policy_file in the configuration it uses the shipped policy "observe": nothing is touched, and
incidents show what would have been done. Look at them first:

  evenkeel-remediator --config.file=remediator.yaml --config.check
  evenkeel-remediator --config.file=remediator.yaml --web.config.file=web.yaml
  curl --cert operator.pem --key operator.key https://HOST:9103/v1/incidents

Callers are known by the DNS names of their client certificates, so a web configuration with
client_auth_type VerifyClientCertIfGiven is needed for anything but /metrics and /-/.

To stop everything that is not sent yet, at any time and across restarts:

  curl --cert operator.pem --key operator.key -X PUT https://HOST:9103/v1/kill-switch`

func main() { os.Exit(run()) }

func run() int {
	app := kingpin.New("evenkeel-remediator", help).UsageWriter(os.Stdout)
	app.HelpFlag.Short('h')
	app.Version(version.Print("evenkeel-remediator"))
	configFile := app.Flag("config.file", "Configuration file.").Default("remediator.yaml").String()
	stateDir := app.Flag("path.state", "Folder of the journal, which must outlive the process: it holds what was intended and what came of it.").
		Default("/var/lib/evenkeel-remediator").String()
	checkOnly := app.Flag("config.check", "Validate the configuration and its policy, print the policy in force with all defaults, and exit.").Bool()
	webFlags := kingpinflag.AddFlags(app, ":9103")
	logConfig := &promslog.Config{}
	promslogflag.AddFlags(app, logConfig)
	if _, err := app.Parse(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "evenkeel-remediator: %v, try --help\n", err)
		return 2
	}
	logger := promslog.New(logConfig)

	config, policy, err := remediate.LoadConfig(*configFile)
	if err != nil {
		fmt.Fprintf(os.Stderr, "evenkeel-remediator: %v\n", err)
		return 1
	}
	if *checkOnly {
		effective, err := yaml.Marshal(policy)
		if err != nil {
			fmt.Fprintf(os.Stderr, "evenkeel-remediator: print policy: %v\n", err)
			return 1
		}
		fmt.Printf("# %s is valid. The policy in force:\n%s", *configFile, effective)
		return 0
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	logger.Info("Starting evenkeel-remediator", "version", version.Info(), "cluster", config.Cluster, "policy", policy.Version)
	options := remediate.Options{Config: config, Policy: policy, StateDir: *stateDir, Logger: logger}
	if err := serve(ctx, options, webFlags, logger); err != nil {
		logger.Error("Ended", "err", err)
		return 1
	}
	logger.Info("Ended")
	return 0
}

// serve runs the remediator and its HTTP side by side until ctx ends or one of
// them does.
func serve(ctx context.Context, o remediate.Options, flags *web.FlagConfig, logger *slog.Logger) (err error) {
	if err := o.Config.Access.CheckFlags(flags); err != nil {
		return err
	}
	if *flags.WebConfigFile == "" && !o.Config.Access.Insecure {
		logger.Warn("Without --web.config.file no caller can prove its name: every report will be refused")
	}
	remediator, err := remediate.New(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remediator.Close()) }()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		defer cancel()
		served <- httpserve.Serve(ctx, flags, remediator.Handler(), logger)
	}()
	err = remediator.Run(ctx)
	cancel()
	return errors.Join(err, <-served)
}
