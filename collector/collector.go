package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/evenkeel/evenkeel/collector/api"
	"github.com/evenkeel/evenkeel/collector/engine"
	"github.com/evenkeel/evenkeel/collector/engine/vllm"
	"github.com/evenkeel/evenkeel/collector/expert"
	"github.com/evenkeel/evenkeel/internal/remotewrite"
)

// Collector is the daemon without its flags. Make one with [New].
type Collector struct {
	config   *Config
	logger   *slog.Logger
	registry *prometheus.Registry
	replicas *replicas
	metrics  *metrics
	judge    *judge
	pool     *engine.Pool
	nodes    nodeSource
	writer   *remotewrite.Writer // nil for none
	ready    atomic.Bool
}

// New wires a collector. registry takes its metrics; the version is what it
// calls itself to the store. Nothing is read or sent before Run.
func New(c *Config, registry *prometheus.Registry, version string, logger *slog.Logger) (*Collector, error) {
	devices, err := c.store()
	if err != nil {
		return nil, err
	}
	r := newReplicas(c)
	m := newMetrics(c, r, time.Now)
	registry.MustRegister(m)
	collector := &Collector{
		config: c, logger: logger, registry: registry, replicas: r, metrics: m, nodes: c.nodes(),
		judge: newJudge(c, r, devices, m, logger),
	}
	collector.pool = engine.NewPool(c.Engines.PoolConfig, vllm.Mapping(), c.engines(), collector.scraped, logger)
	if c.RemoteWrite.URL != "" {
		collector.writer, err = remotewrite.New(remotewrite.Options{
			Config: c.RemoteWrite, External: map[string]string{"cluster": c.Cluster}, UserAgent: "evenkeel-collector/" + version,
			Registerer: registry, Logger: logger.With("component", "remote_write"),
		})
		if err != nil {
			return nil, fmt.Errorf("set up remote write: %w", err)
		}
	}
	return collector, nil
}

// Handler serves the collector's HTTP.
func (c *Collector) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/", api.New(c, c, c.config.Access))
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.registry, promhttp.HandlerOpts{Registry: c.registry}))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "healthy") })
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !c.ready.Load() {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

// Accept implements api.Intake.
func (c *Collector) Accept(l *expert.Load) error {
	if l.Cluster != c.config.Cluster {
		return fmt.Errorf("cluster: %q is not this collector's cluster %q", l.Cluster, c.config.Cluster)
	}
	key := replicaKey{l.Model, l.Replica}
	if err := c.replicas.accept(key, measured(l, c.config.ExpertLoad.HotExperts, time.Now())); err != nil {
		return err
	}
	c.metrics.count(posts, postAccepted)
	c.judge.enqueue(key)
	return nil
}

// Refused implements api.Intake.
func (c *Collector) Refused(r api.Refusal) { c.metrics.count(posts, string(r)) }

// Replicas implements api.Replicas.
func (c *Collector) Replicas() api.ReplicaList { return c.replicas.list(time.Now()) }

// scraped takes a scrape's result from the pool.
func (c *Collector) scraped(r engine.Result) {
	result := scrapeOK
	switch {
	case errors.Is(r.Err, engine.ErrNoSeries):
		result = scrapeNoSeries
	case r.Err != nil:
		result = scrapeError
	}
	c.metrics.count(scrapes, result)
	if err := c.replicas.scraped(r); err != nil {
		c.logger.Warn("A reading was refused.", "target", r.Target.Address, "err", err)
	}
}

// Run collects until ctx ends, then waits for what is under way.
func (c *Collector) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for range judges {
		running.Go(func() { c.judge.run(ctx) })
	}
	if c.config.Engines.TargetFile != "" {
		running.Go(func() { c.watchTargets(ctx) })
	}
	if c.nodes != nil {
		running.Go(func() { c.watchNodes(ctx) })
	}
	if c.writer != nil {
		running.Go(func() { c.writer.Push(ctx, c.registry, c.config.PushInterval) })
		running.Go(func() { c.writer.Run(ctx) })
	}
	c.ready.Store(true)
	running.Wait()
	c.ready.Store(false)
	if c.writer != nil {
		return c.writer.Close()
	}
	return nil
}

// watchTargets keeps the pool scraping what the target file says.
func (c *Collector) watchTargets(ctx context.Context) {
	file := engine.TargetFile{Path: c.config.Engines.TargetFile}
	ticker := time.NewTicker(c.config.Engines.RefreshInterval)
	defer ticker.Stop()
	defer c.pool.Wait()
	for lastErr := ""; ; {
		targets, changed, err := file.Read()
		c.metrics.targetFile(err == nil)
		switch {
		case err != nil && err.Error() != lastErr:
			c.logger.Error("The target file is not used; the last good one stays in force.", "err", err)
			lastErr = err.Error()
		case err == nil:
			lastErr = ""
		}
		if changed {
			c.logger.Info("Targets were read.", "targets", len(targets))
			c.replicas.retarget(targets)
			c.pool.Apply(ctx, targets)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// watchNodes keeps the newest list of nodes.
func (c *Collector) watchNodes(ctx context.Context) {
	ticker := time.NewTicker(c.config.Nodes.Interval)
	defer ticker.Stop()
	for down := false; ; {
		err := c.readNodes(ctx)
		if ctx.Err() != nil {
			return
		}
		c.metrics.source("nodes", err == nil, time.Now())
		if now := err != nil; now != down {
			down = now
			if down {
				c.logger.Warn("Node health cannot be read; it is unknown once the last answer is too old.", "err", err)
			} else {
				c.logger.Info("Node health is read again.")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (c *Collector) readNodes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.config.Nodes.Timeout)
	defer cancel()
	list, err := c.nodes.Nodes(ctx)
	if err == nil {
		c.judge.learn(list, time.Now())
	}
	return err
}
