// Package collector is the fleet side of observation: it joins what engines say
// about their caches, what they post about their experts, what the remediator
// knows about nodes and what the metric store knows about devices, per replica
// of a model.
//
// It decides how these sources are wired, how long what they said holds, and
// which series leave. It refuses to act on anything: a verdict is a metric and
// an answer, never a request.
package collector

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/sigv4"

	"github.com/evenkeel/evenkeel/collector/correlate"
	"github.com/evenkeel/evenkeel/collector/engine"
	"github.com/evenkeel/evenkeel/collector/nodes"
	"github.com/evenkeel/evenkeel/collector/store"
	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/httpclient"
	"github.com/evenkeel/evenkeel/internal/httpserve"
	"github.com/evenkeel/evenkeel/internal/remotewrite"
)

// Config is the collector's configuration file.
type Config struct {
	// Cluster is the label of everything exported; posts and node lists of another
	// cluster are refused.
	Cluster    string           `yaml:"cluster"`
	Access     httpserve.Access `yaml:"access"`
	Engines    EnginesConfig    `yaml:"engines"`
	KVCache    KVCacheConfig    `yaml:"kv_cache"`
	ExpertLoad ExpertLoadConfig `yaml:"expert_load"`
	Verdict    correlate.Config `yaml:"verdict"`
	Nodes      NodesConfig      `yaml:"nodes"`
	Store      StoreConfig      `yaml:"store"`
	// RemoteWrite pushes the collector's own metrics.
	RemoteWrite remotewrite.Config `yaml:"remote_write"`
	// PushInterval is the time between two pushes.
	PushInterval time.Duration `yaml:"push_interval"`
}

// EnginesConfig says what to scrape and when.
type EnginesConfig struct {
	// TargetFile is in the format of Prometheus's file-based discovery; empty for
	// no engines.
	TargetFile string `yaml:"target_file"`
	// RefreshInterval is how often the file is looked at.
	RefreshInterval   time.Duration `yaml:"refresh_interval"`
	engine.PoolConfig `yaml:",inline"`
	TLS               httpclient.TLS `yaml:"tls"`
}

// KVCacheConfig says over which window hit rates are taken.
type KVCacheConfig struct {
	Window time.Duration `yaml:"window"`
}

// ExpertLoadConfig bounds what is kept and exported of expert load.
type ExpertLoadConfig struct {
	// StaleAfter is how long a posted window holds.
	StaleAfter time.Duration `yaml:"stale_after"`
	// HotExperts is how many of the hottest experts are told.
	HotExperts int `yaml:"hot_experts"`
	// RanksExported bounds the ranks of one replica that become series: those that
	// are not normal first, then the most loaded.
	RanksExported int `yaml:"ranks_exported"`
	// MaxReplicas bounds how many replicas are known at once.
	MaxReplicas int `yaml:"max_replicas"`
}

// NodesConfig says where node health comes from.
type NodesConfig struct {
	// URL of the remediator's /v1/nodes; empty for none, and every device's health
	// is then unknown.
	URL      string        `yaml:"url"`
	Interval time.Duration `yaml:"interval"`
	Timeout  time.Duration `yaml:"timeout"`
	// StaleIntervals is after how many intervals an answer says nothing any more.
	StaleIntervals int            `yaml:"stale_intervals"`
	TLS            httpclient.TLS `yaml:"tls"`
}

// StaleAfter is the age at which an answer is no longer current.
func (c NodesConfig) StaleAfter() time.Duration { return c.Interval * time.Duration(c.StaleIntervals) }

// StoreConfig says where device numbers come from.
type StoreConfig struct {
	// URL is the base of the Prometheus HTTP API; empty for none.
	URL string `yaml:"url"`
	// Freshness is the age from which a sample says nothing about now.
	Freshness time.Duration  `yaml:"freshness"`
	Timeout   time.Duration  `yaml:"timeout"`
	TLS       httpclient.TLS `yaml:"tls"`
	// SigV4 signs requests to Managed Prometheus; absent for no signing.
	SigV4 *sigv4.SigV4Config `yaml:"sigv4"`
}

// DefaultConfig has every value that can have a default.
func DefaultConfig() Config {
	return Config{
		Engines: EnginesConfig{
			RefreshInterval: 5 * time.Second,
			PoolConfig:      engine.PoolConfig{Interval: 15 * time.Second, Timeout: 5 * time.Second, Concurrency: 16},
		},
		KVCache:      KVCacheConfig{Window: 5 * time.Minute},
		ExpertLoad:   ExpertLoadConfig{StaleAfter: time.Minute, HotExperts: 8, RanksExported: 400, MaxReplicas: 1000},
		Verdict:      correlate.DefaultConfig(),
		Nodes:        NodesConfig{Interval: 5 * time.Second, Timeout: 5 * time.Second, StaleIntervals: 6},
		Store:        StoreConfig{Freshness: time.Minute, Timeout: 5 * time.Second},
		RemoteWrite:  remotewrite.DefaultConfig(),
		PushInterval: 15 * time.Second,
	}
}

// Validate names every field that is wrong.
func (c *Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	positive := func(field string, d time.Duration) {
		if d <= 0 {
			bad(field, "must be positive, got %s", d)
		}
	}
	between := func(field string, v, low, high int) {
		if v < low || v > high {
			bad(field, "must be %d to %d, got %d", low, high, v)
		}
	}
	prefixed := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s.%w", field, err))
		}
	}
	if !fault.ValidName(c.Cluster) {
		bad("cluster", "%.64q is not a name", c.Cluster)
	}
	errs = append(errs, c.Access.Validate())

	positive("engines.refresh_interval", c.Engines.RefreshInterval)
	prefixed("engines", c.Engines.PoolConfig.Validate())
	errs = append(errs, c.Engines.TLS.Validate("engines.tls"))
	if c.KVCache.Window < 2*c.Engines.Interval {
		bad("kv_cache.window", "must hold at least two scrapes (engines.scrape_interval is %s), got %s", c.Engines.Interval, c.KVCache.Window)
	}

	positive("expert_load.stale_after", c.ExpertLoad.StaleAfter)
	between("expert_load.hot_experts", c.ExpertLoad.HotExperts, 0, 100)
	between("expert_load.ranks_exported", c.ExpertLoad.RanksExported, 1, 4096)
	between("expert_load.max_replicas", c.ExpertLoad.MaxReplicas, 1, 100_000)
	prefixed("verdict", c.Verdict.Validate())

	positive("nodes.interval", c.Nodes.Interval)
	positive("nodes.timeout", c.Nodes.Timeout)
	between("nodes.stale_intervals", c.Nodes.StaleIntervals, 1, 1000)
	errs = append(errs, c.Nodes.TLS.Validate("nodes.tls"))
	if c.Nodes.URL != "" {
		errs = append(errs, httpclient.ValidateURL("nodes.url", c.Nodes.URL))
	}

	positive("store.freshness", c.Store.Freshness)
	positive("store.timeout", c.Store.Timeout)
	errs = append(errs, c.Store.TLS.Validate("store.tls"))
	if c.Store.URL != "" {
		errs = append(errs, httpclient.ValidateURL("store.url", c.Store.URL))
	}
	if c.Store.SigV4 != nil {
		if err := c.Store.SigV4.Validate(); err != nil {
			bad("store.sigv4", "%v", err)
		}
	}
	errs = append(errs, c.RemoteWrite.Validate())
	if c.RemoteWrite.URL != "" && c.RemoteWrite.Spool.Path == "" {
		bad("remote_write.spool.path", "must be set")
	}
	positive("push_interval", c.PushInterval)
	return errors.Join(errs...)
}

// nodes is the client of the remediator, nil if there is none.
func (c *Config) nodes() nodeSource {
	if c.Nodes.URL == "" {
		return nil
	}
	return &nodes.Client{URL: c.Nodes.URL, Cluster: c.Cluster, HTTP: httpclient.New("nodes", c.Nodes.TLS)}
}

// store is the client of the metric store, nil if there is none.
func (c *Config) store() (deviceSource, error) {
	if c.Store.URL == "" {
		return nil, nil
	}
	wraps := []httpclient.Wrap{store.Bound}
	if c.Store.SigV4 != nil {
		wraps = append(wraps, store.Sign(c.Store.SigV4))
	}
	return store.New(c.Store.URL, c.Cluster, c.Store.Freshness, httpclient.New("store", c.Store.TLS, wraps...))
}

// engines is the client that scrapes.
func (c *Config) engines() *http.Client { return httpclient.New("engines", c.Engines.TLS) }
