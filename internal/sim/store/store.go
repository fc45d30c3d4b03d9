// Package store is a Prometheus and an Alertmanager inside one process: what a
// simulated cluster has where a real one has its metric store. It is made of
// their own libraries, so samples, queries, rules and alerts mean here what they
// mean there.
//
// The store takes remote write 1.0, answers the Prometheus HTTP API, evaluates
// the rule files it is given, and hands firing alerts to Alertmanager's v2 API.
// It refuses samples that are out of order, like a Prometheus without an
// out-of-order window. It scrapes nothing, sends no notification, and is no
// store for a real cluster.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/tsdb"
)

// Options say where a store lives and what it evaluates.
type Options struct {
	// Dir is an existing folder that the store may fill; samples survive in it.
	Dir string
	// Rules are rule files as a Prometheus would load them.
	Rules [][]byte
	// Logger is where the parts report; nil discards.
	Logger *slog.Logger
}

const (
	// queryTimeout bounds one query, and maxSamples what it may hold in memory
	// (about 16 bytes each). Both are far above what a simulated cluster asks for.
	queryTimeout = 30 * time.Second
	maxSamples   = 5_000_000
	// lookback is how long the newest sample of a series stands, Prometheus's own.
	lookback = 5 * time.Minute
)

// Store is a running store. Its handlers may be used until Close.
type Store struct {
	logger   *slog.Logger
	registry *prometheus.Registry
	parser   parser.Parser
	db       *tsdb.DB
	engine   *promql.Engine
	rules    *rules.Manager
	alerts   *alertmanager
	api      http.Handler

	running     sync.WaitGroup // the rule manager
	cancelRules context.CancelFunc
}

// Open starts a store. A rule file that a Prometheus would refuse is an error.
func Open(o Options) (*Store, error) {
	s := &Store{
		logger:   o.Logger,
		registry: prometheus.NewRegistry(),
		parser:   parser.NewParser(parser.Options{}),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if err := s.open(o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open(o Options) (err error) {
	options := tsdb.DefaultOptions()
	options.OutOfOrderTimeWindow = 0 // order is part of what is tested with this store
	dir := filepath.Join(o.Dir, "tsdb")
	if s.db, err = tsdb.Open(dir, s.logger.With("component", "tsdb"), s.registry, options, nil); err != nil {
		return fmt.Errorf("open TSDB in %s: %w", dir, err)
	}
	s.engine = promql.NewEngine(promql.EngineOpts{
		Logger:               s.logger.With("component", "query engine"),
		Reg:                  s.registry,
		MaxSamples:           maxSamples,
		Timeout:              queryTimeout,
		LookbackDelta:        lookback,
		EnableAtModifier:     true,
		EnableNegativeOffset: true,
		Parser:               s.parser,
	})
	if s.alerts, err = newAlertmanager(s.logger.With("component", "alertmanager")); err != nil {
		return fmt.Errorf("start Alertmanager: %w", err)
	}
	if err := s.startRules(o.Rules); err != nil {
		return err
	}
	s.api = s.newAPI(dir)
	return nil
}

// Handler serves the Prometheus API under /api/v1/ (remote write at
// /api/v1/write), /metrics of the store itself, and /-/healthy and /-/ready.
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", s.api)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	for _, path := range []string{"GET /-/healthy", "GET /-/ready"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "The store is ready.") })
	}
	return mux
}

// AlertmanagerHandler serves Alertmanager's API under /api/v2/. Alerts and
// silences work as in an Alertmanager; alert groups do not exist, as nothing is
// notified.
func (s *Store) AlertmanagerHandler() http.Handler { return s.alerts.handler }

// Close stops evaluating and closes the storage.
func (s *Store) Close() error {
	var errs []error
	if s.rules != nil {
		s.cancelRules()
		s.rules.Stop()
		s.running.Wait()
	}
	if s.alerts != nil {
		s.alerts.close()
	}
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}
