// Command evenkeel-agent watches one node: it reads the kernel log and the
// devices, and lets out what is wrong as metrics and as reports to the
// remediator. It changes nothing on the node.
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
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"github.com/evenkeel/evenkeel/agent"
	"github.com/evenkeel/evenkeel/internal/httpserve"
	"github.com/evenkeel/evenkeel/internal/strictyaml"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := kingpin.New("evenkeel-agent", "Watches one node's accelerators, links and kernel log, and lets out what is wrong as metrics and as reports to the remediator. It changes nothing on the node.")
	app.UsageWriter(stdout).ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	showVersion := app.Flag("version", "Show the version and exit.").Bool()
	configFile := app.Flag("config.file", "Configuration file (YAML).").Default("/etc/evenkeel/agent.yaml").String()
	checkOnly := app.Flag("config.check", "Check the configuration file and exit.").Bool()
	var paths agent.Paths
	app.Flag("path.state", "Folder for what survives a restart: findings, the place in the kernel log, unsent samples.").Default("/var/lib/evenkeel-agent").StringVar(&paths.State)
	app.Flag("path.kmsg", "Kernel log. A regular file of raw records stands in for the device, and what is found in it is marked as simulated.").Default("/dev/kmsg").StringVar(&paths.Kmsg)
	app.Flag("path.boot-id", "File with the id of the present boot.").Default("/proc/sys/kernel/random/boot_id").StringVar(&paths.BootID)
	app.Flag("path.instance-id", "File with the id of the instance.").Default("/sys/devices/virtual/dmi/id/board_asset_tag").StringVar(&paths.InstanceID)
	app.Flag("path.devices", "JSON file that stands in for the node's accelerators; empty for none.").StringVar(&paths.Devices)
	webFlags := kingpinflag.AddFlags(app, ":9101")
	logConfig := promslog.Config{Writer: stderr}
	promslogflag.AddFlags(app, &logConfig)
	terminated := false
	app.Terminate(func(int) { terminated = true }) // --help

	if _, err := app.Parse(args); terminated {
		return 0
	} else if err != nil {
		fmt.Fprintf(stderr, "evenkeel-agent: %v (try --help)\n", err)
		return 2
	}
	if *showVersion {
		fmt.Fprintln(stdout, version.Print("evenkeel-agent"))
		return 0
	}
	config := agent.DefaultConfig()
	if err := strictyaml.Load(*configFile, &config); err != nil {
		fmt.Fprintf(stderr, "evenkeel-agent: %v\n", err)
		return 2
	}
	if *checkOnly {
		fmt.Fprintf(stdout, "%s is valid\n", *configFile)
		return 0
	}

	logger := promslog.New(&logConfig)
	logger.Info("Starting evenkeel-agent", "version", version.Info(), "build_context", version.BuildContext())
	a, err := agent.New(agent.Options{Config: config, Paths: paths, Logger: logger})
	if err != nil {
		logger.Error("Cannot start", "err", err)
		return 1
	}
	handler, err := a.Handler()
	if err != nil {
		logger.Error("Cannot start", "err", err)
		return 1
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		err := httpserve.Serve(ctx, webFlags, handler, logger)
		cancel() // an agent that cannot be reached ends, and is started again
		served <- err
	}()
	if err := errors.Join(a.Run(ctx), <-served); err != nil {
		logger.Error("Ended with an error", "err", err)
		return 1
	}
	logger.Info("Ended")
	return 0
}
