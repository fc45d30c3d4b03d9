package store

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"runtime"
	"time"

	"github.com/grafana/regexp"
	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/common/route"
	"github.com/prometheus/common/version"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/notifications"
	webapi "github.com/prometheus/prometheus/web/api/v1"
)

const (
	// Prometheus's own defaults for remote read.
	remoteReadSamples     = 5e7
	remoteReadConcurrency = 10
	remoteReadFrameBytes  = 1 << 20
)

// newAPI builds Prometheus's own HTTP API over the store. Everything that a
// store without scrapes lacks (targets, Alertmanagers found by discovery,
// notifications to the user interface) answers as empty.
func (s *Store) newAPI(dir string) http.Handler {
	started := time.Now()
	api := webapi.NewAPI(
		s.engine, // qe
		s.db,     // q
		s.db,     // apV2: where remote write appends
		s.db,     // eq
		func(context.Context) webapi.ScrapePoolsRetriever { return nothing{} },  // spsr
		func(context.Context) webapi.TargetRetriever { return nothing{} },       // tr
		func(context.Context) webapi.AlertmanagerRetriever { return nothing{} }, // ar
		func() config.Config { return config.DefaultConfig },                    // configFunc
		map[string]string{},       // flagsMap
		webapi.GlobalURLOptions{}, // globalURLOptions
		func(next http.HandlerFunc) http.HandlerFunc { return next }, // readyFunc: ready once opened
		statistics{s.db},                  // db
		dir,                               // dbDir
		false,                             // enableAdmin
		false,                             // enableSearch
		0,                                 // maxSearchLimit
		s.logger.With("component", "api"), // logger
		func(context.Context) webapi.RulesRetriever { return s.rules }, // rr
		remoteReadSamples,        // remoteReadSampleLimit
		remoteReadConcurrency,    // remoteReadConcurrencyLimit
		remoteReadFrameBytes,     // remoteReadMaxBytesInFrame
		false,                    // isAgent
		regexp.MustCompile(`^$`), // corsOrigin: no page of another origin may call
		func() (webapi.RuntimeInfo, error) { return runtimeInfo(started), nil },                   // runtimeInfo
		&webapi.PrometheusVersion{Version: version.Version, GoVersion: runtime.Version()},         // buildInfo
		func() []notifications.Notification { return nil },                                        // notificationsGetter
		func() (<-chan notifications.Notification, func(), bool) { return nil, func() {}, false }, // notificationsSub
		s.registry, // gatherer
		s.registry, // registerer
		nil,        // statsRenderer: the default
		true,       // rwEnabled
		remoteapi.MessageTypes{remoteapi.WriteV1MessageType}, // acceptRemoteWriteProtoMsgs
		false,                   // otlpEnabled
		false,                   // otlpDeltaToCumulative
		false,                   // otlpNativeDeltaIngestion
		lookback,                // lookbackDelta
		false,                   // enableTypeAndUnitLabels
		false,                   // appendMetadata
		nil,                     // overrideErrorCode: the default
		features.NewRegistry(),  // featureRegistry
		webapi.OpenAPIOptions{}, // openAPIOptions
		s.parser,                // promqlParser
		false,                   // enableQueryCost
		queryTimeout,            // queryTimeoutFlag
	)
	router := route.New().WithPrefix("/api/v1")
	api.Register(router)
	return router
}

func runtimeInfo(started time.Time) webapi.RuntimeInfo {
	return webapi.RuntimeInfo{
		StartTime:           started,
		ServerTime:          time.Now(),
		ReloadConfigSuccess: true,
		LastConfigTime:      started,
		GoroutineCount:      runtime.NumGoroutine(),
		GOMAXPROCS:          runtime.GOMAXPROCS(0),
	}
}

// nothing is what a store that scrapes nothing knows of targets and of
// Alertmanagers.
type nothing struct{}

func (nothing) ScrapePools() []string                       { return nil }
func (nothing) TargetsActive() map[string][]*scrape.Target  { return nil }
func (nothing) TargetsDropped() map[string][]*scrape.Target { return nil }
func (nothing) TargetsDroppedCounts() map[string]int        { return nil }
func (nothing) Alertmanagers() []*url.URL                   { return nil }
func (nothing) DroppedAlertmanagers() []*url.URL            { return nil }
func (nothing) ScrapePoolConfig(string) (*config.ScrapeConfig, error) {
	return nil, errors.New("this store scrapes nothing")
}

// statistics is the TSDB as the API's status pages want it.
type statistics struct{ *tsdb.DB }

func (s statistics) BlockMetas() ([]tsdb.BlockMeta, error) { return s.DB.BlockMetas(), nil }

func (s statistics) Stats(label string, limit int) (*tsdb.Stats, error) {
	return s.Head().Stats(label, limit), nil
}

// WALReplayStatus is that of a log read to its end: Open returns after it.
func (statistics) WALReplayStatus() (tsdb.WALReplayStatus, error) { return tsdb.WALReplayStatus{}, nil }
