// Command evenkeel-collector joins expert load, KV cache use and node health per
// replica of a model, and tells a busy rank from a sick one.
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
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/promslog/flag"
	build "github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"github.com/evenkeel/evenkeel/collector"
	"github.com/evenkeel/evenkeel/internal/httpserve"
	"github.com/evenkeel/evenkeel/internal/strictyaml"
)

const help = `Joins what inference engines say about their KV caches, what they post about
their experts, what the remediator knows about nodes, and what the metric store
knows about devices. Per replica of a model it exports KV cache hit rates, how
evenly experts load their ranks, and for each slow rank a verdict: busy, sick,
both, or unknown. It acts on nothing.

  GET  /metrics         for Prometheus
  POST /v1/expert-load  counts per layer and expert, role push (docs/expert-load.md)
  GET  /v1/replicas     everything known per replica, with reasons, role read
  GET  /-/healthy, /-/ready

Start from deploy/config/collector.yaml, which explains every setting. Callers
of /v1/ prove who they are with a client certificate (--web.config.file); the
setting access.roles says which names may do what.`

func main() { os.Exit(run()) }

func run() int {
	app := kingpin.New("evenkeel-collector", help)
	app.HelpFlag.Short('h')
	app.Version(build.Print("evenkeel-collector"))
	configFile := app.Flag("config.file", "Configuration file, YAML.").Required().PlaceHolder("FILE").String()
	checkOnly := app.Flag("config.check", "Check the configuration file and exit.").Bool()
	webFlags := kingpinflag.AddFlags(app, ":9102")
	logConfig := &promslog.Config{}
	flag.AddFlags(app, logConfig)
	if _, err := app.Parse(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "evenkeel-collector: %v (try --help)\n", err)
		return 2
	}
	config := collector.DefaultConfig()
	if err := errors.Join(strictyaml.Load(*configFile, &config), config.Access.CheckFlags(webFlags)); err != nil {
		fmt.Fprintf(os.Stderr, "evenkeel-collector: %v\n", err)
		return 1
	}
	if *checkOnly {
		fmt.Printf("%s is valid\n", *configFile)
		return 0
	}
	logger := promslog.New(logConfig)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, &config, webFlags, logger); err != nil {
		logger.Error("The collector ends.", "err", err)
		return 1
	}
	logger.Info("The collector has shut down.")
	return 0
}

func serve(ctx context.Context, config *collector.Config, webFlags *web.FlagConfig, logger *slog.Logger) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		version.NewCollector("evenkeel"),
	)
	c, err := collector.New(config, registry, build.Version, logger)
	if err != nil {
		return err
	}
	logger.Info("The collector starts.", "cluster", config.Cluster, "version", build.Info())
	return serveAndCollect(ctx, c, webFlags, logger)
}

// serveAndCollect serves and collects; whichever ends first ends the other.
func serveAndCollect(ctx context.Context, c *collector.Collector, webFlags *web.FlagConfig, logger *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		defer cancel()
		served <- httpserve.Serve(ctx, webFlags, c.Handler(), logger)
	}()
	collected := c.Run(ctx)
	cancel()
	if err := <-served; err != nil {
		return err
	}
	return collected
}
